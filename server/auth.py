"""Who may call: API keys, of which only hashes are kept."""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_LINE = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,64})\s+(?P<sha256>[0-9a-f]{64})")

AUTHORIZATION = "authorization"  # gRPC metadata: `Bearer KEY`


class KeysUnreadable(ValueError):
    """The file of API keys is missing, or a line of it is no key."""


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """Names of keys by the SHA-256 of the key.

    A plain hash is enough because keys are random and long (make one with
    `openssl rand -hex 32`): there is nothing to guess, so nothing to slow down.
    """

    names: Mapping[bytes, str]

    @classmethod
    def read(cls, file: Path) -> Self:
        """Lines `name sha256`; empty ones and those from `#` are skipped. Raises KeysUnreadable."""
        try:
            lines = file.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise KeysUnreadable(f"API keys {file} cannot be read: {error}") from error
        names = {}
        for number, line in enumerate(lines, start=1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            match = _LINE.fullmatch(line.strip())
            if match is None:  # the line is not quoted: it may hold a key in clear
                raise KeysUnreadable(f"{file}, line {number}: not `name sha256-of-the-key`")
            names[bytes.fromhex(match["sha256"])] = match["name"]
        if not names:
            raise KeysUnreadable(f"{file} holds no API key: nobody could call")
        return cls(names)

    def name_of(self, authorization: str) -> str | None:
        """The name of the key in an `authorization` header, None if it is not on the list.

        Every hash is compared, each in constant time: time tells nothing of the list.
        """
        scheme, _, key = authorization.partition(" ")
        given = hashlib.sha256(key.strip().encode("utf-8")).digest()
        found = None
        for known, name in self.names.items():
            if hmac.compare_digest(known, given):
                found = name
        return found if scheme.lower() == "bearer" else None
