"""Files of lines, read and written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


def lines_of(content: str) -> list[str]:
    r"""The lines of a text that was read as text, so that `\r\n` and `\r` are `\n` already.

    Not `splitlines`, which cuts at form feeds, U+2028 and such too: these are part of a line.
    """
    lines = content.removeprefix("\ufeff").split("\n")
    return lines if lines[-1] else lines[:-1]


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A file to write that becomes `path` when all is written.

    Until then it lies beside it as `.partial`, and `path` stays as it was; it may be the input.
    What is no regular file, such as /dev/stdout, is written to at once.
    """
    path = path.resolve()  # the file behind a link is replaced, not the link
    if path.exists() and not path.is_file():
        with path.open("w", encoding="utf-8") as file:
            yield file
        return
    partial = path.with_name(path.name + ".partial")
    written = False
    try:
        with partial.open("w", encoding="utf-8") as file:
            if path.exists():
                shutil.copymode(path, partial)
            try:
                yield file
            finally:
                written = file.tell() > 0
        partial.replace(path)
    except BaseException:
        if not written:
            partial.unlink(missing_ok=True)
        raise
