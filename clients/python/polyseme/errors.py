"""What can go wrong, as Python exceptions: one small tree under `PolysemeError`.

The server answers every failure with a `google.rpc.Status`; `from_rpc` and `from_status` turn it
into the exception of its kind, with the parts that a program may want to look at as attributes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

_STATUS_DETAILS_KEY = "grpc-status-details-bin"
_REQUEST_ID_KEY = "x-request-id"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of the request that the server did not accept."""

    field: str  # such as `texts[3]`
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """All that is known about a failed call; the content of a `PolysemeError`."""

    code: str = "UNKNOWN"  # the gRPC status code's name
    message: str = ""
    reason: str = ""  # UPPER_SNAKE, from ErrorInfo; empty where the server gave none
    violations: tuple[FieldViolation, ...] = ()
    metadata: Mapping[str, str] | None = None  # ErrorInfo's, such as both fingerprints
    resource: str = ""  # what was not found or exists already
    request_id: str = ""  # the server's log knows the call by it
    retry_after_s: float | None = None
    sent: bool = True  # False: wrong before it was sent


class PolysemeError(Exception):
    """A call that failed. The subclasses name the kinds that programs treat differently."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure
        # Where an interrupted `write` may go on; empty for every other call.
        self.resume = ""

    @property
    def code(self) -> str:
        """The gRPC status code's name, such as `INVALID_ARGUMENT`."""
        return self.failure.code

    @property
    def reason(self) -> str:
        """The server's UPPER_SNAKE reason, such as `QUEUE_FULL`; empty if it gave none."""
        return self.failure.reason

    @property
    def violations(self) -> tuple[FieldViolation, ...]:
        """The fields that were refused, each with its problem."""
        return self.failure.violations

    @property
    def metadata(self) -> Mapping[str, str]:
        """The moving parts of the message, by name."""
        return self.failure.metadata or {}

    @property
    def resource(self) -> str:
        """The name of what was not found, or of what exists already."""
        return self.failure.resource

    @property
    def request_id(self) -> str:
        """The id under which the server's log knows this call."""
        return self.failure.request_id

    @property
    def retry_after_s(self) -> float | None:
        """When the server expects a retry to succeed; None if it did not say."""
        return self.failure.retry_after_s

    def __str__(self) -> str:
        parts = [_problem(self.failure)]
        if hint := _HINTS.get(self.failure.reason) or _HINTS.get(self.failure.code):
            parts.append(hint)
        if self.failure.request_id:
            parts.append(f"(request {self.failure.request_id})")
        return " ".join(parts)


class InvalidRequest(PolysemeError, ValueError):
    """A field of the request is wrong; `violations` says which and why."""


class InputTooLong(InvalidRequest):
    """A text has more tokens than the model reads, and the call did not say what to drop."""


class NotFound(PolysemeError, LookupError):
    """The collection, document or snapshot does not exist."""


class AlreadyExists(PolysemeError):
    """The name or id is taken."""


class Aborted(PolysemeError):
    """Somebody else changed the resource: its etag is no longer the one given."""


class FailedPrecondition(PolysemeError):
    """The resource is not in a state that allows this, such as a read-only collection."""


class FingerprintMismatch(FailedPrecondition):
    """Vectors of different models met; they must not be compared."""


class Overloaded(PolysemeError):
    """The server refused work to stay alive, or is short of disk; see `reason`."""


class Unavailable(PolysemeError):
    """No server answers, or it is starting or draining."""


class DeadlineExceeded(PolysemeError, TimeoutError):
    """The answer did not come in time."""


class Unauthenticated(PolysemeError):
    """The server wants an API key or certificate, or knows not the one given."""


class PermissionDenied(PolysemeError):
    """The key is known, but may not do this."""


class DataLoss(PolysemeError):
    """A checksum was wrong when the server read its files."""


class Cancelled(PolysemeError):
    """The call was given up before it was answered."""


class ServerError(PolysemeError):
    """The server failed; the fault is not the caller's."""


_BY_REASON: dict[str, type[PolysemeError]] = {
    "FINGERPRINT_MISMATCH": FingerprintMismatch,
    "INPUT_TOO_LONG": InputTooLong,
}
_BY_CODE: dict[str, type[PolysemeError]] = {
    "INVALID_ARGUMENT": InvalidRequest,
    "OUT_OF_RANGE": InvalidRequest,
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": AlreadyExists,
    "ABORTED": Aborted,
    "FAILED_PRECONDITION": FailedPrecondition,
    "RESOURCE_EXHAUSTED": Overloaded,
    "UNAVAILABLE": Unavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "UNAUTHENTICATED": Unauthenticated,
    "PERMISSION_DENIED": PermissionDenied,
    "DATA_LOSS": DataLoss,
    "CANCELLED": Cancelled,
    "INTERNAL": ServerError,
    "UNKNOWN": ServerError,
    "UNIMPLEMENTED": ServerError,
}
# What to do about it, by reason or code; said after what the server says.
_HINTS: dict[str, str] = {
    "INPUT_TOO_LONG": "Choose truncation='windows' (reads all of it), 'head' or 'tail'.",
    "FINGERPRINT_MISMATCH": (
        "Use the model and options that made the collection or inventory, or make a new one."
    ),
    "QUEUE_FULL": "The server is busy: try again later, or send less at once.",
    "TOO_MANY_CALLS": "The server is busy: try again later, or make fewer calls at once.",
    "RATE_LIMITED": "Try again later, or ask the server's operator for a higher rate.",
    "SCOPE_MISSING": "Ask the server's operator for a key that may do this.",
    "DISK_QUOTA": "The server's disk is nearly full: reads work, writes wait for space.",
    "DEADLINE_EXCEEDED": "Raise timeout_s, or ask for less in one call.",
    "UNAUTHENTICATED": "Pass api_key=... (or set POLYSEME_API_KEY).",
    "UNIMPLEMENTED": "The server is older than this client, or is no polyseme server.",
}


