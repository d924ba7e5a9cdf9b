"""polyseme search."""

from __future__ import annotations

from typing import Annotated

import typer

from polyseme.cli import session, tables
from polyseme.cli.texts import Json
from polyseme.filters import parse_all
from polyseme.searching import Fusion, Like, Query, SearchMode

Filters = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        help="lang=en, lang!=en, price<10, kind? (is there), !kind?, or JSON; again for more",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(search)


def search(
    context: typer.Context,
    *,
    collection: Annotated[str, typer.Argument(help="the collection's name")],
    query: Annotated[str, typer.Argument(help="a text; with --like a document's id")],
    mode: Annotated[
        SearchMode, typer.Option(help="dense: by meaning; lexical: by words; hybrid: both")
    ] = "dense",
    fusion: Annotated[
        Fusion,
        typer.Option(help="hybrid only: by each side's scores, or by its ranks alone"),
    ] = "relative_score",
    dense_share: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="how much of a hybrid search's score is by meaning (default: what suits the "
            "server's model)",
        ),
    ] = None,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="how many hits")] = 10,
    filters: Filters = None,
    like: Annotated[bool, typer.Option("--like", help="documents like the one of this id")] = False,
    highlight: Annotated[bool, typer.Option(help="show where the texts match")] = True,
    exact: Annotated[bool, typer.Option("--exact", help="compare with every vector")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="say how hits were scored")] = False,
    min_sequence: Annotated[int, typer.Option(min=0, help="see at least this write")] = 0,
    translate_to: Annotated[
        str, typer.Option(help="show the hits in this language too, such as en")
    ] = "",
    as_json: Json = False,
) -> None:
    """The best hits, best first; scores rise.

    Example: polyseme search articles "fruit growing in cold countries" -k 5

    Example: polyseme search articles bank --mode hybrid --filter "words<50" --filter senses=bank
    """
    run = session.of(context, as_json)
    wanted: Query = Like(query) if like else query
    with run.client() as client:
        found = client.search(
            collection,
            wanted,
            mode=mode,
            fusion=fusion,
            dense_share=dense_share,
            k=k,
            filter=parse_all(filters or []),
            highlight=highlight,
            exact=exact,
            explain=explain,
            min_sequence=min_sequence,
            translate_to=translate_to,
        )
    run.show(found, tables.hits(found, session.console().is_terminal))
