"""The command line put together."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from polyseme.cli import (
    attention,
    collections,
    documents,
    filling,
    loading,
    search,
    senses,
    server,
    texts,
    translation,
)
from polyseme.cli.session import EXIT_HELP, Exit, PipeClosed, Session, say
from polyseme.connection import DEFAULT_ADDRESS, Tls
from polyseme.errors import DeadlineExceeded, PolysemeError, Unavailable
from polyseme.version import VERSION

app = typer.Typer(
    name="polyseme",
    help="Texts to vectors, words in context, semantic search: talks to a polyseme server.\n\n"
    + EXIT_HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.add_typer(collections.app, name="collections")
app.add_typer(senses.app, name="senses")
for module in (texts, attention, filling, translation, search, loading, documents, server):
    module.register(app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(VERSION)
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    *,
    address: Annotated[
        str,
        typer.Option(envvar=["POLYSEME_SERVER", "POLYSEME_ADDRESS"], help="the server's host:port"),
    ] = DEFAULT_ADDRESS,
    api_key_file: Annotated[
        Path | None,
        typer.Option(help="file with the API key; or set POLYSEME_API_KEY", dir_okay=False),
    ] = None,
    tls: Annotated[
        bool, typer.Option("--tls", help="use TLS with the system's authorities")
    ] = False,
    tls_ca: Annotated[
        Path | None, typer.Option(envvar="POLYSEME_TLS_CA", help="PEM file: trust these instead")
    ] = None,
    tls_client_cert: Annotated[
        Path | None,
        typer.Option(envvar="POLYSEME_TLS_CLIENT_CERT", help="PEM file: your certificate"),
    ] = None,
    tls_client_key: Annotated[
        Path | None, typer.Option(envvar="POLYSEME_TLS_CLIENT_KEY", help="PEM file: its key")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="send the API key without TLS past this machine")
    ] = False,
    timeout_s: Annotated[
        float, typer.Option(min=0.001, help="seconds for one request, retries included")
    ] = 60.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="print JSON, one object or one a line")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Options for every command stand before its name."""
    files = (
        Tls(ca=tls_ca, certificate=tls_client_cert, key=tls_client_key)
        if ((tls_client_cert is None) == (tls_client_key is None))
        else None
    )
    if files is None:
        raise typer.BadParameter("--tls-client-cert and --tls-client-key belong together")
    context.obj = Session(
        address=address,
        api_key=_api_key(api_key_file),
        tls=files if tls or tls_ca or tls_client_cert else None,
        insecure=insecure,
        timeout_s=timeout_s,
        as_json=as_json,
    )


def _api_key(file: Path | None) -> str | None:
    """Never an option of its own: command lines are visible to every user of the machine."""
    if file is None:
        return os.environ.get("POLYSEME_API_KEY", "").strip() or None
    try:
        return file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"--api-key-file: {error}") from None


def run() -> int:
    """Run the command line; the result is the exit status."""
    try:
        app()
        return Exit.OK
    except SystemExit as end:
        return _flushed(end.code if isinstance(end.code, int) else int(bool(end.code)))
    except PipeClosed:
        return _pipe_closed()
    except KeyboardInterrupt:
        say("interrupted")
        return Exit.INTERRUPTED
    except PolysemeError as error:
        say(f"polyseme: {error}")
        return exit_code(error)


def exit_code(error: PolysemeError) -> Exit:
    """What the exit status says about a failed call."""
    if not error.failure.sent:
        return Exit.USAGE
    return Exit.UNREACHABLE if isinstance(error, Unavailable | DeadlineExceeded) else Exit.FAILED


def _flushed(code: int) -> int:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return _pipe_closed()
    return code


def _pipe_closed() -> int:
    # Python flushes stdout once more at the end and would complain about the same pipe.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return Exit.PIPE_CLOSED
