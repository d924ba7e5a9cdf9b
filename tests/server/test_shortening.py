"""Whatever a refusal quotes, it reaches its caller as what it is."""

from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

import server.store_errors  # noqa: F401  puts the rows of the index into the table
from index import errors as index_errors
from server import errors
from server.admission import Admission
from server.errors import answer_of, status_of
from server.interceptors import Interceptor
from server.metrics import Metrics
from server.shortening import header_bytes, shortened, utf8_bytes

METHOD = "/polyseme.v1.EncoderService/Embed"
TRAILERS_BYTES_MAX = 8192  # what peers take, gRPC core's default


def quoting(text):
    """One error of each row that can quote, quoting `text` wherever it can."""
    return [
        errors.RequestInvalid(f"options.{text}", text),
        errors.LimitExceeded(f"options.{text}", 9, 8, text),
        errors.TextTooLong(f"options.{text}", 9, 8),
        errors.MalformedMessage(text),
        errors.ModelLacks("MODEL_HAS_NO_HEAD", text),
        errors.InventoryMismatch(text, text, [text]),
        errors.NotReady(text),
        errors.Draining(text),
        errors.Unauthenticated(text),
        errors.ScopeMissing(text, text, text),
        errors.RateExceeded(text, 9, 1.0),
        index_errors.InvalidInput(f"options.{text}", text),
        index_errors.CollectionNotFound(text),
        index_errors.DocumentNotFound(text),
        index_errors.CollectionExists(text),
        index_errors.DocumentExists(text),
        index_errors.EtagMismatch(text, text, text),
        index_errors.RequestIdReused(text),
        index_errors.FingerprintMismatch(text, text, text, [text]),
        index_errors.ReadOnly(text, text),
        index_errors.FormatTooNew(Path(text), 2, 1),
        index_errors.DataDamaged(Path(text), text),
        index_errors.Closed(text),
    ]


@pytest.fixture
async def outcome_of():
    """`await outcome_of(error)`: what a real client gets of a handler that raises `error`."""
    raised = []

    async def fail(request, context):
        raise raised.pop()

    admission = Admission(calls_max=8, streams_max=8)
    admission.ready = True
    handler = grpc.unary_unary_rpc_method_handler(fail, request_deserializer=bytes)
    limits = {"message_bytes_max": 1024, "stream_idle_s_max": 1.0}
    wrapped = Interceptor(admission, Metrics(), **limits).wrap(METHOD, handler)
    service, name = METHOD[1:].split("/")
    peer = grpc.aio.server()
    peer.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {name: wrapped}),))
    port = peer.add_insecure_port("127.0.0.1:0")
    await peer.start()

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:

        async def outcome(error):
            raised.append(error)
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await channel.unary_unary(METHOD)(b"")
            return refusal.value

        yield outcome
    await peer.stop(None)


@pytest.mark.parametrize("text", ["x" * 100_000, "🍎" * 5_000, "%" * 2_000], ids=["x", "🍎", "%"])
async def test_a_refusal_that_quotes_much_reaches_its_caller_as_what_it_is(outcome_of, text):
    for error in quoting(text):
        refusal = await outcome_of(error)

        told = answer_of(error, "")
        assert refusal.code() is told.code, error.__class__
        assert refusal.details().startswith(told.message[:20])
        data = dict(refusal.trailing_metadata())["grpc-status-details-bin"]
        info = error_details_pb2.ErrorInfo()
        status_pb2.Status.FromString(data).details[0].Unpack(info)
        assert info.reason == told.reason
        # Peers that are not gRPC core's get the details in base64.
        assert len(data) * 4 / 3 + header_bytes(refusal.details()) < TRAILERS_BYTES_MAX - 1024


def test_what_is_short_is_told_whole():
    status = status_of(index_errors.DocumentNotFound("é" * 250), "")

    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    assert status.message == f"there is no document '{'é' * 250}'"
    assert info.metadata["document"] == "é" * 250


@given(
    text=st.text(), bytes_max=st.integers(9, 60), size=st.sampled_from([utf8_bytes, header_bytes])
)
def test_a_text_is_cut_only_if_it_must_be_and_then_as_late_as_can_be(text, bytes_max, size):
    cut = shortened(text, bytes_max, size)

    assert size(cut) <= bytes_max
    if size(text) <= bytes_max:
        assert cut == text
    else:
        kept = cut.removesuffix("…")
        assert text.startswith(kept)
        assert size(text[: len(kept) + 1] + "…") > bytes_max
