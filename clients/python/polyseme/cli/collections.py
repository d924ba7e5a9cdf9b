"""polyseme collections ..."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from polyseme.cli import session, tables
from polyseme.cli.texts import Json
from polyseme.collection import Collection, Metric, OwnVectors, ServerVectors

app = typer.Typer(
    help="Create, list, save and mend collections.", no_args_is_help=True, rich_markup_mode=None
)
Name = Annotated[str, typer.Argument(help="the collection's name")]


@app.command("list")
def list_(context: typer.Context, as_json: Json = False) -> None:
    """All collections.

    Example: polyseme collections list
    """
    run = session.of(context, as_json)
    with run.client() as client:
        found = list(client.list_collections())
    table = tables.table(
        "name", "documents", "size", "dimensions", "state", "description",
        right=["documents", "size", "dimensions"],
    )  # fmt: skip
    for c in found:
        s = c.statistics
        size = tables.bytes_text(s.disk_bytes)
        count = f"{s.documents:,}"
        table.add_row(c.name, count, size, str(s.dimensions), c.state, Text(c.description))
    run.show_all(found, table)


@app.command()
def create(
    context: typer.Context,
    *,
    name: Annotated[
        str, typer.Argument(help="lower-case letters, digits, - and _, a letter first, 63 at most")
    ],
    description: Annotated[str, typer.Option(help="for people")] = "",
    metric: Annotated[Metric | None, typer.Option(help="default: cosine")] = None,
    dimensions: Annotated[
        int, typer.Option(min=0, help="keep the first so many of the model's; 0: all")
    ] = 0,
    document_prompt: Annotated[str, typer.Option(help="put in front of documents")] = "",
    query_prompt: Annotated[str, typer.Option(help="put in front of queries")] = "",
    own_vectors: Annotated[
        int, typer.Option(min=0, help="you bring the vectors, of this length")
    ] = 0,
    as_json: Json = False,
) -> None:
    """A new, empty collection.

    Example: polyseme collections create articles --description "first paragraphs"
    """
    run = session.of(context, as_json)
    vectors: ServerVectors | OwnVectors = ServerVectors(
        dimensions=dimensions, document_prompt=document_prompt, query_prompt=query_prompt
    )
    if own_vectors:
        vectors = OwnVectors(dimensions=own_vectors)
    with run.client() as client:
        made = client.create_collection(
            name, description=description, vectors=vectors, metric=metric
        )
    run.show(made, _shown(made))


@app.command()
def show(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """One collection: who makes its vectors, what it holds, how it fares.

    Example: polyseme collections show articles --json
    """
    run = session.of(context, as_json)
    with run.client() as client:
        found = client.get_collection(name)
    run.show(found, _shown(found))


@app.command()
def delete(
    context: typer.Context,
    *,
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
) -> None:
    """Remove a collection with all it holds.

    Example: polyseme collections delete articles --yes
    """
    run = session.of(context)
    with run.client() as client:
        count = client.get_collection(name).statistics.documents
        session.confirm(f"Delete {name} with its {count:,} documents?", yes)
        client.delete_collection(name)
    session.say(f"{name}: deleted")


@app.command()
def snapshot(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Write a consistent copy on the server's disk; prints its name.

    Example: polyseme collections snapshot articles
    """
    run = session.of(context, as_json)
    with run.client() as client:
        made = client.create_snapshot(name)
    size = tables.bytes_text(made.bytes)
    rows = [("snapshot", made.name), ("documents", f"{made.documents:,}"), ("size", size)]
    rows += [(f.path, f"sha256 {f.sha256}") for f in made.files]
    run.show(made, tables.pairs(rows))


@app.command()
def restore(
    context: typer.Context,
    *,
    snapshot: Annotated[str, typer.Argument(help="the snapshot's name")],
    name: Annotated[str, typer.Argument(help="the collection to make; must be free")],
    as_json: Json = False,
) -> None:
    """Make a collection out of a snapshot.

    Example: polyseme collections restore articles/20260101T120000.000000Z-42 articles-again
    """
    run = session.of(context, as_json)
    with run.client() as client:
        made = client.restore_snapshot(snapshot, name)
    run.show(made, _shown(made))


@app.command()
def check(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Verify every file and count; exit status 1 if something is wrong.

    Example: polyseme collections check articles
    """
    run = session.of(context, as_json)
    with run.client() as client:
        found = client.check_collection(name)
    table = tables.table("file", "problem", "repairable")
    for f in found.findings:
        table.add_row(Text(f.file), Text(f.problem), "yes" if f.repairable else "no")
    fine = tables.pairs([(name, "nothing wrong"), *(("verified", v) for v in found.verified)])
    run.show(found, fine if found.ok else table)
    if not found.ok:
        raise typer.Exit(session.Exit.FAILED)


@app.command()
def compact(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Rewrite the index without what was deleted.

    Example: polyseme collections compact articles
    """
    run = session.of(context, as_json)
    with run.client() as client:
        done = client.compact_collection(name)
    table = tables.table("", "before", "after", right=["before", "after"])
    for label in ("documents", "segments", "tombstones", "buffered"):
        table.add_row(label, f"{getattr(done.before, label):,}", f"{getattr(done.after, label):,}")
    sizes = (tables.bytes_text(s.disk_bytes) for s in (done.before, done.after))
    table.add_row("size", *sizes)
    run.show(done, table)


def _shown(c: Collection) -> Table:
    s = c.statistics
    maker = "you" if isinstance(c.vectors, OwnVectors) else "the server, from the texts"
    rows: list[tuple[str, object]] = [
        ("name", c.name),
        ("description", c.description or "-"),
        ("state", f"{c.state} {c.state_reason}".strip()),
        ("vectors by", maker),
        ("dimensions", s.dimensions),
        ("metric", c.metric),
        ("model", c.fingerprint.model if c.fingerprint else "-"),
        ("fingerprint", c.vectors_fingerprint or "any"),
        ("documents", f"{s.documents:,}"),
        ("sequence", s.sequence),
        ("size", tables.bytes_text(s.disk_bytes)),
        ("index", f"{s.index_kind}, {s.segments} segments, {s.buffered:,} buffered"),
        ("created", f"{c.create_time:%Y-%m-%d %H:%M:%S} UTC"),
    ]
    return tables.pairs(rows)
