"""Who may call, and what: API keys, of which only hashes are kept."""

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Self

AUTHORIZATION = "authorization"  # gRPC metadata: `Bearer KEY`

KEY_PREFIX = "polyseme_"  # by which scanners, and we, know a key where none should be
KEY_BYTES = 32  # of randomness; a hash without a salt is safe from 16 on
KEYS_MAX = 1000  # in one file: every call is compared with all of them, 0.3 us each

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LINE = re.compile(
    rf"(?P<name>{NAME.pattern})\s+(?P<sha256>[0-9a-f]{{64}})"
    r"\s+(?P<scopes>[a-z]+(,[a-z]+)*)(\s+(?P<tokens_per_s>[1-9][0-9]{0,11}))?"
)
FORM = "`name sha256-of-the-key scopes [tokens-per-second]`"


class Scope(StrEnum):
    """What a key may be used for. None includes another: a key has those that its line names."""

    READ = "read"  # asks: embeddings, searches, documents
    WRITE = "write"  # changes collections and documents
    ADMIN = "admin"  # snapshots, checks, statistics, sending the server home


class KeysUnreadable(ValueError):
    """The file of API keys is missing, or a line of it is no key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What is known of a key: not the key."""

    name: str
    sha256: bytes = field(repr=False)
    scopes: frozenset[Scope]
    tokens_per_s: int | None = None  # None: as many as the server computes

    def line(self) -> str:
        """As it stands in the file."""
        scopes = ",".join(scope for scope in Scope if scope in self.scopes)
        rate = [] if self.tokens_per_s is None else [str(self.tokens_per_s)]
        return " ".join([self.name, self.sha256.hex(), scopes, *rate])


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """The keys that a file lists.

    A plain SHA-256 is enough because keys are random and long (`polyseme-server key` makes them
    of 256 bits): there is nothing to guess, so nothing to slow down. scrypt or argon2 would cost
    each call the 50 ms that they are meant to cost, and a stranger could ask for them.
    """

    keys: tuple[Key, ...]

    @classmethod
    def read(cls, file: Path) -> Self:
        """A key a line; empty lines and those from `#` are skipped. Raises KeysUnreadable."""
        try:
            lines = file.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise KeysUnreadable(f"API keys {file} cannot be read: {error}") from error
        numbered = [(n, line.strip()) for n, line in enumerate(lines, start=1)]
        try:
            keys = tuple(_key(n, line) for n, line in numbered if line and line[0] != "#")
            _check(keys)
        except KeysUnreadable as error:
            raise KeysUnreadable(f"{file}, {error}") from None
        return cls(keys)

    def find(self, authorization: Sequence[str]) -> Key | None:
        """The key in a call's `authorization` headers; None if it is not on the list.

        Every hash is compared, each in constant time: time tells nothing of the list. Of two
        headers neither counts: what stands in front of the server may have looked at the other.
        """
        if len(authorization) != 1:
            return None
        scheme, _, key = authorization[0].partition(" ")
        given = sha256_of(key.strip())
        found = None
        for known in self.keys:
            if hmac.compare_digest(known.sha256, given):
                found = known
        return found if scheme.lower() == "bearer" else None


def sha256_of(key: str) -> bytes:
    """What is kept of `key`."""
    return hashlib.sha256(key.encode("utf-8")).digest()


def new_key(name: str, scopes: Iterable[Scope], tokens_per_s: int | None) -> tuple[str, Key]:
    """A key of 256 random bits, and what is kept of it."""
    secret = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
    kept = Key(
        name=name, sha256=sha256_of(secret), scopes=frozenset(scopes), tokens_per_s=tokens_per_s
    )
    return secret, kept


def append(file: Path, key: Key) -> None:
    """Add `key` to `file`, which is made for its owner's eyes if it is missing.

    Raises KeysUnreadable, and then changes nothing, for a name that is taken and a file that is
    none of keys.
    """
    text = ""
    if file.exists() and file.stat().st_size:
        _check((*ApiKeys.read(file).keys, key))
        text = "" if file.read_text("utf-8").endswith("\n") else "\n"
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with open(descriptor, "w", encoding="utf-8") as out:
            out.write(f"{text}{key.line()}\n")
    except OSError as error:
        raise KeysUnreadable(f"API keys {file} cannot be written: {error.strerror}") from error


def _key(number: int, line: str) -> Key:
    match = _LINE.fullmatch(line)
    if match is None:  # the line is not quoted: it may hold a key in clear
        raise KeysUnreadable(f"line {number}: not {FORM}")
    names = match["scopes"].split(",")
    if not set(names) <= set(Scope):
        raise KeysUnreadable(f"line {number}: the scopes are {', '.join(Scope)}")
    return Key(
        name=match["name"],
        sha256=bytes.fromhex(match["sha256"]),
        scopes=frozenset(Scope(name) for name in names),
        tokens_per_s=int(match["tokens_per_s"]) if match["tokens_per_s"] else None,
    )


def _check(keys: Sequence[Key]) -> None:
    """Raises KeysUnreadable."""
    if not keys:
        raise KeysUnreadable("no API key in it: nobody could call")
    if len(keys) > KEYS_MAX:
        raise KeysUnreadable(f"{len(keys)} API keys; the limit is {KEYS_MAX}")
    for what in ("name", "sha256"):
        seen = {getattr(key, what) for key in keys}
        if len(seen) < len(keys):
            raise KeysUnreadable(f"two API keys have the same {what}")
