"""embed, words, compare, tokenize."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.text import Text

from polyseme.cli import session, tables
from polyseme.vectors import Pooling, Truncation

Json = Annotated[bool, typer.Option("--json", help="print JSON, one object a line")]
Texts = Annotated[list[str] | None, typer.Argument(help="texts; without any, the lines of stdin")]
LONG = "what happens to texts longer than the model reads"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(embed)
    app.command()(words)
    app.command()(compare)
    app.command()(tokenize)


def embed(
    context: typer.Context,
    *,
    texts: Texts = None,
    pooling: Annotated[Pooling | None, typer.Option(help="default: the model's own")] = None,
    dimensions: Annotated[int, typer.Option(min=0, help="keep the first so many; 0: all")] = 0,
    prompt: Annotated[str | None, typer.Option(help="put in front of each text")] = None,
    prompt_name: Annotated[str | None, typer.Option(help="one of the model's prompts")] = None,
    truncation: Annotated[Truncation | None, typer.Option(help=LONG)] = None,
    npy: Annotated[
        Path | None, typer.Option(help="write the vectors, (n, dimensions), as a .npy file")
    ] = None,
    as_json: Json = False,
) -> None:
    """One vector a text. Blank lines of stdin are passed over; with --npy, whose rows have
    nothing but their places, they are refused.

    Example: polyseme embed "Apple was juicy" "Apple stock crashed today"

    Example: polyseme embed --npy vectors.npy < lines.txt
    """
    run = session.of(context, as_json)
    inputs = session.texts_or_stdin(texts, blank_refused=npy is not None)
    with run.client() as client:
        found = client.embed(
            inputs,
            pooling=pooling,
            dimensions=dimensions,
            prompt=prompt,
            prompt_name=prompt_name,
            truncation=truncation,
        )
    if npy is not None:
        np.save(npy, found.array)
        session.say(f"{npy}: {found.shape[0]} x {found.shape[1]} float32")
        return
    fingerprint = found.fingerprint.combined if found.fingerprint else ""
    table = tables.table("tokens", "vector", "text", right=["tokens"])
    for text, vector, count in zip(inputs, found.array, found.tokens, strict=True):
        cut = f"{count.used} of {count.total}" if count.truncated else str(count.total)
        table.add_row(cut, tables.head(vector), Text(text))
    run.show_all(
        (
            {"text": text, "vector": vector, "tokens": count, "fingerprint": fingerprint}
            for text, vector, count in zip(inputs, found.array, found.tokens, strict=True)
        ),
        table,
    )


def words(
    context: typer.Context,
    *,
    texts: Texts = None,
    word: Annotated[
        str | None, typer.Option(help="only this word, in every text; default: all words")
    ] = None,
    truncation: Annotated[Truncation | None, typer.Option(help=LONG)] = None,
    as_json: Json = False,
) -> None:
    """One vector a word, in the context of its text, with its place.

    Example: polyseme words "Apple stock crashed today"

    Example: polyseme words --word Apple "Apple was juicy" "Apple stock crashed" --json
    """
    run = session.of(context, as_json)
    inputs = session.texts_or_stdin(texts)
    with run.client() as client:
        found = client.words(inputs, word, truncation=truncation)
    table = tables.table("text", "word", "span", "tokens", "vector", right=["text", "tokens"])
    for i, of_text in enumerate(found, start=1):
        for w in of_text:
            span = f"{w.span.start}..{w.span.end}"
            table.add_row(str(i), Text(w.word), span, str(w.tokens), tables.head(w.vector))
    run.show_all(({"text": t, "words": w} for t, w in zip(inputs, found, strict=True)), table)


def compare(
    context: typer.Context,
    *,
    word: Annotated[str, typer.Argument(help="the word that the sentences share")],
    sentences: Annotated[list[str], typer.Argument(help="two or more sentences with it")],
    senses: Annotated[
        str | None,
        typer.Option(help="its sense in each sentence, comma-separated, to get the margins"),
    ] = None,
    as_json: Json = False,
) -> None:
    """What context adds: a word in several sentences, averaged, as sentences, and in context.

    Example: polyseme compare apple "Apple was juicy" "Apple stock crashed today"

    Example: polyseme compare bank "The bank lent money" "A bank account" "The river bank"
    "Banks of the Nile" --senses money,money,river,river
    """
    run = session.of(context, as_json)
    labels = None if senses is None else [label.strip() for label in senses.split(",")]
    if labels is not None and len(labels) != len(sentences):
        given = f"{len(labels)} senses for {len(sentences)} sentences"
        session.fail(f"--senses: {given}", session.Exit.USAGE)
    with run.client() as client:
        found = client.compare(word, sentences, senses=labels)
    run.show(found, tables.comparison(found))


def tokenize(
    context: typer.Context,
    *,
    texts: Texts = None,
    special_tokens: Annotated[bool, typer.Option(help="with [CLS], [SEP] and such")] = True,
    as_json: Json = False,
) -> None:
    """What the model reads: tokens, their numbers, their places.

    Example: polyseme tokenize "Polysemes are words with several senses."
    """
    run = session.of(context, as_json)
    inputs = session.texts_or_stdin(texts)
    with run.client() as client:
        found = client.tokenize(inputs, special_tokens=special_tokens)
    table = tables.table("text", "token", "id", "span", right=["text", "id"])
    for i, of_text in enumerate(found, start=1):
        for token in of_text:
            span = "" if token.span is None else f"{token.span.start}..{token.span.end}"
            style = "dim" if token.special else ""
            table.add_row(str(i), Text(token.text, style=style), str(token.id), span)
    run.show_all(({"text": t, "tokens": k} for t, k in zip(inputs, found, strict=True)), table)
