"""info, health."""

from __future__ import annotations

from typing import Annotated

import typer

from polyseme.cli import session, tables
from polyseme.cli.texts import Json
from polyseme.errors import PermissionDenied


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(info)
    app.command()(health)


def info(context: typer.Context, as_json: Json = False) -> None:
    """What the server is: version, models, limits, how it fares.

    Example: polyseme info --json | jq .limits.inputs_max
    """
    run = session.of(context, as_json)
    with run.client() as client:
        found = client.info()
        try:
            fares = client.statistics()
        except PermissionDenied:  # a key with the scope `read` alone
            fares = None
    rows: list[tuple[str, object]] = [
        ("server", f"{run.address}, version {found.version}, API {found.api_version}")
    ]
    if fares is not None:
        memory = tables.bytes_text(fares.resident_bytes)
        done = f"{fares.texts:,} texts, {fares.tokens:,} tokens in {fares.batches:,} batches"
        rows += [
            ("up", f"{fares.uptime_s:,.0f} s, {memory} of memory"),
            ("holds", f"{fares.collections:,} collections, {fares.documents:,} documents"),
            ("done", done),
            ("waiting", f"{fares.queue_texts:,} texts"),
        ]
    for m in found.models:
        bound = m.cosine_distance_max
        unsure = f"1 - cosine within {bound:g}" if bound else "nearly the same; not measured"
        same = "the same bytes" if m.exact else unsure
        rows += [
            ("model", f"{m.name} on {m.device}, {m.fingerprint.numeric_class}"),
            ("", f"{m.layers} layers, {m.dimensions} dimensions, {m.tokens_max} tokens"),
            ("", f"the same text gives {same}"),
            ("", f"fingerprint {m.fingerprint.combined}"),
        ]
    limits = session.plain(found.limits)
    rows += [(name.replace("_", " "), f"{value:,}") for name, value in limits.items()]
    rows += [(name, version) for name, version in sorted(found.build.items())]
    statistics = {} if fares is None else {"statistics": session.plain(fares)}
    run.show({**session.plain(found), **statistics}, tables.pairs(rows))


def health(
    context: typer.Context,
    *,
    service: Annotated[
        str, typer.Argument(help="such as polyseme.v1.SearchService; default: the whole server")
    ] = "",
    wait_s: Annotated[float, typer.Option(min=0, help="wait so long for it to serve")] = 0,
    as_json: Json = False,
) -> None:
    """Whether the server takes calls: exit status 0 if it does, 1 if not, 3 if none answers.

    Example: polyseme health --wait-s 30 && polyseme collections list
    """
    run = session.of(context, as_json)
    with run.client() as client:
        if wait_s:
            client.wait_until_serving(timeout_s=wait_s)
        state = client.health(service)
    run.show({"service": service, "status": state}, tables.pairs([("status", state)]))
    if state != "serving":
        raise typer.Exit(session.Exit.FAILED)
