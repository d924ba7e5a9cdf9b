"""What can go wrong with a call, and the one table that says what a caller is told of it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from encoder.tokenizer import InputTooLong, LoneSurrogate
from server.log import log_failure
from server.shortening import MESSAGE_BYTES_MAX, PART_BYTES_MAX, shortened

DOMAIN = "polyseme"

E = TypeVar("E", bound=Exception)


class CallRefused(Exception):
    """A reason to refuse a call that its caller may know."""


class RequestInvalid(CallRefused):
    """A field holds what cannot be worked with; `field` is its path, as `inputs[3].text`."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class LimitExceeded(RequestInvalid):
    """A field asks for more than the server gives in one call."""

    def __init__(self, field: str, given: int, limit: int, unit: str) -> None:
        super().__init__(field, f"{given} {unit}; the limit is {limit}")
        self.given = given
        self.limit = limit
        self.unit = unit


class TextTooLong(RequestInvalid):
    """A text has more tokens than the model reads, and the caller wants nothing cut."""

    def __init__(self, field: str, tokens: int, tokens_max: int) -> None:
        super().__init__(
            field, f"{tokens} tokens; the model reads {tokens_max}. Choose a truncation policy"
        )
        self.tokens = tokens
        self.tokens_max = tokens_max


class MalformedMessage(CallRefused):
    """The bytes are no message of the expected type; invalid UTF-8 in a string is one cause."""


class ReplyTooLarge(CallRefused):
    """The answer would not fit into one message."""

    def __init__(self, reply_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"the answer has {reply_bytes} bytes; the limit is {limit_bytes}: ask for less at once"
        )
        self.reply_bytes = reply_bytes
        self.limit_bytes = limit_bytes


class ModelLacks(CallRefused):
    """The model that is served cannot answer this kind of question, whatever the request."""

    def __init__(self, reason: str, problem: str) -> None:
        super().__init__(problem)
        self.reason = reason


class InventoryMismatch(CallRefused):
    """A sense inventory was learnt from vectors that this server does not make."""

    def __init__(self, given: str, expected: str, differences: Sequence[str]) -> None:
        super().__init__(
            "the inventory was fitted on other vectors than this server's: "
            f"{', '.join(differences)}; fit it anew"
        )
        self.given = given
        self.expected = expected
        self.differences = tuple(differences)


class QueueFull(CallRefused):
    """Too much is waiting already; `retry_after_s` is when there should be room."""

    def __init__(self, waiting: int, limit: int, retry_after_s: float) -> None:
        super().__init__(f"{waiting} texts are waiting; the limit is {limit}")
        self.waiting = waiting
        self.limit = limit
        self.retry_after_s = retry_after_s


class QueueTooSlow(QueueFull):
    """There is room, but not the time: the call's deadline would pass while it waits."""

    def __init__(self, waiting: int, limit: int, retry_after_s: float, needed_s: float) -> None:
        super().__init__(waiting, limit, retry_after_s)
        told = f"an answer would take about {needed_s:.1f} s, longer than the deadline allows"
        self.args = (f"{waiting} texts are waiting; {told}",)
        self.needed_s = needed_s


class TooManyCalls(CallRefused):
    """As many calls are running as the server takes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} calls are running, which is the limit")
        self.limit = limit


class NotReady(CallRefused):
    """The model is not loaded yet."""


class Draining(CallRefused):
    """The server is going home; another one may answer."""


class DeadlinePassed(CallRefused):
    """The caller's deadline is too near for an answer; `spent_s` says where the time went."""

    def __init__(self, spent_s: Mapping[str, float]) -> None:
        where = ", ".join(f"{stage} {seconds:.3f} s" for stage, seconds in spent_s.items())
        super().__init__(f"the deadline passed; time spent: {where}")
        self.spent_s = dict(spent_s)


class StreamIdle(CallRefused):
    """The caller opened a stream and fell silent."""

    def __init__(self, idle_s_max: float) -> None:
        super().__init__(f"no message for {idle_s_max:g} s; the stream is closed")
        self.idle_s_max = idle_s_max


class Unauthenticated(CallRefused):
    """No API key, or one that is not on the list."""


class ScopeMissing(CallRefused):
    """The key is known, but may not do this."""

    def __init__(self, key: str, needed: str, granted: str) -> None:
        super().__init__(f"this needs the scope {needed}; the API key {key} has: {granted}")
        self.key = key
        self.needed = needed
        self.granted = granted


