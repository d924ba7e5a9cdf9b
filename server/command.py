"""The `polyseme-server` command."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, PositiveInt, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliApp,
    CliPositionalArg,
    CliSubCommand,
    SettingsConfigDict,
    SettingsError,
)

from server import auth
from server.settings import PREFIX, Settings, unknown_variables

USAGE_ERROR = 2
FAILURE = 1


# Threads of numpy's BLAS and of FAISS spin for milliseconds after their work, on cores that the
# model and gRPC want. Read when the libraries are loaded; who sets them knows better.
QUIET_LIBRARIES = {"OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


class Serve(Settings):
    __doc__ = Settings.__doc__

    def cli_cmd(self) -> None:
        for name, value in QUIET_LIBRARIES.items():
            os.environ.setdefault(name, value)
        from server.process import serve  # loads onnxruntime and FAISS; --help must not wait

        sys.exit(serve(self))


class Config(Settings):
    """Print every setting with its value, as `serve` would see it, and start nothing."""

    def cli_cmd(self) -> None:
        for name in type(self).model_fields:
            value = getattr(self, name)
            print(f"{PREFIX}{name.upper()}={'' if value is None else value}")


class Check(BaseSettings):
    """Verify every collection of a data directory; with --repair, rebuild what can be rebuilt.

    The server must not be running on it. Exit status 0: all is well, or was repaired without loss;
    1: there are findings, or documents were lost; 2: the directory cannot be checked.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, cli_kebab_case=True, cli_implicit_flags=True
    )

    data: Path = Field(default=Path("data"), description="directory of the collections")
    repair: bool = Field(default=False, description="rebuild indexes from the documents")

    def cli_cmd(self) -> None:
        from server.maintenance import check  # loads FAISS; --help must not wait

        sys.exit(check(self.data, repair=self.repair))


class Healthcheck(BaseSettings):
    """Ask a running server whether it serves. Exit status 0: it does; 1: it does not.

    For container health checks. TLS servers are asked with --tls-ca.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, cli_kebab_case=True, extra="ignore")

    address: str = Field(default="127.0.0.1:50051", description="host:port of the server")
    timeout_s: float = Field(default=2.0, gt=0, description="seconds to wait for its answer")
    tls_ca: Path | None = Field(default=None, description="PEM file: who signed its certificate")

    def cli_cmd(self) -> None:
        from server.process import healthcheck  # loads gRPC; --help must not wait

        sys.exit(healthcheck(self.address, self.timeout_s, self.tls_ca))


def _scopes(given: str) -> str:
    if not set(given.split(",")) <= set(auth.Scope):
        raise ValueError(f"give some of {','.join(auth.Scope)}")
    return given


class Key(BaseSettings):
    """Make an API key of 256 random bits, and the line that the server keeps of it.

    The key is printed once and stored nowhere: give it to its holder. The line has its SHA-256
    alone; `serve --api-keys FILE` reads a file of such lines when it starts.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, cli_kebab_case=True, extra="ignore")

    name: CliPositionalArg[str] = Field(
        pattern=f"^{auth.NAME.pattern}$", description="whose it is; logs name it"
    )
    scopes: Annotated[str, AfterValidator(_scopes)] = Field(
        default="read",
        description="what it may do, with commas between: read (embeddings, searches, documents), "
        "write (collections, documents), admin (snapshots, checks, statistics, drain)",
    )
    tokens_per_s: PositiveInt | None = Field(
        default=None,
        description="tokens a second that it may ask for on average, 16 a call beside the texts'; "
        "default: as many as the server computes",
    )
    file: Path | None = Field(
        default=None, description="add the line to this file; then only the key is printed"
    )

    def cli_cmd(self) -> None:
        scopes = [auth.Scope(name) for name in self.scopes.split(",")]
        secret, key = auth.new_key(self.name, scopes, self.tokens_per_s)
        if self.file is None:
            print(f"key:  {secret}\nline: {key.line()}")
            return
        try:
            auth.append(self.file, key)
        except auth.KeysUnreadable as error:
            fail(str(error), FAILURE)
        print(secret)


