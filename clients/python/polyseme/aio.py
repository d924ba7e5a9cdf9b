"""Performs plans on the asyncio event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from contextlib import suppress
from typing import Any, TypeVar

import grpc
import grpc.aio

from polyseme.connection import Connection
from polyseme.errors import PolysemeError, ServerError, from_rpc
from polyseme.plans import (
    CALLERS_OWN,
    END,
    Call,
    CloseSend,
    Emit,
    Open,
    Plan,
    Pull,
    Receive,
    Send,
    Sleep,
    Step,
    Tell,
)
from polyseme.retry import late, silent, unavailable

T = TypeVar("T")
_END_OF_STREAM: Any = getattr(grpc.aio, "EOF")  # noqa: B009 - the stubs lack it


class AsyncDriver:
    """The effects behind `AsyncClient`; belongs to one event loop."""

    def __init__(self, connection: Connection) -> None:
        self._target = connection.target
        self._metadata = connection.metadata()
        self._channel = connection.aio_channel()
        self._closed = False

    async def close(self) -> None:
        """Close the channel; running calls end with `Cancelled`."""
        self._closed = True
        await self._channel.close(None)

    async def run(self, plan: Plan[T], items: Iterable[Any] | AsyncIterable[Any] = ()) -> T:
        """Perform a plan that emits nothing, and return its result."""
        performer = _Performer(self, _async_iterator(items))
        outcome: Any = None
        failure: PolysemeError | None = None
        try:
            while True:
                try:
                    step = plan.send(outcome) if failure is None else plan.throw(failure)
                except StopIteration as end:
                    result: T = end.value
                    return result
                outcome, failure = None, None
                try:
                    outcome = await performer.perform(step)
                except PolysemeError as error:
                    if isinstance(step, CALLERS_OWN):
                        raise
                    failure = error
        finally:
            plan.close()
            performer.close()

    async def iterate(
        self, plan: Plan[Any], items: Iterable[Any] | AsyncIterable[Any] = ()
    ) -> AsyncGenerator[Any, None]:
        """Perform a plan and give each item that it emits as soon as it does."""
        performer = _Performer(self, _async_iterator(items))
        outcome: Any = None
        failure: PolysemeError | None = None
        try:
            while True:
                try:
                    step = plan.send(outcome) if failure is None else plan.throw(failure)
                except StopIteration:
                    return
                outcome, failure = None, None
                if isinstance(step, Emit):
                    yield step.item
                    continue
                try:
                    outcome = await performer.perform(step)
                except PolysemeError as error:
                    if isinstance(step, CALLERS_OWN):
                        raise
                    failure = error
        finally:
            plan.close()
            performer.close()

    async def unary(self, step: Call) -> Any:
        """One request, one answer."""
        method = step.method
        send = self._channel.unary_unary(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.answer.FromString,
        )
        try:
            return await send(step.request, timeout=step.timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise from_rpc(error, self._target, given_up=self._closed) from error
        except grpc.aio.UsageError as error:  # grpc's answer on a closed channel
            raise unavailable(f"this client is closed ({error})") from error

    def stream(self, step: Open) -> _Stream:
        """Open a stream."""
        method = step.method
        start: Any = self._channel.stream_stream(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.answer.FromString,
        )
        try:
            call = start(timeout=step.timeout_s, metadata=self._metadata)
            return _Stream(call, self._target, step.timeout_s, lambda: self._closed)
        except grpc.aio.UsageError as error:
            raise unavailable(f"this client is closed ({error})") from error


_ENDED = (grpc.RpcError, asyncio.InvalidStateError)  # what writing to an ended stream raises


# A stream that ends so near to its deadline was ended by it: gRPC's clock is not quite ours.
DEADLINE_SLACK_S = 0.05


class _Stream:
    def __init__(
        self, call: Any, target: str, timeout_s: float | None, given_up: Callable[[], bool]
    ) -> None:
        self._call = call
        self._given_up = given_up
        self._target = target
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._cut = False  # a write found the stream ended

    async def send(self, request: Any) -> None:
        try:
            await self._call.write(request)
        except _ENDED:  # the next receive says why
            self._cut = True

    async def close_send(self) -> None:
        with suppress(*_ENDED):
            await self._call.done_writing()

    async def receive(self, silence_s: float) -> Any:
        try:
            answer = await asyncio.wait_for(self._call.read(), silence_s)
        except grpc.RpcError as error:
            failure = from_rpc(error, self._target, given_up=self._given_up())
            if self._cut and isinstance(failure, ServerError):
                # grpc.aio puts "Internal error from Core." in the place of the status with which
                # the stream ended, when a write finds it ended (_call.py, _write). The clock tells
                # whether it was the deadline; if not, a retry finds out what it was.
                if self._is_late():
                    raise late() from error
                raise unavailable("the stream ended while it was written to") from error
            raise failure from error
        except TimeoutError:
            raise silent(silence_s) from None
        if answer is _END_OF_STREAM:
            raise unavailable("the server ended the stream before it answered all")
        return answer

    def _is_late(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline - DEADLINE_SLACK_S

    async def perform(self, step: Step) -> Any:
        match step:
            case Send(request):
                await self.send(request)
            case CloseSend():
                await self.close_send()
            case Receive(silence_s):
                return await self.receive(silence_s)
        return None

    def cancel(self) -> None:
        self._call.cancel()


class _Performer:
    """Performs the steps of one plan."""

    def __init__(self, driver: AsyncDriver, items: AsyncIterator[Any]) -> None:
        self._driver = driver
        self._items = items
        self._stream: _Stream | None = None

    async def perform(self, step: Step) -> Any:
        match step:
            case Call():
                return await self._driver.unary(step)
            case Sleep(seconds):
                await asyncio.sleep(seconds)
            case Pull():
                return await anext(self._items, END)
            case Tell(function, value):
                function(value)
            case Open():
                self.close()
                self._stream = self._driver.stream(step)
            case _:
                assert self._stream is not None, step
                return await self._stream.perform(step)
        return None

    def close(self) -> None:
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None


async def _async_iterator(items: Iterable[Any] | AsyncIterable[Any]) -> AsyncGenerator[Any, None]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
