"""Every choice an operator has: a field is a flag, an environment variable and a line of help."""

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from server.auth import KEY_PREFIX

PREFIX = "POLYSEME_"

# The `polyseme` command's own variables; a shell that has them may start a server all the same.
CLIENT_VARIABLES = frozenset(
    f"{PREFIX}{name}"
    for name in ("API_KEY", "SERVER", "TLS_CA", "TLS_CLIENT_CERT", "TLS_CLIENT_KEY")
)

MIB = 1024 * 1024

Limit = Annotated[int, Field(gt=0, le=2**31 - 1)]  # GetServerInfo publishes it as an int32


class Settings(BaseSettings):
    """Run the server until SIGTERM or Ctrl-C.

    Each option is a flag (`--batch-tokens-max 2048`) and an environment variable
    (`POLYSEME_BATCH_TOKENS_MAX=2048`); the flag wins. Nothing else reads the environment.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="forbid",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    # Where
    address: str = Field(
        default="127.0.0.1:50051",
        description="host:port for gRPC; port 0 takes a free one. Beyond loopback it needs TLS",
    )
    http_address: str = Field(
        default="",
        description="host:port for /metrics and /healthz, which have no TLS; empty: no HTTP side",
    )
    data: Path = Field(
        default=Path("data"), description="directory of the collections; made if missing"
    )

    # Which model, and how it runs
    model: Path = Field(
        default=Path("models/polyseme-nano"),
        description="model directory, as `polyseme-model import` and `export` leave it",
    )
    precision: Literal["int8", "fp32", "fp16"] = Field(
        default="int8",
        description="int8: fastest on CPU; fp32: exact, about half as fast; fp16: for GPUs",
    )
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="what runs the model")
    threads: NonNegativeInt = Field(
        default=0,
        description="cores that the model uses for people's texts, and as many for bulk; 0: as "
        "many as the process may use",
    )
    translation_model: Path | None = Field(
        default=None,
        description="model directory that translates; by default the model's own translator, if "
        "it has one",
    )
    model_workers: NonNegativeInt = Field(
        default=0,
        description="model calls side by side, people's and bulk's each; 0: one for each core, or "
        "one where both take turns (bulk-niceness 0, or a GPU)",
    )
    translation_workers: NonNegativeInt = Field(
        default=0,
        description="batches translated side by side, a core each; 0: as many as there are cores",
    )
    search_workers: PositiveInt = Field(
        default=4, description="threads for reading and writing collections"
    )

    # Who may come in
    tls_cert: Path | None = Field(default=None, description="PEM file: certificate chain")
    tls_key: Path | None = Field(default=None, description="PEM file: its private key")
    tls_client_ca: Path | None = Field(
        default=None, description="PEM file: authority of the clients' certificates; asks for mTLS"
    )
    insecure: bool = Field(
        default=False,
        description="listen beyond loopback without TLS: only behind a proxy that ends TLS",
    )
    api_keys: Path | None = Field(
        default=None,
        description="file of lines that `polyseme-server key` makes; calls must then carry one of "
        "these keys",
    )

    # Batching
    batch_tokens_max: PositiveInt = Field(
        default=1024,
        description="padded tokens in one model call; sets peak memory, with model-workers. GPUs "
        "want 65536",
    )
    bulk_niceness: int = Field(
        default=10,
        ge=0,
        le=19,
        description="how much nicer than the rest the threads are that compute bulk texts (CPU, "
        "Linux): at 10 they get a tenth of what people's texts want, and all that these leave; 0: "
        "both take turns in the same threads",
    )
    bulk_batch_s_max: PositiveFloat = Field(
        default=0.008,
        description="seconds that a model call of bulk texts takes while people call too and both "
        "take turns, which is what one of them may wait for; shorter ones cost throughput",
    )
    translation_batch_tokens_max: PositiveInt = Field(
        default=4096,
        description="padded source tokens times beams that are decoded together; sets peak "
        "memory, and how long an interactive translation may wait for a bulk one",
    )
    bulk_age_s_max: PositiveFloat = Field(
        default=2.0,
        description="where both take turns, as translations do: after so many seconds a bulk text "
        "goes before newer interactive ones, but while people wait only in every fifth batch",
    )
    queue_texts_max: Limit = Field(
        default=8192, description="texts waiting before new calls get RESOURCE_EXHAUSTED"
    )

    # What one call may ask for
    message_bytes_max: PositiveInt = Field(
        default=16 * MIB, description="bytes of one message, either way"
    )
    inputs_max: Limit = Field(default=2048, description="texts in one call")
    call_tokens_max: Limit = Field(
        default=262_144, description="tokens in one call, all texts together"
    )
    text_bytes_max: Limit = Field(default=MIB, description="UTF-8 bytes of one text")
    spans_max: Limit = Field(default=8192, description="words in one EmbedWords call")
    k_max: Limit = Field(default=1000, description="hits of one search")
    # As many queries as a call may have, with the default k; 1.4 KiB each while they are made.
    hits_max: Limit = Field(
        default=20_480, description="hits of one BatchSearch, its queries times k"
    )
    page_size_max: Limit = Field(default=1000, description="items of one page")
    filter_depth_max: Limit = Field(default=16, description="nesting of a filter")
    filter_terms_max: Limit = Field(default=256, description="conditions of a filter")
    documents_max: Limit = Field(default=1000, description="documents in one write")
    metadata_bytes_max: Limit = Field(
        default=65_536, description="bytes of a document's metadata as JSON"
    )
    id_bytes_max: Limit = Field(default=512, description="UTF-8 bytes of a document's id")
    attention_cells_max: Limit = Field(
        default=16 * 1024 * 1024,
        description="attention weights, layers x heads x tokens x tokens, that one call may have "
        "computed, 4 bytes each",
    )
    masks_max: Limit = Field(
        default=64,
        description="masks in one FillMask or Substitute call; each takes 4 bytes a token of the "
        "vocabulary",
    )
    senses_max: Limit = Field(
        default=1024, description="senses in one inventory, all words together"
    )
    beams_max: Limit = Field(default=16, description="beams of one translation's search")
    translation_tokens_max: Limit = Field(
        default=262_144,
        description="source tokens times beams in one Translate call, or in the hits of a search",
    )
    disk_free_bytes_min: NonNegativeInt = Field(
        default=64 * MIB,
        description="free bytes below which writes get RESOURCE_EXHAUSTED; reads go on",
    )
    calls_max: PositiveInt = Field(
        default=1024, description="calls running before new ones get RESOURCE_EXHAUSTED"
    )
    streams_max: PositiveInt = Field(
        default=8192,
        description="streams of requests open, which may be silent, before new ones get "
        "RESOURCE_EXHAUSTED",
    )
    stream_requests_max: PositiveInt = Field(
        default=4, description="messages of one stream worked on at a time; then it waits"
    )
    stream_idle_s_max: PositiveFloat = Field(
        default=300.0, description="a stream with no message for so many seconds is ended"
    )

    # Going home
    shutdown_grace_s: float = Field(
        default=30.0, ge=0, description="seconds that running calls get after SIGTERM"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="JSON lines on stderr; info has a line a call"
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        for name in ("address", "http_address"):
            self._check_address(name, getattr(self, name))
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together: give both or neither")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca needs tls_cert and tls_key")
        if self.api_keys is not None and self.api_keys.name.startswith(KEY_PREFIX):
            raise ValueError("api_keys is the name of a file of keys' hashes; this is a key")
        if self.inputs_max > self.queue_texts_max:
            raise ValueError(
                f"inputs_max {self.inputs_max} is above queue_texts_max {self.queue_texts_max}: "
                "the largest call could never wait"
            )
        if self.k_max > self.hits_max:
            raise ValueError(f"k_max {self.k_max} is above hits_max {self.hits_max}")
        return self

    def _check_address(self, name: str, address: str) -> None:
        if name == "http_address" and not address:
            return
        host = host_and_port(address)[0]
        secured = self.tls_cert is not None and name == "address"
        if not (is_loopback(host) or secured or self.insecure):
            tls = "" if name == "http_address" else "tls_cert and tls_key, or "
            raise ValueError(
                f"{name} {address} is not loopback: give {tls}insecure if something in front of "
                "the server ends TLS"
            )


def host_and_port(address: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port` in its parts. Raises ValueError."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{address!r} is not host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether `host` can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: it may resolve to anything
        return False


def unknown_variables(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Variables that look like ours and mean nothing: almost always a misspelling."""
    known = {PREFIX + name.upper() for name in Settings.model_fields} | CLIENT_VARIABLES
    ours = (name.upper() for name in environment if name.upper().startswith(PREFIX))
    return sorted(name for name in ours if name not in known)
