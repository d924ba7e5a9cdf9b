"""How to reach a server: address, TLS, API key, and the channel made of them."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio

from polyseme.version import VERSION

DEFAULT_ADDRESS = "127.0.0.1:50051"
_HEADER_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")
ANSWER_BYTES_MAX = 64 * 2**20  # four times the largest that a server sends by default


@dataclass(frozen=True, slots=True)
class Tls:
    """Files for TLS, all PEM. None of them: the system's authorities, no client certificate."""

    ca: Path | str | None = None  # authorities that may have signed the server's certificate
    certificate: Path | str | None = None  # the client's, for mutual TLS
    key: Path | str | None = None  # its private key

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: give both or none")

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files. Raises OSError for one that cannot be read."""
        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.ca),
            private_key=_read(self.key),
            certificate_chain=_read(self.certificate),
        )


def _read(path: Path | str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Where the server is and how to talk to it. The API key never shows in a repr."""

    target: str
    tls: Tls | None = None
    api_key: str | None = field(default=None, repr=False)
    insecure: bool = False  # allow an API key to travel unencrypted past this machine

    def __post_init__(self) -> None:
        host, _, port = self.target.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError(f"target {self.target!r} is not host:port, such as {DEFAULT_ADDRESS}")
        if self.api_key and not _HEADER_VALUE.fullmatch(self.api_key):
            raise ValueError(
                "the API key has characters that no header carries: only printable ASCII can, "
                "without blanks around it"
            )
        if self.api_key and not (self.tls or self.insecure or is_loopback(host)):
            raise ValueError(
                f"the API key would travel to {host} unencrypted: pass tls=Tls(...), "
                "or insecure=True if the network itself is private"
            )

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries."""
        return (("authorization", f"Bearer {self.api_key}"),) if self.api_key else ()

    def channel(self) -> grpc.Channel:
        """A blocking channel; it connects with the first call."""
        if self.tls is None:
            return grpc.insecure_channel(self.target, options=self._options())
        return grpc.secure_channel(self.target, self.tls.credentials(), options=self._options())

    def aio_channel(self) -> grpc.aio.Channel:
        """An asyncio channel; it connects with the first call."""
        if self.tls is None:
            return grpc.aio.insecure_channel(self.target, options=self._options())
        return grpc.aio.secure_channel(self.target, self.tls.credentials(), options=self._options())

    def _options(self) -> list[tuple[str, str | int]]:
        options: list[tuple[str, str | int]] = [
            ("grpc.max_receive_message_length", ANSWER_BYTES_MAX),
            ("grpc.max_send_message_length", -1),  # the server publishes and enforces its limit
            ("grpc.primary_user_agent", f"polyseme-python/{VERSION}"),
            # A server that restarts is found again within a retry, not after gRPC's 1..120 s.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2000),
        ]
        if is_loopback(self.target.rpartition(":")[0]):
            # A proxy from the environment cannot reach this machine's own loopback.
            options.append(("grpc.enable_http_proxy", 0))
        return options


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine itself."""
    host = host.strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
