"""What surrounds every call: request id, admission, deadline, errors, metrics, one log line."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.message import DecodeError, Message
from grpc import StatusCode

from server.admission import Admission
from server.auth import Key
from server.call import Call, enter
from server.errors import (
    Answer,
    DeadlinePassed,
    Draining,
    MalformedMessage,
    RateExceeded,
    ReplyTooLarge,
    ScopeMissing,
    StreamIdle,
    Unauthenticated,
    answer_of,
    status_from,
)
from server.log import audit_log, calls_log, log_failure
from server.metrics import Metrics
from server.rates import Bucket
from server.scopes import scope_of
from server.shortening import MESSAGE_BYTES_MAX, header_bytes, shortened

REQUEST_ID = "x-request-id"
STATUS_DETAILS = "grpc-status-details-bin"  # where gRPC carries google.rpc.Status
_REQUEST_ID_OK = re.compile(r"[\x21-\x7e]{1,64}")

AUDITED = (RateExceeded, ScopeMissing, Unauthenticated)

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Parse = Callable[[bytes], Message]
Closed: TypeAlias = "asyncio.Future[None]"


class Interceptor:
    """Wraps the handlers of services; they raise, it answers.

    Handlers get and give bytes to gRPC, so that a message that cannot be parsed and an answer
    that is too large are errors like any other.
    """

    def __init__(
        self,
        admission: Admission,
        metrics: Metrics,
        *,
        message_bytes_max: int,
        stream_idle_s_max: float,
    ) -> None:
        self.stream_idle_s_max = stream_idle_s_max
        self._admission = admission
        self._metrics = metrics
        self._message_bytes_max = message_bytes_max

    def wrap(self, method: str, handler: grpc.RpcMethodHandler[Any, Any]) -> Any:
        """The handler as gRPC shall call it."""
        if handler.response_streaming:
            wrapped = self._stream(method, handler)
            if handler.request_streaming:
                return grpc.stream_stream_rpc_method_handler(wrapped)
            return grpc.unary_stream_rpc_method_handler(wrapped)
        if handler.request_streaming:
            raise NotImplementedError("the API has no call that streams requests alone")
        return grpc.unary_unary_rpc_method_handler(self._unary(method, handler))

    def _unary(self, method: str, handler: Any) -> Callable[[bytes, Context], Awaitable[bytes]]:
        parse, behavior = handler.request_deserializer, handler.unary_unary

        async def call_unary(data: bytes, context: Context) -> bytes:
            running = _Running(self, method, context)
            try:
                running.begin()
                reply = await behavior(_parsed(parse, data), context)
                return self._serialized(reply)
            except asyncio.CancelledError:
                running.cancelled()
                raise
            except Exception as error:  # noqa: BLE001  the one place where errors are answered
                await running.refuse(error)
            finally:
                running.end()

        return call_unary

    def _stream(self, method: str, handler: Any) -> Callable[[Any, Context], AsyncIterator[bytes]]:
        parse = handler.request_deserializer
        behavior = handler.stream_stream or handler.unary_stream

        async def call_stream(data: Any, context: Context) -> AsyncIterator[bytes]:
            running = _Running(self, method, context)
            try:
                running.begin(streaming=handler.request_streaming)
                if handler.request_streaming:
                    request: Any = running.paced(parse, data)
                else:
                    request = _parsed(parse, data)
                async for reply in behavior(request, context):
                    yield self._serialized(reply)
            except (asyncio.CancelledError, GeneratorExit):
                running.cancelled()
                raise
            except Exception as error:  # noqa: BLE001  as above
                await running.refuse(error)
            finally:
                running.end()

        return call_stream

    def _serialized(self, reply: Message) -> bytes:
        data = reply.SerializeToString()
        if len(data) > self._message_bytes_max:
            raise ReplyTooLarge(len(data), self._message_bytes_max)
        return data

    def identify(self, context: Context) -> tuple[Key | None, Bucket | None]:
        key = self._admission.identify(context.invocation_metadata() or ())
        return key, self._admission.bucket_of(key)

    def admit(self, method: str, key: Key | None, streaming: bool) -> Closed | None:
        if streaming:
            return self._admission.enter_stream(method, key)
        self._admission.enter(method, key)
        return None

    def leave(self, closed: Closed | None) -> None:
        self._admission.leave(closed)

    def ended(self, method: str, code: StatusCode, seconds: float) -> None:
        self._metrics.call_ended(method, code.name, seconds)


class _Running:
    """One call between its first and its last moment."""

    def __init__(self, interceptor: Interceptor, method: str, context: Context) -> None:
        self._interceptor = interceptor
        self._context = context
        self._metadata = _metadata_of(context)
        self._peer = context.peer()  # not later: gRPC frees a cancelled call, and then crashes
        self._call = Call(method, _request_id(self._metadata))
        self._admitted = False
        self._closed: Closed | None = None  # of a stream: done when no more shall be read
        self._code = StatusCode.OK
        self._reason = ""
        self._caller = ""

    def begin(self, *, streaming: bool = False) -> None:
        """Raises what admission raises, and DeadlinePassed for a call that comes too late."""
        self._context.set_trailing_metadata(((REQUEST_ID, self._call.request_id),))
        remaining_s = self._context.time_remaining()
        if remaining_s is not None:
            self._call.deadline = self._call.started + remaining_s
        enter(self._call)
        key, bucket = self._interceptor.identify(self._context)
        self._caller = key.name if key else ""
        self._closed = self._interceptor.admit(self._call.method, key, streaming)
        self._admitted = True
        if bucket is not None:
            self._call.charged = bucket.enter()
            self._call.bucket = bucket
        if remaining_s is not None and remaining_s <= 0:
            raise DeadlinePassed({"transport": 0.0})

    async def paced(self, parse: Parse, messages: AsyncIterator[bytes]) -> AsyncIterator[Message]:
        """The messages of a stream, each as soon as those before it are paid for.

        Raises Draining when the server goes home: what was read and paid for is answered, and no
        more is. Raises StreamIdle for a caller who falls silent, not for one who is made to wait.
        """
        self._call.paced = True
        while True:
            await self._paid()
            try:
                message = await self._next(messages)
            except StopAsyncIteration:
                return
            await self._paid()  # for those before it, which were begun while it was waited for
            yield _parsed(parse, message)

    async def _paid(self) -> None:
        assert self._closed is not None
        while (bucket := self._call.bucket) is not None and (debt_s := bucket.debt_s()) > 0:
            await asyncio.wait((self._closed,), timeout=debt_s)
            if self._closed.done():
                raise Draining()

    async def _next(self, messages: AsyncIterator[bytes]) -> bytes:
        assert self._closed is not None
        idle_s_max = self._interceptor.stream_idle_s_max
        reading = asyncio.ensure_future(anext(messages))
        try:
            done, _ = await asyncio.wait(
                (reading, self._closed), timeout=idle_s_max, return_when=asyncio.FIRST_COMPLETED
            )
            if reading in done:
                return reading.result()
        finally:
            reading.cancel()
        raise Draining() if done else StreamIdle(idle_s_max)

    def cancelled(self) -> None:
        """gRPC cancels the handler both when the caller does and when its deadline passes."""
        remaining_s = self._call.remaining_s()
        late = remaining_s is not None and remaining_s <= 0
        self._code = StatusCode.DEADLINE_EXCEEDED if late else StatusCode.CANCELLED

    async def refuse(self, error: Exception) -> NoReturn:
        """End the call with what the table says of `error`."""
        answer = answer_of(error, self._call.request_id)
        self._code, self._reason = answer.code, answer.reason
        if answer.logged:
            log_failure(error, self._call.request_id, method=self._call.method)
        if isinstance(error, AUDITED):
            self._audit()
        await abort(self._context, answer, self._call.request_id)

    def _audit(self) -> None:
        """Say who was turned away, from what, and why; never what they sent."""
        fields = {
            "caller": self._caller,  # empty: nobody that we know
            "peer": self._peer,
            "method": self._call.method,
            "needed": str(scope_of(self._call.method)),
            "reason": self._reason,
            "request_id": self._call.request_id,
        }
        audit_log.warning("refused", extra={"fields": fields})

    def end(self) -> None:
        seconds = self._call.elapsed_s()
        if self._admitted:
            self._interceptor.leave(self._closed)
        # After this step of the loop: the answer leaves first.
        asyncio.get_running_loop().call_soon(self._tell, seconds)

    def _tell(self, seconds: float) -> None:
        self._interceptor.ended(self._call.method, self._code, seconds)
        if calls_log.isEnabledFor(logging.INFO):
            self._write(seconds)

    def _write(self, seconds: float) -> None:
        fields = {
            "method": self._call.method,
            "code": self._code.name,
            "duration_ms": round(seconds * 1000, 3),
            "peer": self._peer,
            "request_id": self._call.request_id,
        }
        if self._reason:
            fields["reason"] = self._reason
        if self._caller:
            fields["caller"] = self._caller
        calls_log.info("call", extra={"fields": fields})


async def abort(context: Context, answer: Answer, request_id: str) -> NoReturn:
    """End the call with `answer`; its details travel as google.rpc.Status."""
    status = status_from(answer)
    trailers = ((REQUEST_ID, request_id), (STATUS_DETAILS, status.SerializeToString()))
    message = shortened(answer.message, MESSAGE_BYTES_MAX, header_bytes)
    await context.abort(answer.code, message, trailing_metadata=trailers)
    raise AssertionError("abort raises")  # its types do not say so


def _parsed(parse: Parse, data: bytes) -> Message:
    try:
        return parse(data)
    except DecodeError as error:
        problem = "not a message of the expected type, or a string that is not UTF-8"
        raise MalformedMessage(problem) from error


def _metadata_of(context: Context) -> dict[str, str]:
    pairs = context.invocation_metadata() or ()
    return {str(key): value for key, value in pairs if isinstance(value, str)}


def _request_id(metadata: dict[str, str]) -> str:
    given = metadata.get(REQUEST_ID, "")
    return given if _REQUEST_ID_OK.fullmatch(given) else secrets.token_hex(8)
