"""What can go wrong in the memory side. Each error carries the parts of its message."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class StoreError(Exception):
    """An error of the memory side that a caller can understand and act upon."""


class InvalidInput(StoreError):
    """A value of the caller cannot be accepted; `field` is its path, as `documents[3].text`."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class FilterInvalid(InvalidInput):
    """A filter that means nothing; `field` is the path in its tree, as `filter.and[1].not`."""


class VectorInvalid(InvalidInput):
    """A vector with a value that is not finite, or of length 0 where cosine is the metric."""


class DimensionMismatch(VectorInvalid):
    """A vector with another number of values than its collection's."""

    def __init__(self, field: str, given: int, expected: int) -> None:
        super().__init__(field, f"the vector has {given} values; the collection has {expected}")
        self.given = given
        self.expected = expected


class PageTokenInvalid(InvalidInput):
    """A page token that did not come from this call with these arguments."""

    def __init__(self) -> None:
        super().__init__("page_token", "not a token of this list; start without one")


class NotFound(StoreError):
    """Something that was asked for by name is not there."""


class CollectionNotFound(NotFound):
    def __init__(self, name: str) -> None:
        super().__init__(f"there is no collection {name!r}")
        self.name = name


class DocumentNotFound(NotFound):
    def __init__(self, id: str) -> None:
        super().__init__(f"there is no document {id!r}")
        self.id = id


class CollectionExists(StoreError):
    def __init__(self, name: str) -> None:
        super().__init__(f"there is a collection {name!r} already")
        self.name = name


class DocumentExists(StoreError):
    def __init__(self, id: str) -> None:
        super().__init__(f"there is a document {id!r} already")
        self.id = id


class EtagMismatch(StoreError):
    """Someone else changed the collection since the caller read it."""

    def __init__(self, name: str, given: str, current: str) -> None:
        super().__init__(f"collection {name!r} has etag {current!r}, not {given!r}: read it again")
        self.name = name
        self.given = given
        self.current = current


class RequestIdReused(StoreError):
    """A request id came back with another content: that is a mistake, not a retry."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"request id {request_id!r} was used before for something else")
        self.request_id = request_id


class FingerprintMismatch(StoreError):
    """Vectors of one model cannot be compared with vectors of another."""

    def __init__(self, name: str, given: str, expected: str, differences: Sequence[str]) -> None:
        what = "; ".join(differences) or "unknown parts"
        super().__init__(
            f"collection {name!r} holds vectors of model {expected[:12]}, not {given[:12]}: {what}"
        )
        self.name = name
        self.given = given
        self.expected = expected
        self.differences = tuple(differences)


class SequenceNotReached(StoreError):
    """The write that the caller wants to see is not here (yet)."""

    def __init__(self, wanted: int, current: int) -> None:
        super().__init__(f"sequence {wanted} is not reached; the collection is at {current}")
        self.wanted = wanted
        self.current = current


class AnswerTooLarge(StoreError):
    """The documents of an answer have more bytes than one may hold; the rest was not read."""

    def __init__(self, found_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"the documents of this answer have {found_bytes} bytes or more; the limit is "
            f"{limit_bytes}: ask for less at once"
        )
        self.found_bytes = found_bytes
        self.limit_bytes = limit_bytes


class ReadOnly(StoreError):
    """Writes are refused because something is damaged; reads go on as far as they can."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"collection {name!r} is read-only: {reason}")
        self.name = name
        self.reason = reason


class DataDamaged(StoreError):
    """A file does not hold what was written to it."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} is damaged: {reason}")
        self.path = path
        self.reason = reason


class DiskFull(StoreError):
    """There is no room to write; nothing changed, and reads go on."""

    def __init__(self, path: Path, free_bytes: int) -> None:
        super().__init__(f"no room to write in {path}: {free_bytes} bytes are free")
        self.path = path
        self.free_bytes = free_bytes


class DirectoryInUse(StoreError):
    """Another process holds the data directory."""

    def __init__(self, path: Path, pid: int | None) -> None:
        holder = "another process" if pid is None else f"process {pid}"
        super().__init__(f"data directory {path} is in use by {holder}")
        self.path = path
        self.pid = pid


class FormatTooNew(StoreError):
    """The data was written by a later version."""

    def __init__(self, path: Path, found: int, known: int) -> None:
        super().__init__(
            f"{path} has data format {found}; this version knows up to {known}: use a newer version"
        )
        self.path = path
        self.found = found
        self.known = known


class Closed(StoreError):
    """The store, or the collection, was closed or deleted."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is closed")
        self.name = name


class StorageFailed(StoreError):
    """The file system or SQLite failed in a way that is neither damage nor a full disk."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason
