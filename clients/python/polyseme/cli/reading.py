"""Lines of files to documents: JSONL, CSV and plain text. Pure but for reading."""

from __future__ import annotations

import base64
import binascii
import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from polyseme.filters import INTEGER_MAX

Format = Literal["jsonl", "csv", "text"]
_SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".txt": "text",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Where in a line the document's parts are."""

    id_field: str = "id"
    text_field: str = "text"
    metadata_fields: tuple[str, ...] | None = None  # None: `metadata`, or else all other fields


@dataclass(frozen=True, slots=True)
class Row:
    """A line that became a document."""

    source: str
    line: int  # from 1
    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A line that did not, and why."""

    source: str
    line: int
    problem: str
    last: bool = False  # nothing behind it can be read


def format_of(path: Path) -> Format | None:
    """The format that a file's name stands for."""
    return _SUFFIXES.get(path.suffix.lower())


def rows(
    lines: Iterable[bytes], source: str, format: Format, shape: Shape
) -> Iterator[Row | BadRow]:
    """Each line that is not blank, as a document or as what is wrong with it.

    A document without an id gets `<source>:<line>`, the same in every run.
    """
    match format:
        case "jsonl":
            yield from _jsonl_rows(lines, source, shape)
        case "csv":
            yield from _csv_rows(lines, source, shape)
        case "text":
            yield from _text_rows(lines, source)


def _decoded(lines: Iterable[bytes], source: str) -> Iterator[tuple[int, str] | BadRow]:
    for number, raw in enumerate(lines, start=1):
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            yield BadRow(source, number, f"is not UTF-8 at byte {error.start}")
            continue
        if text.strip():
            yield number, text.rstrip("\r\n")


def _text_rows(lines: Iterable[bytes], source: str) -> Iterator[Row | BadRow]:
    for item in _decoded(lines, source):
        if isinstance(item, BadRow):
            yield item
        else:
            number, text = item
            yield Row(source, number, {"id": f"{source}:{number}", "text": text})


def _jsonl_rows(lines: Iterable[bytes], source: str, shape: Shape) -> Iterator[Row | BadRow]:
    for item in _decoded(lines, source):
        if isinstance(item, BadRow):
            yield item
            continue
        number, text = item
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:  # too many digits are a plain ValueError
            yield BadRow(source, number, f"is not JSON (plain text wants --format text): {error}")
            continue
        if not isinstance(record, dict):
            yield BadRow(source, number, "is not a JSON object")
            continue
        yield _row(record, source, number, shape)


# As long as the longest request that a server takes by default, so that what is too long for a
# text is refused as one. Python's own limit of 131,072 is for the process to change.
CSV_CELL_CHARACTERS_MAX = 2**24


def _csv_rows(lines: Iterable[bytes], source: str, shape: Shape) -> Iterator[Row | BadRow]:
    csv.field_size_limit(CSV_CELL_CHARACTERS_MAX)
    taken = _Taken(lines)
    reader = csv.reader(taken, strict=True)
    header: list[str] | None = None
    while True:
        taken.begin_record()
        bad: BadRow | None = None
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            bad = BadRow(source, taken.first, f"is not CSV: {error}", not taken.resynchronised)
        else:
            if taken.undecodable:
                bad = BadRow(source, *taken.undecodable)
        if bad is not None:
            lost = bad.last or header is None
            problem = f"{bad.problem}; nothing after it was read" if lost else bad.problem
            yield BadRow(source, bad.line, problem, lost)
            if lost:
                return
        elif header is None:
            header = cells or None
        elif cells:
            yield _csv_row(cells, header, source, reader.line_num, shape)


class _Taken:
    """Lines for the csv reader, and what became of those of the record that it is at.

    A quoted field may hold line breaks, so only the reader knows where a record ends. What is not
    UTF-8 goes through it all the same: no byte of that kind can be a quote or a comma.
    """

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = enumerate(lines, start=1)
        self._number = 0
        self.begin_record()

    def begin_record(self) -> None:
        self.first = self._number + 1
        self.undecodable: tuple[int, str] | None = None  # the first such line, and its problem
        self._quotes = 0

    @property
    def resynchronised(self) -> bool:
        """Whether the next line surely begins a record, after one that was not understood."""
        return self._number == self.first and self._quotes % 2 == 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self._number, raw = next(self._lines)
        self._quotes += raw.count(b'"')
        encoding = "utf-8-sig" if self._number == 1 else "utf-8"
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError as error:
            problem = f"is not UTF-8 at byte {error.start}"
            self.undecodable = self.undecodable or (self._number, problem)
            return raw.decode(encoding, errors="replace")


def _csv_row(
    cells: list[str], header: list[str], source: str, line: int, shape: Shape
) -> Row | BadRow:
    if len(cells) != len(header):
        return BadRow(source, line, f"has {len(cells)} cells; the header has {len(header)}")
    # Ids and texts are what the file says, also when they look like numbers.
    as_they_are = (shape.id_field, shape.text_field)
    record = {
        name: cell if name in as_they_are else _cell(cell)
        for name, cell in zip(header, cells, strict=True)
    }
    return _row(record, source, line, shape)


def _cell(cell: str) -> Any:
    """Numbers and booleans as such, so that filters can compare them; `01234` stays a string,
    and so does what no double holds as it is written: NaN, 1e400, integers beyond 2**53."""
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        return cell
    match value:
        case bool():
            return value
        case int() if abs(value) <= INTEGER_MAX:
            return value
        case float() if math.isfinite(value):
            return value
    return cell


def _row(record: dict[str, Any], source: str, line: int, shape: Shape) -> Row | BadRow:
    id = record.get(shape.id_field)
    text = record.get(shape.text_field, "")
    document: dict[str, Any] = {"id": f"{source}:{line}" if id in (None, "") else str(id)}
    if not isinstance(text, str):
        return BadRow(source, line, f"{shape.text_field!r} is {type(text).__name__}, not a string")
    document["text"] = text
    try:
        document |= _vector(record)
    except ValueError as error:
        return BadRow(source, line, f"its vector {error}")
    if not text and "vector" not in document:
        return BadRow(source, line, f"has no {shape.text_field!r}")
    metadata = _metadata(record, shape)
    if not isinstance(metadata, dict):
        return BadRow(source, line, f"'metadata' is {type(metadata).__name__}, not an object")
    return Row(source, line, document | {"metadata": metadata})


_VECTOR_FIELDS = ("vector", "vector_base64", "vector_fingerprint")


def _metadata(record: dict[str, Any], shape: Shape) -> Any:
    if shape.metadata_fields is not None:
        return {name: record[name] for name in shape.metadata_fields if name in record}
    if "metadata" in record:
        return record["metadata"]
    taken = {shape.id_field, shape.text_field, *_VECTOR_FIELDS}
    return {name: value for name, value in record.items() if name not in taken}


def _vector(record: dict[str, Any]) -> dict[str, Any]:
    if "vector_base64" in record:
        try:
            data = base64.b64decode(record["vector_base64"], validate=True)
            vector = np.frombuffer(data, "<f4")
        except (binascii.Error, TypeError) as error:
            raise ValueError(f"is not base64: {error}") from None
    elif record.get("vector") is not None:
        try:
            vector = np.asarray(record["vector"], np.float32)
        except (TypeError, ValueError):
            raise ValueError("is not a list of numbers") from None
    else:
        return {}
    return {"vector": vector, "vector_fingerprint": str(record.get("vector_fingerprint", ""))}
