import pytest
from google.rpc import error_details_pb2
from grpc import StatusCode

from encoder.tokenizer import InputTooLong, LoneSurrogate
from server import errors
from server.errors import (
    ROWS,
    CallRefused,
    DeadlinePassed,
    Draining,
    InventoryMismatch,
    LimitExceeded,
    MalformedMessage,
    ModelLacks,
    NotReady,
    QueueFull,
    QueueTooSlow,
    RateExceeded,
    ReplyTooLarge,
    RequestInvalid,
    ScopeMissing,
    StreamIdle,
    TextTooLong,
    TooManyCalls,
    Unauthenticated,
    answer_of,
    naming,
    status_of,
)

EXAMPLES = [
    (RequestInvalid("inputs[3].text", "empty"), StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
    (LimitExceeded("inputs", 9, 8, "texts"), StatusCode.INVALID_ARGUMENT, "LIMIT_EXCEEDED"),
    (TextTooLong("inputs[0]", 600, 512), StatusCode.INVALID_ARGUMENT, "INPUT_TOO_LONG"),
    (MalformedMessage("no message"), StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE"),
    (ReplyTooLarge(9, 8), StatusCode.INVALID_ARGUMENT, "REPLY_TOO_LARGE"),
    (ModelLacks("MODEL_HAS_NO_HEAD", "no"), StatusCode.FAILED_PRECONDITION, "MODEL_HAS_NO_HEAD"),
    (
        InventoryMismatch("ab", "cd", ["model"]),
        StatusCode.FAILED_PRECONDITION,
        "FINGERPRINT_MISMATCH",
    ),
    (QueueFull(8, 8, 0.25), StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL"),
    (QueueTooSlow(8, 9, 0.25, 3.5), StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL"),
    (TooManyCalls(8), StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS"),
    (
        ScopeMissing("reader", "write", "read"),
        StatusCode.PERMISSION_DENIED,
        "SCOPE_MISSING",
    ),
    (RateExceeded("reader", 100, 1.5), StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED"),
    (NotReady(), StatusCode.UNAVAILABLE, "NOT_READY"),
    (Draining(), StatusCode.UNAVAILABLE, "DRAINING"),
    (DeadlinePassed({"queue": 0.5}), StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
    (StreamIdle(300), StatusCode.DEADLINE_EXCEEDED, "STREAM_IDLE"),
    (Unauthenticated("no key"), StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"),
]


def unpack(status, kind):
    for detail in status.details:
        if detail.Is(kind.DESCRIPTOR):
            message = kind()
            detail.Unpack(message)
            return message
    return None


@pytest.mark.parametrize(("error", "code", "reason"), EXAMPLES, ids=lambda value: str(value)[:30])
def test_each_refusal_has_its_code_and_reason(error, code, reason):
    status = status_of(error, "r-1")
    info = unpack(status, error_details_pb2.ErrorInfo)

    assert status.code == code.value[0]
    assert (info.domain, info.reason) == ("polyseme", reason)
    assert status.message


def test_every_refusal_of_this_module_has_a_row_and_an_example():
    refusals = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, CallRefused) and value is not CallRefused
    }

    assert refusals <= set(ROWS)
    assert refusals == {type(error) for error, *_ in EXAMPLES}


def test_a_bad_field_is_named():
    status = status_of(RequestInvalid("inputs[3].text", "the text is empty"), "r-1")

    violation = unpack(status, error_details_pb2.BadRequest).field_violations[0]
    assert (violation.field, violation.description) == ("inputs[3].text", "the text is empty")


def test_a_full_queue_says_when_to_come_back():
    delay = unpack(status_of(QueueFull(8, 8, 1.25), ""), error_details_pb2.RetryInfo).retry_delay

    assert delay.ToMilliseconds() == 1250


def test_a_subclass_needs_no_row_of_its_own():
    class Peculiar(QueueFull):
        pass

    assert answer_of(Peculiar(1, 1, 1.0), "").reason == "QUEUE_FULL"


@pytest.mark.parametrize(
    "bug", [KeyError("/etc/passwd"), ValueError("secret"), OSError(5, "x", "/p")]
)
def test_of_a_bug_the_caller_learns_the_request_id_alone(bug):
    answer = answer_of(bug, "r-77")

    assert answer.code is StatusCode.INTERNAL
    assert answer.message == "internal error; request id r-77"
    assert dict(answer.metadata) == {"request_id": "r-77"}
    assert answer.details == ()


def test_the_encoders_errors_get_the_requests_names():
    with pytest.raises(TextTooLong) as refusal, naming("documents[{}].text".format):
        raise InputTooLong(2, 600, 512)
    assert (refusal.value.field, refusal.value.tokens) == ("documents[2].text", 600)

    with pytest.raises(RequestInvalid) as refusal, naming("inputs[{}]".format):
        raise LoneSurrogate(1, 7)
    assert refusal.value.field == "inputs[1]"
