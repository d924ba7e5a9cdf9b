"""polyseme attention."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Group
from rich.table import Table
from rich.text import Text

from polyseme.attention import Attention, AttentionKind
from polyseme.cli import heat, session
from polyseme.cli.texts import Json
from polyseme.vectors import Truncation

NOTE = (
    "Attention shows where values came from, not why the model answers as it does; "
    "much of it rests on [CLS], [SEP] and dots."
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(attention)


def attention(
    context: typer.Context,
    *,
    text: Annotated[str, typer.Argument(help="the text")],
    layer: Annotated[int, typer.Option(help="from 1; -1 is the last")] = -1,
    head: Annotated[
        int | None, typer.Option(min=0, help="from 0; default: the mean of all heads")
    ] = None,
    rollout: Annotated[
        bool, typer.Option("--rollout", help="follow attention through all layers up to this one")
    ] = False,
    word: Annotated[
        str | None, typer.Option(help="only what this word attends to, as a list")
    ] = None,
    truncation: Annotated[
        Truncation | None, typer.Option(help="what happens to a text too long for the model")
    ] = None,
    as_json: Json = False,
) -> None:
    """What each token attends to: a row a token, a column a token, in percent.

    A text too long for the terminal, or --word, gives a list. Attention shows where values came
    from; it is not an explanation of what the model makes of them.

    Example: polyseme attention "The cat sat on the mat" --layer 3 --head 5

    Example: polyseme attention "The animal did not cross the street because it was too tired"
    --word it

    Example: polyseme attention "Apple stock crashed today" --rollout --json
    """
    run = session.of(context, as_json)
    if rollout and head is not None:
        session.fail("--rollout is of all heads: leave --head out", session.Exit.USAGE)
    kind: AttentionKind = "rollout" if rollout else "mean" if head is None else "raw"
    with run.client() as client:
        found = client.attention(
            text,
            kind=kind,
            layers=[layer],
            heads=[] if head is None else [head],
            words=[] if word is None else [word],
            truncation=truncation,
        )
    run.show(found, _shown(found, word, session.console().width))


def _shown(found: Attention, word: str | None, columns: int) -> Group:
    shares = found.shares[0, 0]
    body: Text | Table
    if word is not None:
        title = f"what {word!r} attends to"
        body = heat.bars(found.tokens, _mean(shares))
    elif len(found.tokens) > heat.tokens_max(columns):
        title = (
            f"{len(found.tokens)} tokens: what all of them attend to on average; "
            "--word shows one word"
        )
        body = heat.bars(found.tokens, _mean(shares))
    else:
        title = "row attends to column, in percent"
        body = heat.heat_map(found.tokens, shares)
    heading = Text(f"{_matrix_name(found)}: {title}", style="bold")
    return Group(heading, Text(""), body, Text(""), Text(NOTE, style="dim"))


def _mean(shares: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(shares.mean(axis=0), dtype=np.float32)


def _matrix_name(found: Attention) -> str:
    layer = f"layer {found.layers[0]}"
    match found.kind:
        case "raw":
            return f"{layer}, head {found.heads[0]}"
        case "mean":
            return f"{layer}, mean of the heads"
        case "rollout":
            return f"rollout to {layer}"
