"""polyseme translate."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, TextIO

import numpy as np
import typer
from rich.console import Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from polyseme.cli import heat, session, tables
from polyseme.cli.files import lines_of, replacing
from polyseme.cli.session import Exit, Session
from polyseme.cli.texts import Json
from polyseme.errors import PolysemeError
from polyseme.translating import Alignment, Splitting, TranslatedSentence, Translation


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(translate)


def translate(
    context: typer.Context,
    *,
    texts: Annotated[
        list[str] | None, typer.Argument(help="texts; without any, the lines of --file or stdin")
    ] = None,
    to: Annotated[str, typer.Option(help="the language wanted, as en")],
    source: Annotated[
        str, typer.Option("--from", help="the texts' language; default: detected, of each")
    ] = "",
    beam: Annotated[int, typer.Option(min=1, help="hypotheses side by side; 1 is greedy")] = 4,
    nbest: Annotated[int, typer.Option(min=1, help="show so many translations, with scores")] = 1,
    align: Annotated[
        bool, typer.Option("--align", help="show which words correspond, as a heat map")
    ] = False,
    splitting: Annotated[
        Splitting | None, typer.Option(help="where texts are cut; default: sentences and lines")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="translate its lines", dir_okay=False)] = None,
    out: Annotated[
        Path | None, typer.Option(help="write the translations, a line each", dir_okay=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Texts in another language. Lines go in and come out one by one, empty ones too.

    Example: polyseme translate "Je suis étudiant" --to en --align

    Example: polyseme translate --to de --file letter.txt --out brief.txt

    Example: echo "Good morning" | polyseme translate --to fr --nbest 3
    """
    run = session.of(context, as_json)
    if nbest > beam:
        session.fail(f"--nbest {nbest} needs as many beams: --beam {nbest}", Exit.USAGE)
    options: dict[str, Any] = {
        "source": source,
        "beams": beam,
        "alternatives": nbest,
        "alignment": align,
        "splitting": splitting,
    }
    if texts:
        if file is not None:
            session.fail("give texts or --file, not both", Exit.USAGE)
        with run.client() as client:
            found = client.translate(texts, to, **options)
        with _output(out) as stream:
            _show(run, texts, found, stream)
        return
    _translate_lines(run, file, out, to, options)


def _translate_lines(
    run: Session, file: Path | None, out: Path | None, to: str, options: dict[str, Any]
) -> None:
    """Line by line, as many at a time as the server takes; blank lines stay where they are."""
    lines = _lines(file)
    filled = [line for line in lines if line.strip()]
    began = time.monotonic()
    with _output(out) as stream, run.client() as client, _bar(out is not None) as bar:
        task = bar.add_task("lines", total=len(lines))
        translations = client.translate_iter(filled, to, **options)
        try:
            for line in lines:
                if line.strip():
                    _show(run, [line], [next(translations)], stream)
                elif not run.as_json:
                    _write("", stream)
                bar.advance(task)
        except PolysemeError:
            if stream is not None and (done := bar.tasks[0].completed):
                session.say(f"{stream.name}: ended after {done:.0f} of {len(lines)} lines")
            raise
    if out is not None:
        seconds = time.monotonic() - began
        session.say(f"{out}: {len(filled)} lines translated in {seconds:.1f} s")


def _lines(file: Path | None) -> list[str]:
    if file is None and sys.stdin.isatty():
        session.fail("give texts, --file, or pipe lines into stdin", Exit.USAGE)
    if file is None:
        return session.stdin_lines()
    try:
        return lines_of(file.read_text("utf-8-sig"))
    except OSError as error:
        session.fail(f"{error.filename}: {error.strerror}", Exit.USAGE)
    except UnicodeDecodeError as error:
        session.fail(f"{file} is not UTF-8: {error}")


@contextmanager
def _output(out: Path | None) -> Iterator[TextIO | None]:
    if out is None:
        yield None
        return
    try:
        with ExitStack() as stack:
            try:
                stream = stack.enter_context(replacing(out))
            except OSError as error:
                session.fail(f"{error.filename}: {error.strerror}", Exit.USAGE)
            yield stream
    except OSError as error:
        session.fail(f"{out}: {error.strerror}")


def _bar(shown: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = session.console(stderr=True)
    return Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        disable=not (shown and console.is_terminal),
    )


def _show(
    run: Session, texts: Iterable[str], found: Iterable[Translation], stream: TextIO | None
) -> None:
    """The translation alone, unless there is more to see."""
    for text, translation in zip(texts, found, strict=True):
        if run.as_json:
            _write(session.json_line({"source": text, "translation": translation}), stream)
        elif stream is not None or not _has_more(translation):
            # A text of several lines has a translation of as many.
            _write(translation.text, stream)
        else:
            session.print_table(Group(*_details(text, translation)))
        if translation.cut:
            session.say(f"{translation.cut} sentences reached the longest length: {text[:60]!r}")


def _has_more(translation: Translation) -> bool:
    return any(
        len(sentence.hypotheses) > 1 or any(one.alignment for one in sentence.hypotheses)
        for sentence in translation.sentences
    )


def _details(text: str, translation: Translation) -> Iterator[Text | Table]:
    for sentence in translation.sentences:
        yield Text(sentence.source.of(text), style="dim")
        if sentence.copied:
            yield Text(sentence.target.of(translation.text))
            continue
        if len(sentence.hypotheses) > 1:
            yield _ranking(sentence)
        else:
            yield Text(sentence.hypotheses[0].text, style="bold")
        best = sentence.hypotheses[0]
        if best.alignment is not None:
            yield Text("")
            yield _map(text, best.text, best.alignment)
            yield Text("")


def _ranking(sentence: TranslatedSentence) -> Table:
    table = tables.table("score", "translation", right=["score"])
    for one in sentence.hypotheses:
        table.add_row(f"{one.score:.3f}", Text(one.text + (" (cut)" if one.cut else "")))
    return table


def _map(text: str, translated: str, alignment: Alignment) -> Text:
    """A row a word of the translation, a column a word of the text; pairs where it is too wide."""
    sources = [span.of(text) for span in alignment.source_words]
    targets = [span.of(translated) for span in alignment.target_words]
    if len(sources) > heat.tokens_max(session.console().width):
        pairs = [
            f"{target.of(translated)} < {source.of(text)} {weight:.0%}"
            for source, target, weight in alignment.pairs
        ]
        return Text("\n".join(pairs))
    legend = "  ".join(f"{number} {word}" for number, word in enumerate(sources))
    picture = heat.word_map(targets, len(sources), np.asarray(alignment.weights))
    return Text.assemble(picture, "\n", (legend, "dim"))


def _write(line: str, stream: TextIO | None) -> None:
    if stream is None:
        session.print_line(line)
    else:
        stream.write(line + "\n")
