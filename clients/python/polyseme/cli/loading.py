"""upsert and import: bulk loads from files, which go on where they were interrupted."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

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
from polyseme.cli.reading import BadRow, Format, Row, Shape, format_of, rows
from polyseme.cli.session import Exit, Session
from polyseme.cli.texts import Json
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
    stdin). A line without an id gets `<file>:<line>`. A bad line ends the load before anything
    after it is written, unless --skip-bad.

    Example: polyseme upsert articles wikipedia.jsonl

    Example: polyseme upsert shop goods.csv --id-field sku --text-field description
    --metadata-fields price,colour

    Example: cut -f2 titles.tsv | polyseme upsert titles --format text
    """
    fields = None if metadata_fields is None else tuple(metadata_fields.split(","))
    shape = Shape(id_field=id_field, text_field=text_field, metadata_fields=fields)
    load = Load(session.of(context, as_json), collection, shape, batch_documents, skip_bad)
    load.run(_sources(files, format), restart)


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
    load.run(_sources(files, "jsonl"), restart)


@dataclass(frozen=True, slots=True)
class Source:
    """A file, or stdin."""

    path: Path | None
    format: Format

    @property
    def name(self) -> str:
        """What a line's default id begins with."""
        return "stdin" if self.path is None else self.path.name

    def count(self) -> int | None:
        """Lines in it; None for stdin, which can be read only once."""
        if self.path is None:
            return None
        with self.path.open("rb") as file:
            return sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))


def _sources(files: Sequence[Path] | None, format: Format | None) -> list[Source]:
    found: list[Source] = []
    for path in files or [Path("-")]:
        if str(path) == "-":
            if sys.stdin.isatty():
                session.fail("give files, or pipe lines into stdin", Exit.USAGE)
            found.append(Source(None, format or "jsonl"))
        elif not path.is_file():
            session.fail(f"{path}: no such file", Exit.USAGE)
        elif (known := format or format_of(path)) is None:
            session.fail(f"{path}: say --format jsonl, csv or text", Exit.USAGE)
        else:
            found.append(Source(path, known))
    return found