class RateExceeded(CallRefused):
    """The key has asked for more than its rate; `retry_after_s` is when it is paid."""

    def __init__(self, key: str, tokens_per_s: int, retry_after_s: float) -> None:
        super().__init__(f"the API key {key} may ask for {tokens_per_s} tokens a second")
        self.key = key
        self.tokens_per_s = tokens_per_s
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a caller is told: a row of the table, filled in.

    details are sent beside the ErrorInfo, which is made of `reason` and `metadata`.
    logged: it is not of the caller's making; the log has the error itself, with paths and stack
    """

    code: StatusCode
    reason: str  # UPPER_SNAKE; programs act on it
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    details: tuple[Message, ...] = ()
    logged: bool = False


Row = Callable[[Any], Answer]
ROWS: dict[type[Exception], Row] = {}


def row(error: type[E]) -> Callable[[Callable[[E], Answer]], Callable[[E], Answer]]:
    """Put the decorated function into the table as what is said of `error` and its subclasses."""

    def put(answer_of: Callable[[E], Answer]) -> Callable[[E], Answer]:
        ROWS[error] = answer_of
        return answer_of

    return put


def answer_of(error: BaseException, request_id: str) -> Answer:
    """The row for `error`, looked up along its class hierarchy.

    An unlisted error is our bug: the caller learns the request id, under which the log has the
    stack, and nothing else.
    """
    for cls in type(error).__mro__:
        if cls in ROWS:
            return ROWS[cls](error)
    return Answer(
        code=StatusCode.INTERNAL,
        reason="INTERNAL",
        message=f"internal error; request id {request_id}",
        metadata={"request_id": request_id},
        logged=True,
    )


def status_of(error: BaseException, request_id: str) -> status_pb2.Status:
    """The same as a message, for streams and partial answers, and a line in the log if due."""
    answer = answer_of(error, request_id)
    if answer.logged:
        log_failure(error, request_id)
    return status_from(answer)


def status_from(answer: Answer) -> status_pb2.Status:
    parts = {key: shortened(value, PART_BYTES_MAX) for key, value in answer.metadata.items()}
    info = error_details_pb2.ErrorInfo(reason=answer.reason, domain=DOMAIN, metadata=parts)
    message = shortened(answer.message, MESSAGE_BYTES_MAX)
    status = status_pb2.Status(code=answer.code.value[0], message=message)
    for detail in (info, *answer.details):
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def bad_request(field: str, problem: str) -> error_details_pb2.BadRequest:
    violation = error_details_pb2.BadRequest.FieldViolation(
        field=shortened(field, PART_BYTES_MAX), description=shortened(problem, PART_BYTES_MAX)
    )
    return error_details_pb2.BadRequest(field_violations=[violation])


def resource_info(kind: str, name: str) -> error_details_pb2.ResourceInfo:
    name = shortened(name, PART_BYTES_MAX)
    return error_details_pb2.ResourceInfo(resource_type=kind, resource_name=name)


def retry_info(after_s: float) -> error_details_pb2.RetryInfo:
    delay = Duration()
    delay.FromMilliseconds(int(after_s * 1000))
    return error_details_pb2.RetryInfo(retry_delay=delay)


@contextmanager
def naming(field_of: Callable[[int], str], together: str = "inputs") -> Iterator[None]:
    """Give the encoder's errors, which count texts, the request's names for them.

    `with naming(lambda i: f"inputs[{i}]")` turns the encoder's InputTooLong for text 3 into
    TextTooLong for `inputs[3]`. together: the field of all texts, for when they are too much.
    """
    try:
        yield
    except InputTooLong as error:
        field = field_of(error.index)
        raise TextTooLong(field, error.tokens, error.tokens_max) from None
    except LimitExceeded as error:
        raise LimitExceeded(together, error.given, error.limit, error.unit) from None
    except LoneSurrogate as error:
        problem = f"lone surrogate at code point {error.position}"
        raise RequestInvalid(field_of(error.index), problem) from None


NOT_READY_RETRY_S = 1.0  # a model loads in seconds
DRAINING_RETRY_S = 1.0  # long enough for a load balancer to look elsewhere


@row(RequestInvalid)
def _(error: RequestInvalid) -> Answer:
    return _invalid(error, "INVALID_FIELD", {})


@row(LimitExceeded)
def _(error: LimitExceeded) -> Answer:
    numbers = {"given": str(error.given), "limit": str(error.limit)}
    return _invalid(error, "LIMIT_EXCEEDED", numbers)


@row(TextTooLong)
def _(error: TextTooLong) -> Answer:
    numbers = {"tokens": str(error.tokens), "tokens_max": str(error.tokens_max)}
    return _invalid(error, "INPUT_TOO_LONG", numbers)


def _invalid(error: RequestInvalid, reason: str, metadata: Mapping[str, str]) -> Answer:
    return Answer(
        code=StatusCode.INVALID_ARGUMENT,
        reason=reason,
        message=str(error),
        metadata={"field": error.field, **metadata},
        details=(bad_request(error.field, error.problem),),
    )


@row(MalformedMessage)
def _(error: MalformedMessage) -> Answer:
    return Answer(code=StatusCode.INVALID_ARGUMENT, reason="MALFORMED_MESSAGE", message=str(error))


@row(ReplyTooLarge)
def _(error: ReplyTooLarge) -> Answer:
    numbers = {"reply_bytes": str(error.reply_bytes), "limit_bytes": str(error.limit_bytes)}
    return Answer(
        code=StatusCode.INVALID_ARGUMENT,
        reason="REPLY_TOO_LARGE",
        message=str(error),
        metadata=numbers,
    )


@row(ModelLacks)
def _(error: ModelLacks) -> Answer:
    return Answer(code=StatusCode.FAILED_PRECONDITION, reason=error.reason, message=str(error))


@row(InventoryMismatch)
def _(error: InventoryMismatch) -> Answer:
    return Answer(
        code=StatusCode.FAILED_PRECONDITION,
        reason="FINGERPRINT_MISMATCH",
        message=str(error),
        metadata={
            "given": error.given,
            "expected": error.expected,
            "differences": "; ".join(error.differences),
        },
        details=(resource_info("polyseme.v1.SenseInventory", "inventory"),),
    )


@row(QueueFull)
def _(error: QueueFull) -> Answer:
    return Answer(
        code=StatusCode.RESOURCE_EXHAUSTED,
        reason="QUEUE_FULL",
        message=str(error),
        metadata={"waiting": str(error.waiting), "limit": str(error.limit)},
        details=(retry_info(error.retry_after_s),),
    )


@row(QueueTooSlow)
def _(error: QueueTooSlow) -> Answer:
    """Callers do the same about it as about a queue without room: come back later."""
    return Answer(
        code=StatusCode.RESOURCE_EXHAUSTED,
        reason="QUEUE_FULL",
        message=str(error),
        metadata={"waiting": str(error.waiting), "needed_s": f"{error.needed_s:.3f}"},
        details=(retry_info(error.retry_after_s),),
    )


@row(TooManyCalls)
def _(error: TooManyCalls) -> Answer:
    return Answer(
        code=StatusCode.RESOURCE_EXHAUSTED,
        reason="TOO_MANY_CALLS",
        message=str(error),
        metadata={"limit": str(error.limit)},
        details=(retry_info(NOT_READY_RETRY_S),),
    )


@row(NotReady)
def _(error: NotReady) -> Answer:
    return Answer(
        code=StatusCode.UNAVAILABLE,
        reason="NOT_READY",
        message=str(error) or "the model is being loaded",
        details=(retry_info(NOT_READY_RETRY_S),),
    )


@row(Draining)
def _(error: Draining) -> Answer:
    return Answer(
        code=StatusCode.UNAVAILABLE,
        reason="DRAINING",
        message=str(error) or "the server is shutting down",
        details=(retry_info(DRAINING_RETRY_S),),
    )


@row(DeadlinePassed)
def _(error: DeadlinePassed) -> Answer:
    spent = {f"{stage}_s": f"{seconds:.6f}" for stage, seconds in error.spent_s.items()}
    return Answer(
        code=StatusCode.DEADLINE_EXCEEDED,
        reason="DEADLINE_EXCEEDED",
        message=str(error),
        metadata=spent,
    )


@row(StreamIdle)
def _(error: StreamIdle) -> Answer:
    return Answer(
        code=StatusCode.DEADLINE_EXCEEDED,
        reason="STREAM_IDLE",
        message=str(error),
        metadata={"idle_s_max": f"{error.idle_s_max:g}"},
    )


@row(Unauthenticated)
def _(error: Unauthenticated) -> Answer:
    return Answer(code=StatusCode.UNAUTHENTICATED, reason="UNAUTHENTICATED", message=str(error))


@row(ScopeMissing)
def _(error: ScopeMissing) -> Answer:
    return Answer(
        code=StatusCode.PERMISSION_DENIED,
        reason="SCOPE_MISSING",
        message=str(error),
        metadata={"needed": error.needed, "granted": error.granted},
    )


@row(RateExceeded)
def _(error: RateExceeded) -> Answer:
    return Answer(
        code=StatusCode.RESOURCE_EXHAUSTED,
        reason="RATE_LIMITED",
        message=str(error),
        metadata={"tokens_per_s": str(error.tokens_per_s)},
        details=(retry_info(error.retry_after_s),),
    )
