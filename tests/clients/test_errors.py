"""From statuses to exceptions."""

import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from polyseme import FingerprintMismatch, InputTooLong, InvalidRequest, NotFound, Overloaded
from polyseme.errors import from_status, renamed


def status_with(code, *details, message="no"):
    made = status_pb2.Status(code=code, message=message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        made.details.append(packed)
    return made


def bad_request(*fields):
    violations = [
        error_details_pb2.BadRequest.FieldViolation(field=f, description=d) for f, d in fields
    ]
    return error_details_pb2.BadRequest(field_violations=violations)


def test_a_wrong_field_is_named_with_its_problem():
    error = from_status(status_with(3, bad_request(("inputs[3]", "is empty."))))

    assert isinstance(error, InvalidRequest)
    assert isinstance(error, ValueError)
    assert str(error) == "inputs[3]: is empty."
    assert error.violations[0].field == "inputs[3]"


@pytest.mark.parametrize(
    ("code", "reason", "kind", "advice"),
    [
        (3, "INPUT_TOO_LONG", InputTooLong, "truncation="),
        (9, "FINGERPRINT_MISMATCH", FingerprintMismatch, "make a new one"),
        (8, "QUEUE_FULL", Overloaded, "busy"),
    ],
)
def test_a_reason_has_its_own_exception_and_says_what_to_do(code, reason, kind, advice):
    info = error_details_pb2.ErrorInfo(reason=reason, metadata={"limit": "7"})

    error = from_status(status_with(code, info))

    assert type(error) is kind
    assert error.reason == reason
    assert error.metadata == {"limit": "7"}
    assert advice in str(error)


def test_all_details_become_attributes():
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(250)
    what = error_details_pb2.ResourceInfo(resource_name="articles")
    request = error_details_pb2.RequestInfo(request_id="r-9")

    error = from_status(status_with(5, retry, what, request))

    assert isinstance(error, NotFound)
    assert (error.retry_after_s, error.resource, error.request_id) == (0.25, "articles", "r-9")
    assert "r-9" in str(error)


def test_an_item_of_a_later_request_is_named_by_the_callers_count():
    sent = from_status(status_with(3, bad_request(("inputs[3].text", "is empty"))))

    error = renamed(sent, {"inputs": "texts"}, offset=100)

    assert error.violations[0].field == "texts[103].text"
    assert type(error) is type(sent)
