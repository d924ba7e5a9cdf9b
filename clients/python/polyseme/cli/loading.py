"""upsert and import: bulk loads from files, which go on where they were interrupted."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from polyseme.cli import session, tables
from polyseme.cli.interrupt import Interrupt
from polyseme.cli.lines import Lines
from polyseme.cli.reading import Format, Shape
from polyseme.cli.resuming import Mark, State, documents_of
from polyseme.cli.session import Exit, Session
from polyseme.cli.sources import Source, sources_of
from polyseme.cli.texts import Json
from polyseme.client import Client
from polyseme.errors import InvalidRequest
from polyseme.writing import Progress as Written

Files = Annotated[list[Path] | None, typer.Argument(help="files; without any, or for -, stdin")]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="report bad lines and go on; exit status 4")
]
Restart = Annotated[
    bool, typer.Option("--restart", help="begin anew where an earlier run was interrupted")
]
BatchDocuments = Annotated[int, typer.Option(min=1, help="documents in one atomic batch")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(upsert)
    app.command("import")(import_)


def upsert(
    context: typer.Context,
    *,
    collection: Annotated[str, typer.Argument(help="the collection's name")],
    files: Files = None,
    format: Annotated[
        Format | None, typer.Option(help="default: by the file's name; stdin: jsonl")
    ] = None,
    id_field: Annotated[str, typer.Option(help="field or column of the id")] = "id",
    text_field: Annotated[str, typer.Option(help="field or column of the text")] = "text",
    metadata_fields: Annotated[
        str | None,
        typer.Option(help="comma-separated; default: `metadata`, or else all other fields"),
    ] = None,
    batch_documents: BatchDocuments = 128,
    skip_bad: SkipBad = False,
    restart: Restart = False,
    as_json: Json = False,
) -> None:
    """Write documents from JSONL, CSV or plain text, one a line; what is reported is on the disk.

    Interrupted, the same command goes on behind the last line that is written (for files; not for
    stdin). A line without an id gets `<file>:<line>`, with as many of the directories before it
    as tell files of one name apart. A bad line ends the load before anything after it is written,
    unless --skip-bad.

    Example: polyseme upsert articles wikipedia.jsonl

    Example: polyseme upsert shop goods.csv --id-field sku --text-field description
    --metadata-fields price,colour

    Example: cut -f2 titles.tsv | polyseme upsert titles --format text
    """
    fields = None if metadata_fields is None else tuple(metadata_fields.split(","))
    shape = Shape(id_field=id_field, text_field=text_field, metadata_fields=fields)
    load = Load(session.of(context, as_json), collection, shape, batch_documents, skip_bad)
    load.run(sources_of(files, format), restart)


def import_(
    context: typer.Context,
    *,
    collection: Annotated[str, typer.Argument(help="the collection's name; must exist")],
    files: Files = None,
    batch_documents: BatchDocuments = 128,
    skip_bad: SkipBad = False,
    restart: Restart = False,
    as_json: Json = False,
) -> None:
    """Write what `polyseme export` wrote; vectors in it are taken as they are.

    Example: polyseme import articles-copy articles.jsonl
    """
    load = Load(session.of(context, as_json), collection, Shape(), batch_documents, skip_bad)
    load.run(sources_of(files, "jsonl"), restart)


class Load:
    """One bulk load."""

    def __init__(
        self, run: Session, collection: str, shape: Shape, batch_documents: int, skip_bad: bool
    ) -> None:
        self._run = run
        self._collection = collection
        self._shape = shape
        self._batch_documents = batch_documents
        self._skip_bad = skip_bad
        self._interrupt = Interrupt()

    def run(self, sources: list[Source], restart: bool) -> None:
        """Load everything; says what was done. Ends the command where that is not all."""
        lines = Lines(sources, self._shape, self._skip_bad)
        with self._run.client() as client:
            state = self._state(client, sources, restart)
            mark = state.read()
            before = mark.documents if mark else 0
            if mark:
                session.say(f"going on behind the {before:,} documents of an interrupted run")
            began = time.monotonic()
            try:
                with self._interrupt:
                    written = self._write_all(client, lines, _length(sources), state, mark)
            except KeyboardInterrupt:
                again = "; the same command goes on from there" if state.read() else ""
                session.say(f"interrupted{again}")
                raise typer.Exit(Exit.INTERRUPTED) from None
        state.forget()
        self._report(written, written.documents - before, time.monotonic() - began, lines.skipped)

    def _state(self, client: Client, sources: list[Source], restart: bool) -> State:
        """What is remembered of an earlier run; a mark that holds no more is forgotten."""
        if any(source.path is None for source in sources):
            return State(None)
        collection = client.get_collection(self._collection)
        state = State.of(self._run.address, collection, self._shape, sources)
        mark = state.read()
        if mark and not mark.within(collection):
            now = collection.statistics.sequence
            session.say(
                f"beginning anew: an earlier run wrote up to sequence {mark.sequence} and "
                f"{self._collection} is now at {now}, as after a snapshot was restored"
            )
            restart = True
        if restart:
            state.forget()
        return state

    def _write_all(
        self, client: Client, lines: Lines, length: int | None, state: State, mark: Mark | None
    ) -> Written:
        """length: lines in all the files; None where stdin is among them"""
        resume, written = (mark.resume, mark.documents) if mark else ("", 0)
        with _bar() as bar:
            task = bar.add_task(self._collection, total=length)

            def on_progress(progress: Written) -> None:
                state.write(Mark(progress.resume, progress.sequence))
                self._interrupt.check()
                line = lines.landed(progress.documents)
                bar.update(task, completed=line if lines.sources == 1 else progress.documents)

            while True:
                try:
                    return client.write(
                        self._collection,
                        lines.documents(written),
                        batch_documents=self._batch_documents,
                        on_progress=on_progress,
                        resume=resume,
                    )
                except InvalidRequest as error:
                    # Read again from the start, which stdin cannot.
                    if not (self._skip_bad and length is not None and lines.skip(error)):
                        lines.tell(error)
                        raise
                    resume, written = error.resume, documents_of(error.resume)

    def _report(self, written: Written, documents: int, seconds: float, skipped: int) -> None:
        rate = documents / max(seconds, 1e-9)
        summary = {
            "documents": written.documents,
            "this_run": documents,
            "seconds": round(seconds, 3),
            "skipped": skipped,
            "sequence": written.sequence,
        }
        text = f"{documents:,} documents in {seconds:.1f} s ({rate:,.0f}/s)"
        if skipped:
            text += f", {skipped:,} bad lines skipped"
        self._run.show(summary, tables.pairs([("written", text)]))
        if skipped:
            raise typer.Exit(Exit.SKIPPED)


def _length(sources: list[Source]) -> int | None:
    counts = [source.count() for source in sources]
    return None if None in counts else sum(count or 0 for count in counts)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:,.0f}/s", style="progress.data.speed")


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        console=session.console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
