"""delete, export."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import IO, Annotated, Any

import numpy as np
import typer

from polyseme.cli import session, tables
from polyseme.cli.files import replacing
from polyseme.cli.search import Filters
from polyseme.cli.texts import Json
from polyseme.document import Document
from polyseme.filters import parse_all

Name = Annotated[str, typer.Argument(help="the collection's name")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(delete)
    app.command()(export)


def delete(
    context: typer.Context,
    *,
    collection: Name,
    ids: Annotated[list[str] | None, typer.Argument(help="documents' ids")] = None,
    filters: Filters = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="with --filter: only count")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    as_json: Json = False,
) -> None:
    """Delete documents by id, or all that a filter matches; all or none.

    Example: polyseme delete articles wiki-1 wiki-2

    Example: polyseme delete articles --filter "words<20" --dry-run
    """
    run = session.of(context, as_json)
    matching = parse_all(filters or [])
    if bool(ids) == (matching is not None):
        session.fail("give either ids or --filter", session.Exit.USAGE)
    with run.client() as client:
        if matching is None:
            done = client.delete(collection, ids or [])
        else:
            count = client.purge(collection, matching, dry_run=True)
            if not dry_run and count.deleted:
                session.confirm(f"Delete {count.deleted:,} documents of {collection}?", yes)
            done = count if dry_run else client.purge(collection, matching)
    label = "would be deleted" if dry_run else "deleted"
    run.show(
        {"deleted": done.deleted, "dry_run": dry_run, "sequence": done.sequence},
        tables.pairs([(label, f"{done.deleted:,}")]),
    )


def export(
    context: typer.Context,
    *,
    collection: Name,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="file to write; default: stdout")
    ] = None,
    vectors: Annotated[bool, typer.Option("--vectors", help="with the vectors, in base64")] = False,
    filters: Filters = None,
) -> None:
    """Write documents as JSONL, in the order of their ids; `polyseme import` takes them back.

    Example: polyseme export articles --vectors -o articles.jsonl
    """
    run = session.of(context)
    matching = parse_all(filters or [])
    with run.client() as client:
        found = client.export(collection, filter=matching, with_vectors=vectors)
        if output is None:
            for document in found:
                session.print_line(_line(document))
            return
        try:
            # An interrupted export leaves the older one as it was.
            with replacing(output) as file:
                count = _write(found, file)
        except OSError as error:
            session.fail(str(error))
    session.say(f"{output}: {count:,} documents")


def _write(documents: Any, file: IO[str]) -> int:
    count = 0
    for document in documents:
        file.write(_line(document) + "\n")
        count += 1
        if count % 1000 == 0 and sys.stderr.isatty():
            sys.stderr.write(f"\r{count:,} documents")
    if count >= 1000 and sys.stderr.isatty():
        sys.stderr.write("\r")
    return count


def _line(document: Document) -> str:
    line: dict[str, Any] = {"id": document.id, "text": document.text}
    if document.metadata:
        line["metadata"] = document.metadata
    if document.vector is not None:
        data = np.asarray(document.vector, "<f4").tobytes()
        line["vector_base64"] = base64.b64encode(data).decode()
        line["vector_fingerprint"] = document.vector_fingerprint
    return json.dumps(line, ensure_ascii=False)
