"""The rows of the error table for what the index raises. Importing this module puts them in."""

import re
from collections.abc import Mapping
from dataclasses import replace

from grpc import StatusCode

from index.errors import (
    AnswerTooLarge,
    Closed,
    CollectionExists,
    CollectionNotFound,
    DataDamaged,
    DiskFull,
    DocumentExists,
    DocumentNotFound,
    EtagMismatch,
    FingerprintMismatch,
    FormatTooNew,
    InvalidInput,
    ReadOnly,
    RequestIdReused,
    SequenceNotReached,
    StorageFailed,
)
from server.errors import Answer, bad_request, resource_info, retry_info, row

CLOSED_RETRY_S = 1.0  # another server, or this one after its restart, may answer then
DISK_RETRY_S = 60.0  # somebody has to make room


@row(InvalidInput)
def _(error: InvalidInput) -> Answer:
    problem = str(error).removeprefix(f"{error.field}: ")
    return Answer(
        code=StatusCode.INVALID_ARGUMENT,
        reason="INVALID_FIELD",
        message=str(error),
        metadata={"field": error.field},
        details=(bad_request(error.field, problem),),
    )


@row(CollectionNotFound)
def _(error: CollectionNotFound) -> Answer:
    return _about(
        StatusCode.NOT_FOUND, "COLLECTION_NOT_FOUND", error, kind="collection", name=error.name
    )


@row(DocumentNotFound)
def _(error: DocumentNotFound) -> Answer:
    return _about(StatusCode.NOT_FOUND, "DOCUMENT_NOT_FOUND", error, kind="document", name=error.id)


@row(CollectionExists)
def _(error: CollectionExists) -> Answer:
    return _about(
        StatusCode.ALREADY_EXISTS, "COLLECTION_EXISTS", error, kind="collection", name=error.name
    )


@row(DocumentExists)
def _(error: DocumentExists) -> Answer:
    return _about(
        StatusCode.ALREADY_EXISTS, "DOCUMENT_EXISTS", error, kind="document", name=error.id
    )


@row(EtagMismatch)
def _(error: EtagMismatch) -> Answer:
    etags = {"given": error.given, "current": error.current}
    return _about(
        StatusCode.ABORTED, "ETAG_MISMATCH", error, kind="collection", name=error.name, parts=etags
    )


@row(RequestIdReused)
def _(error: RequestIdReused) -> Answer:
    return Answer(
        code=StatusCode.INVALID_ARGUMENT,
        reason="REQUEST_ID_REUSED",
        message=str(error),
        metadata={"request_id": error.request_id},
        details=(bad_request("request_id", "it was used before for something else"),),
    )


@row(FingerprintMismatch)
def _(error: FingerprintMismatch) -> Answer:
    parts = {
        "given": error.given,
        "expected": error.expected,
        "differences": "; ".join(error.differences),
    }
    code = StatusCode.FAILED_PRECONDITION
    return _about(
        code, "FINGERPRINT_MISMATCH", error, kind="collection", name=error.name, parts=parts
    )


@row(SequenceNotReached)
def _(error: SequenceNotReached) -> Answer:
    return Answer(
        code=StatusCode.FAILED_PRECONDITION,
        reason="SEQUENCE_NOT_REACHED",
        message=str(error),
        metadata={"wanted": str(error.wanted), "current": str(error.current)},
    )


@row(AnswerTooLarge)
def _(error: AnswerTooLarge) -> Answer:
    """As for a ReplyTooLarge: callers do the same about it."""
    numbers = {"reply_bytes": str(error.found_bytes), "limit_bytes": str(error.limit_bytes)}
    return Answer(
        code=StatusCode.INVALID_ARGUMENT,
        reason="REPLY_TOO_LARGE",
        message=str(error),
        metadata=numbers,
    )


@row(ReadOnly)
def _(error: ReadOnly) -> Answer:
    code = StatusCode.FAILED_PRECONDITION
    answer = _about(code, "COLLECTION_READ_ONLY", error, kind="collection", name=error.name)
    return replace(answer, message=without_directories(str(error)))


@row(FormatTooNew)
def _(error: FormatTooNew) -> Answer:
    return Answer(
        code=StatusCode.FAILED_PRECONDITION,
        reason="FORMAT_TOO_NEW",
        message=without_directories(str(error)),
        metadata={"found": str(error.found), "known": str(error.known)},
    )


@row(DataDamaged)
def _(error: DataDamaged) -> Answer:
    """The file by its name alone: where the data lie is not the caller's business."""
    name = error.path.name
    message = f"{name} is damaged: {error.reason}; run `polyseme-server check --repair`"
    return Answer(
        code=StatusCode.DATA_LOSS,
        reason="DATA_DAMAGED",
        message=message,
        metadata={"file": name},
        details=(resource_info("file", name),),
        logged=True,
    )


@row(DiskFull)
def _(error: DiskFull) -> Answer:
    return Answer(
        code=StatusCode.RESOURCE_EXHAUSTED,
        reason="DISK_QUOTA",
        message=f"no room to write: {error.free_bytes} bytes are free; nothing was changed",
        metadata={"free_bytes": str(error.free_bytes)},
        details=(retry_info(DISK_RETRY_S),),
    )


@row(StorageFailed)
def _(error: StorageFailed) -> Answer:
    """Not a bug of ours and not the caller's mistake; the log has the path and the reason."""
    return Answer(
        code=StatusCode.UNAVAILABLE,
        reason="STORAGE_FAILED",
        message="the disk did not do what it was asked to; nothing was changed",
        details=(retry_info(CLOSED_RETRY_S),),
        logged=True,
    )


@row(MemoryError)
def _(error: MemoryError) -> Answer:
    """The store gave the change up, whole; others' memory may be free again soon."""
    return Answer(
        code=StatusCode.RESOURCE_EXHAUSTED,
        reason="OUT_OF_MEMORY",
        message="not enough memory for this call; nothing was changed",
        details=(retry_info(DISK_RETRY_S),),
        logged=True,
    )


@row(Closed)
def _(error: Closed) -> Answer:
    return Answer(
        code=StatusCode.UNAVAILABLE,
        reason="CLOSED",
        message=str(error),
        details=(retry_info(CLOSED_RETRY_S),),
    )


def without_directories(text: str) -> str:
    """`text` with files by their names alone: where the data lie is not a caller's business."""
    return re.sub(r"(?:/[^/:\s]+)*/", "", text)


def _about(
    code: StatusCode,
    reason: str,
    error: Exception,
    *,
    kind: str,
    name: str,
    parts: Mapping[str, str] | None = None,
) -> Answer:
    """An answer about a named thing, which goes into the details as ResourceInfo."""
    return Answer(
        code=code,
        reason=reason,
        message=str(error),
        metadata={kind: name, **(parts or {})},
        details=(resource_info(f"polyseme.v1.{kind.title()}", name),),
    )
