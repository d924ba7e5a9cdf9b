"""What all commands share: the connection, the two ways of printing, the exit codes."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import typer
from rich.console import Console, RenderableType

from polyseme.cli.files import lines_of
from polyseme.client import Client
from polyseme.connection import Tls

PIPED_WIDTH = 100  # columns where there is no terminal to ask


class Exit(IntEnum):
    """What a script learns from the exit status."""

    OK = 0
    FAILED = 1  # the server said no, or something went wrong
    USAGE = 2  # the command line is wrong
    UNREACHABLE = 3  # no server answers, or not in time
    SKIPPED = 4  # done, but bad lines were skipped
    INTERRUPTED = 130  # Ctrl-C
    PIPE_CLOSED = 141  # whoever read the output has gone


EXIT_HELP = (
    "Exit status: 0 done; 1 the server refused or failed; 2 wrong usage; 3 no server, or not in "
    "time; 4 done, but bad lines were skipped; 130 interrupted; 141 the reader of the output went."
)


class PipeClosed(Exception):
    """Whoever read our output has gone, as `head` does; not an OSError, which typer would take."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise PipeClosed


@dataclass(frozen=True, kw_only=True)
class Session:
    """One run of the command."""

    address: str
    api_key: str | None = dataclasses.field(default=None, repr=False)
    tls: Tls | None = None
    insecure: bool = False
    timeout_s: float = 60.0
    as_json: bool = False

    def client(self) -> Client:
        """A client for the command's server. Wrong options end the command with USAGE."""
        try:
            return Client(
                self.address,
                api_key=self.api_key,
                tls=self.tls,
                insecure=self.insecure,
                timeout_s=self.timeout_s,
            )
        except (ValueError, OSError) as error:
            fail(str(error), Exit.USAGE)

    def show(self, value: Any, table: RenderableType) -> None:
        """Print `table` for people; with --json `value` as one JSON object."""
        if self.as_json:
            print_json(value)
        else:
            print_table(table)

    def show_all(self, values: Iterable[Any], table: RenderableType) -> None:
        """As `show`, one JSON object a line."""
        if not self.as_json:
            print_table(table)
            return
        for value in values:
            print_json(value)


def of(context: typer.Context, as_json: bool = False) -> Session:
    """The run's session; `--json` counts before the command's name and after it."""
    session = context.find_object(Session)
    assert session is not None
    return dataclasses.replace(session, as_json=True) if as_json else session


def console(stderr: bool = False) -> Console:
    """Where tables go: colours on a terminal, plain text in a pipe."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else int(os.environ.get("COLUMNS", PIPED_WIDTH))
    return _Console(file=stream, width=width, highlight=False)


def print_table(table: RenderableType) -> None:
    """A table on stdout; in a pipe without the blanks that fill its last column."""
    out = console()
    if out.is_terminal:
        out.print(table)
        return
    with out.capture() as captured:
        out.print(table)
    for line in captured.get().splitlines():
        print_line(line.rstrip())


def print_json(value: Any) -> None:
    """One JSON object, on one line of stdout."""
    print_line(json_line(value))


def json_line(value: Any) -> str:
    """A value as JSON, on one line."""
    return json.dumps(plain(value), ensure_ascii=False)


def print_line(text: str) -> None:
    """One line on stdout."""
    try:
        sys.stdout.write(text + "\n")
    except BrokenPipeError:
        raise PipeClosed from None


def say(text: str) -> None:
    """One line for people, beside the output."""
    print(text, file=sys.stderr)


def fail(text: str, code: Exit = Exit.FAILED) -> NoReturn:
    """End the command."""
    say(f"polyseme: {text}")
    raise typer.Exit(code)


def plain(value: Any) -> Any:
    """A value as JSON has it: dataclasses by their fields, arrays as lists, times as ISO 8601."""
    match value:
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple() | np.ndarray():
            return [plain(item) for item in value]
        case np.generic():
            # Nine digits bring a float32 back bit for bit.
            return float(f"{value:.9g}") if isinstance(value, np.floating) else value.item()
        case datetime():
            return value.isoformat()
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return value


def texts_or_stdin(texts: list[str] | None, *, blank_refused: bool = False) -> list[str]:
    """The arguments, or without any the lines of stdin.

    blank_refused: a blank line ends the command, where results are told apart by their place
    alone; otherwise it is passed over
    """
    if texts:
        return texts
    lines = stdin_lines()
    filled = [line for line in lines if line.strip()]
    if blank_refused and len(filled) < len(lines):
        number = next(n for n, line in enumerate(lines, start=1) if not line.strip())
        fail(f"stdin line {number} is blank: it would have no row of its own", Exit.USAGE)
    return filled


def stdin_lines() -> list[str]:
    """The lines of stdin, blank ones too."""
    if sys.stdin.isatty():
        fail("give texts as arguments, or pipe one a line into stdin", Exit.USAGE)
    try:
        return lines_of(sys.stdin.read())
    except UnicodeDecodeError as error:
        fail(f"stdin is not UTF-8: {error}")


def confirm(question: str, yes: bool) -> None:
    """Ask on a terminal; elsewhere `--yes` must have been given."""
    if yes:
        return
    if not sys.stdin.isatty():
        fail(f"{question} Say --yes where nobody can answer.", Exit.USAGE)
    if not typer.confirm(question, err=True):
        raise typer.Exit(Exit.FAILED)


def state_directory() -> Path:
    """Where interrupted loads are remembered (XDG Base Directory)."""
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "polyseme"
