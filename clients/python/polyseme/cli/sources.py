"""What a bulk load reads: files, or stdin."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from polyseme.cli import session
from polyseme.cli.reading import Format, format_of
from polyseme.cli.session import Exit


@dataclass(frozen=True, slots=True)
class Source:
    """A file, or stdin."""

    path: Path | None
    format: Format
    name: str = "stdin"  # what a line's default id begins with

    def count(self) -> int | None:
        """Lines in it; None for stdin, which can be read only once."""
        if self.path is None:
            return None
        with self.path.open("rb") as file:
            return sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))


def sources_of(files: Sequence[Path] | None, format: Format | None) -> list[Source]:
    """The files of a command line, each with its format. Ends the command where one is wrong."""
    paths = files or [Path("-")]
    names = names_of([path for path in paths if not _is_stdin(path)])
    return [_source(path, format, names) for path in paths]


def _source(path: Path, format: Format | None, names: Mapping[Path, str]) -> Source:
    if _is_stdin(path):
        if sys.stdin.isatty():
            session.fail("give files, or pipe lines into stdin", Exit.USAGE)
        return Source(None, format or "jsonl")
    if not path.is_file():
        session.fail(f"{path}: no such file", Exit.USAGE)
    known = format or format_of(path)
    if known is None:
        session.fail(f"{path}: say --format jsonl, csv or text", Exit.USAGE)
    return Source(path, known, names[path])


def _is_stdin(path: Path) -> bool:
    return str(path) == "-"


def names_of(paths: Iterable[Path]) -> dict[Path, str]:
    """What each file is called: its name, and as many directories before it as it takes to tell
    it from the others."""
    absolute = {path: Path(os.path.abspath(path)).parts for path in paths}
    return {path: _name(parts, set(absolute.values())) for path, parts in absolute.items()}


def _name(parts: tuple[str, ...], all_parts: set[tuple[str, ...]]) -> str:
    for count in range(1, len(parts) + 1):
        if not any(o[-count:] == parts[-count:] for o in all_parts if o != parts):
            break
    return PurePath(*parts[-count:]).as_posix()
