"""Lines of files to documents: JSONL, CSV and plain text. Pure but for reading."""

from __future__ import annotations

import base64
import binascii
import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

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
        except (json.JSONDecodeError, RecursionError) as error:
            yield BadRow(source, number, f"is not JSON (plain text wants --format text): {error}")
            continue
        if not isinstance(record, dict):
            yield BadRow(source, number, "is not a JSON object")
            continue
        yield _row(record, source, number, shape)


def _csv_rows(lines: Iterable[bytes], source: str, shape: Shape) -> Iterator[Row | BadRow]:
    # A quoted field may hold line breaks, so the reader counts lines itself.
    reader = csv.reader((raw.decode("utf-8-sig") for raw in lines), strict=True)
    try:
        header = next(reader, [])
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                problem = f"has {len(cells)} cells; the header has {len(header)}"
                yield BadRow(source, reader.line_num, problem)
                continue
            # Ids and texts are what the file says, also when they look like numbers.
            as_they_are = (shape.id_field, shape.text_field)
            record = {
                name: cell if name in as_they_are else _cell(cell)
                for name, cell in zip(header, cells, strict=True)
            }
            yield _row(record, source, reader.line_num, shape)
    except (csv.Error, UnicodeDecodeError) as error:
        yield BadRow(source, reader.line_num, f"is not CSV: {error}; nothing after it was read")


def _cell(cell: str) -> Any:
    """Numbers and booleans as such, so that filters can compare them; `01234` stays a string."""
    try:
        value = json.loads(cell)
    except json.JSONDecodeError:
        return cell
    return value if isinstance(value, int | float | bool) else cell


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