class Load:
    """One bulk load."""

    def __init__(
        self,
        run: Session,
        collection: str,
        shape: Shape,
        batch_documents: int,
        skip_bad: bool,
    ) -> None:
        self._run = run
        self._collection = collection
        self._shape = shape
        self._batch_documents = batch_documents
        self._skip_bad = skip_bad
        self._skipped: dict[tuple[str, int], str] = {}
        self._interrupt = Interrupt()
        # The lines of documents on their way: to name the one that the server refuses, and to
        # move the bar by lines. As long as the stream's window, at most.
        self._underway: deque[tuple[int, Row]] = deque()

    def run(self, sources: list[Source], restart: bool) -> None:
        """Load everything; says what was done. Ends the command where that is not all."""
        state = State.of(self._run.address, self._collection, self._shape, sources)
        if restart:
            state.forget()
        resume = state.read()
        if resume:
            done = int(resume.split(".")[1])
            session.say(f"going on behind the {done:,} documents of an interrupted run")
        began = time.monotonic()
        try:
            with self._interrupt:
                written = self._write_all(sources, state, resume)
        except KeyboardInterrupt:
            again = "; the same command goes on from there" if state.read() else ""
            session.say(f"interrupted{again}")
            raise typer.Exit(Exit.INTERRUPTED) from None
        state.forget()
        self._report(written, written.documents - _documents(resume), time.monotonic() - began)

    def _write_all(self, sources: list[Source], state: State, resume: str) -> Written:
        counts = [source.count() for source in sources]
        lines = sum(c for c in counts if c is not None) if None not in counts else None
        with self._run.client() as client, _bar() as bar:
            task = bar.add_task(self._collection, total=lines)

            def on_progress(progress: Written) -> None:
                state.write(progress.resume)
                self._interrupt.check()
                landed = 0
                while self._underway and self._underway[0][0] < progress.documents:
                    landed = self._underway.popleft()[1].line
                bar.update(task, completed=landed if len(sources) == 1 else progress.documents)

            while True:
                try:
                    return client.write(
                        self._collection,
                        self._documents(sources),
                        batch_documents=self._batch_documents,
                        on_progress=on_progress,
                        resume=resume,
                    )
                except InvalidRequest as error:
                    # Read again from the start, which stdin cannot.
                    if not (self._skip_bad and None not in counts and self._skip(error)):
                        raise self._with_line(error) from error
                    resume = error.resume

    def _documents(self, sources: list[Source]) -> Iterator[Any]:
        self._underway.clear()
        index = 0
        for source in sources:
            with ExitStack() as stack:
                lines = (
                    sys.stdin.buffer
                    if source.path is None
                    else stack.enter_context(source.path.open("rb"))
                )
                for row in rows(lines, source.name, source.format, self._shape):
                    if isinstance(row, BadRow):
                        self._refuse(row.source, row.line, row.problem)
                    elif (row.source, row.line) not in self._skipped:
                        self._underway.append((index, row))
                        index += 1
                        yield row.document

    def _refuse(self, source: str, line: int, problem: str) -> None:
        if (source, line) in self._skipped:
            return
        session.say(f"{source} line {line}: {problem}")
        if not self._skip_bad:
            session.fail("stopped at a bad line; mend it, or say --skip-bad")
        self._skipped[source, line] = problem

    def _line_of(self, error: InvalidRequest) -> Row | None:
        """The line whose document the server (or the client) did not take."""
        for violation in error.violations:
            name, _, rest = violation.field.partition("[")
            if name == "documents" and rest:
                index = int(rest.partition("]")[0])
                return next((row for i, row in self._underway if i == index), None)
        return None

    def _skip(self, error: InvalidRequest) -> bool:
        row = self._line_of(error)
        if row is None:
            return False
        self._refuse(row.source, row.line, str(error))
        return True

    def _with_line(self, error: InvalidRequest) -> Exception:
        if (row := self._line_of(error)) is not None:
            session.say(f"{row.source} line {row.line}: refused")
        return error

    def _report(self, written: Written, documents: int, seconds: float) -> None:
        rate = documents / max(seconds, 1e-9)
        summary = {
            "documents": written.documents,
            "this_run": documents,
            "seconds": round(seconds, 3),
            "skipped": len(self._skipped),
            "sequence": written.sequence,
        }
        text = f"{documents:,} documents in {seconds:.1f} s ({rate:,.0f}/s)"
        if self._skipped:
            text += f", {len(self._skipped):,} bad lines skipped"
        self._run.show(summary, tables.pairs([("written", text)]))
        if self._skipped:
            raise typer.Exit(Exit.SKIPPED)


def _documents(resume: str) -> int:
    return int(resume.split(".")[1]) if resume else 0


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


class State:
    """Where an interrupted load of the same files into the same collection goes on."""

    def __init__(self, path: Path | None) -> None:
        self._path = path  # None: nothing is remembered

    @classmethod
    def of(cls, address: str, collection: str, shape: Shape, sources: list[Source]) -> State:
        """The state of exactly this load: a changed file is another one."""
        files: list[Any] = []
        for source in sources:
            if source.path is None:
                return cls(None)
            stat = source.path.stat()
            files.append(
                [str(source.path.resolve()), stat.st_size, stat.st_mtime_ns, source.format]
            )
        identity = json.dumps([address, collection, session.plain(shape), files])
        digest = hashlib.sha256(identity.encode()).hexdigest()[:32]
        return cls(session.state_directory() / f"upsert-{digest}")

    def read(self) -> str:
        """The token of the interrupted run; empty if there was none."""
        try:
            return self._path.read_text().strip() if self._path else ""
        except FileNotFoundError:
            return ""

    def write(self, resume: str) -> None:
        """Remember the token, whole or not at all."""
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".partial")
        temporary.write_text(resume + "\n")
        os.replace(temporary, self._path)

    def forget(self) -> None:
        """The load is done."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