class Torture(BaseSettings):
    """Kill a server at random while it is written to, and see whether it keeps its promises.

    It starts servers of its own on a directory of its own. After each restart everything that
    was acknowledged must be there, whole and once. Exit status 0: it was; 1: it was not.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, cli_kebab_case=True, extra="ignore")

    seed: int | None = Field(default=None, description="of the workload; without one, a new one")
    seconds: float = Field(default=120.0, gt=0, description="how long")
    kills: int = Field(default=0, ge=0, description="end after so many; 0: only time counts")
    data: Path | None = Field(
        default=None, description="empty directory to use and keep; default: a temporary one"
    )
    model: Path = Field(
        default=Settings.model_fields["model"].default, description="model directory"
    )

    def cli_cmd(self) -> None:
        from server.torture.run import torture  # loads gRPC and FAISS; --help must not wait

        sys.exit(
            torture(
                seed=self.seed,
                seconds=self.seconds,
                kills=self.kills,
                data=self.data,
                model=self.model,
            )
        )


class Version(BaseSettings):
    """Print the versions of the server and of what it is built on."""

    def cli_cmd(self) -> None:
        from server.version import server_version, versions

        print(f"polyseme-server {server_version()}")
        for name, version in versions().items():
            print(f"{name} {version}")


class Command(BaseSettings):
    """The polyseme server: embeddings, words in context and semantic search over gRPC.

    `polyseme-server serve --model DIR --data DIR` is all that it takes to begin;
    `polyseme-server serve --help` names every setting.
    """

    model_config = SettingsConfigDict(
        cli_prog_name="polyseme-server",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_exit_on_error=False,  # argparse would quote what it does not know; it may be a key
    )

    serve: CliSubCommand[Serve] = Field(description="run the server")
    check: CliSubCommand[Check] = Field(description="verify a data directory, and repair it")
    config: CliSubCommand[Config] = Field(description="print every setting with its value")
    healthcheck: CliSubCommand[Healthcheck] = Field(
        description="ask a running server whether it serves"
    )
    key: CliSubCommand[Key] = Field(description="make an API key")
    torture: CliSubCommand[Torture] = Field(
        description="kill a server again and again, and see whether it loses anything"
    )
    version: CliSubCommand[Version] = Field(description="print versions")

    def cli_cmd(self) -> None:
        CliApp.run_subcommand(self)


def main(arguments: list[str] | None = None) -> None:
    """Exit status 0: done; 1: it failed, and stderr says why; 2: it was asked for wrongly."""
    arguments = sys.argv[1:] if arguments is None else arguments
    asked_for = arguments[0] if arguments else ""
    if asked_for in ("serve", "config") and (unknown := unknown_variables()):
        fail(f"{', '.join(unknown)}: no such setting; `polyseme-server config` lists them all")
    if not arguments:
        arguments = ["--help"]
    try:
        CliApp.run(Command, cli_args=arguments)
    except ValidationError as error:
        fail("; ".join(_sentence(detail["loc"], detail["msg"]) for detail in error.errors()))
    except SettingsError as error:
        fail(without_values(str(error)))


def fail(problem: str, status: int = USAGE_ERROR) -> None:
    print(f"polyseme-server: {problem}", file=sys.stderr)
    sys.exit(status)


def without_values(problem: str) -> str:
    """What argparse says of arguments that it does not know, with their names alone: a value may
    be a key that was meant for another option."""
    said, unrecognized, arguments = problem.partition("unrecognized arguments: ")
    if not unrecognized:
        return re.sub(r"(invalid choice:|explicit argument) '.*?'(?=$| \(choose)", r"\1", problem)
    words = [word.partition("=")[0] for word in arguments.split()]
    options = [word for word in words if re.fullmatch(r"--?[a-z][a-z-]*", word)]
    return said + unrecognized + (" ".join(options) or "they are not options")


def _sentence(location: tuple[int | str, ...], message: str) -> str:
    name = ".".join(str(part) for part in location if part not in Command.model_fields)
    problem = message.removeprefix("Value error, ")
    return f"{name.lower()}: {problem}" if name else problem


if __name__ == "__main__":
    main()