def make(failure: Failure) -> PolysemeError:
    """The exception of the failure's kind."""
    kind = _BY_REASON.get(failure.reason) or _BY_CODE.get(failure.code, ServerError)
    return kind(failure)


def invalid(field: str, problem: str) -> InvalidRequest:
    """A request that is wrong before it is sent."""
    violation = FieldViolation(field, problem)
    return InvalidRequest(Failure(code="INVALID_ARGUMENT", violations=(violation,), sent=False))


def from_rpc(error: grpc.RpcError, target: str, *, given_up: bool = False) -> PolysemeError:
    """What a failed call to the server at `target` was.

    given_up: by this side. If it was not, CANCELLED comes from gRPC on the other side, which ends
    so the calls that reach it in the moment when it closes: no server answered.
    """
    assert isinstance(error, grpc.Call | grpc.aio.AioRpcError)
    code = error.code().name
    message = error.details() or ""
    if code == "CANCELLED" and not given_up:
        code = "UNAVAILABLE"
    if code == "UNAVAILABLE" and not _has_details(error):
        # gRPC's own text names sockets and addresses of all kinds; this one names the target.
        message = f"no polyseme server answers at {target} ({message})"
    status = status_pb2.Status(message=message)
    request_id = ""
    for key, value in _trailers(error):
        if key == _STATUS_DETAILS_KEY:
            status = _parse(value, status)
        elif key == _REQUEST_ID_KEY:
            request_id = str(value)
    return make(_failure(code, status, request_id))


def from_status(status: status_pb2.Status) -> PolysemeError:
    """What a status inside an answer, such as one item of a batch, was."""
    return make(_failure(_code_name(status.code), status, ""))


_ITEM = re.compile(r"^(?P<list>\w+)\[(?P<index>\d+)\](?P<rest>.*)$")


def renamed(error: PolysemeError, names: Mapping[str, str], offset: int = 0) -> PolysemeError:
    """The same error in the caller's words: list names of the wire by `names`, indices by `offset`.

    A long input travels in several requests; item 3 of the second request is not the caller's
    item 3.
    """
    violations = tuple(
        FieldViolation(_renamed_field(v.field, names, offset), v.problem) for v in error.violations
    )
    if violations == error.violations:
        return error
    other = type(error)(replace(error.failure, violations=violations))
    other.resume = error.resume
    return other


def _renamed_field(field: str, names: Mapping[str, str], offset: int) -> str:
    field = field.removeprefix("options.")  # keyword arguments here
    if match := _ITEM.match(field):
        name = match["list"]
        index = int(match["index"]) + (offset if name in names else 0)
        return f"{names.get(name, name)}[{index}]{match['rest']}"
    return names.get(field, field)


def _problem(failure: Failure) -> str:
    """Each refused field with its problem; without fields, the server's message."""
    if failure.violations:
        return "; ".join(f"{v.field}: {v.problem}" for v in failure.violations) + "."
    text = failure.message or failure.reason or failure.code
    return text if text.endswith((".", "!", "?", ")")) else text + "."


def _failure(code: str, status: status_pb2.Status, request_id: str) -> Failure:
    reason, resource = "", ""
    metadata: dict[str, str] = {}
    violations: list[FieldViolation] = []
    retry_after_s: float | None = None
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        bad = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        what = error_details_pb2.ResourceInfo()
        request = error_details_pb2.RequestInfo()
        if detail.Unpack(info):
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(bad):
            violations += _violations(bad.field_violations)
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToTimedelta().total_seconds()
        elif detail.Unpack(what):
            resource = what.resource_name
        elif detail.Unpack(request):
            request_id = request.request_id
    return Failure(
        code=code,
        message=status.message,
        reason=reason,
        violations=tuple(violations),
        metadata=metadata,
        resource=resource,
        request_id=request_id,
        retry_after_s=retry_after_s,
    )


def _violations(
    given: Iterable[error_details_pb2.BadRequest.FieldViolation],
) -> list[FieldViolation]:
    return [FieldViolation(v.field, v.description.rstrip(".")) for v in given]


def _trailers(error: grpc.Call | grpc.aio.AioRpcError) -> list[tuple[str, str | bytes]]:
    # The blocking channel gives named tuples, the asyncio one plain ones; both are pairs.
    return list(cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ()))


def _has_details(error: grpc.Call | grpc.aio.AioRpcError) -> bool:
    return any(key == _STATUS_DETAILS_KEY for key, _ in _trailers(error))


def _parse(value: str | bytes, otherwise: status_pb2.Status) -> status_pb2.Status:
    try:
        return status_pb2.Status.FromString(value if isinstance(value, bytes) else value.encode())
    except DecodeError:
        # A proxy may mangle the trailer; code and message are still worth showing.
        return otherwise


def _code_name(number: int) -> str:
    for code in grpc.StatusCode:
        if code.value[0] == number:
            return code.name
    return "UNKNOWN"
