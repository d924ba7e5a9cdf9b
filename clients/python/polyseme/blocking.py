"""Performs plans with blocking calls."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, TypeVar

import grpc

from polyseme.connection import Connection
from polyseme.errors import PolysemeError, from_rpc
from polyseme.methods import Method
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
from polyseme.retry import silent, unavailable

T = TypeVar("T")


class BlockingDriver:
    """The effects behind `Client`. Safe to use from several threads at once."""

    def __init__(self, connection: Connection) -> None:
        self._target = connection.target
        self._metadata = connection.metadata()
        self._channel = connection.channel()
        self._closed = False

    def close(self) -> None:
        """Close the channel; running calls end with `Cancelled`."""
        self._closed = True
        self._channel.close()

    def run(self, plan: Plan[T], items: Iterable[Any] = ()) -> T:
        """Perform a plan that emits nothing, and return its result."""
        steps = self.iterate(plan, items)
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        raise AssertionError("a plan for `run` emitted an item")

    def iterate(self, plan: Plan[T], items: Iterable[Any] = ()) -> Generator[Any, None, T]:
        """Perform a plan and give each item that it emits as soon as it does."""
        performer = _Performer(self, iter(items))
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
                if isinstance(step, Emit):
                    yield step.item
                    continue
                try:
                    outcome = performer.perform(step)
                except PolysemeError as error:
                    if isinstance(step, CALLERS_OWN):
                        raise
                    failure = error
        finally:
            plan.close()
            performer.close()

    def unary(self, step: Call) -> Any:
        """One request, one answer."""
        method = step.method
        send = self._channel.unary_unary(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.answer.FromString,
        )
        try:
            return send(step.request, timeout=step.timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise from_rpc(error, self._target, given_up=self._closed) from error
        except ValueError as error:  # grpc's answer on a closed channel
            raise _closed(error) from error

    def stream(self, method: Method[Any, Any], timeout_s: float | None) -> _Stream:
        """Open a stream."""
        start = self._channel.stream_stream(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.answer.FromString,
        )

        def begin(requests: Iterator[Any]) -> Any:
            return start(requests, timeout=timeout_s, metadata=self._metadata)

        try:
            return _Stream(begin, self._target, lambda: self._closed)
        except ValueError as error:
            raise _closed(error) from error


def _closed(error: ValueError) -> PolysemeError:
    return unavailable(f"this client is closed ({error})")


class _Stream:
    """A stream driven from one thread: send, receive, in the plan's order."""

    def __init__(
        self,
        begin: Callable[[Iterator[Any]], Any],
        target: str,
        given_up: Callable[[], bool],
    ) -> None:
        # The plan bounds what is in flight, so the queue needs no bound of its own. gRPC's own
        # thread takes from it; None ends it.
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._call = begin(iter(self._requests.get, None))
        self._target = target
        self._given_up = given_up

    def send(self, request: Any) -> None:
        self._requests.put(request)

    def close_send(self) -> None:
        self._requests.put(None)

    def receive(self, silence_s: float) -> Any:
        fell_silent = threading.Event()

        def give_up() -> None:
            fell_silent.set()
            self._call.cancel()

        timer = threading.Timer(silence_s, give_up)
        timer.daemon = True
        timer.start()
        try:
            return next(self._call)
        except StopIteration:
            raise unavailable("the server ended the stream before it answered all") from None
        except grpc.RpcError as error:
            if fell_silent.is_set() and error.code() is grpc.StatusCode.CANCELLED:
                raise silent(silence_s) from error
            raise from_rpc(error, self._target, given_up=self._given_up()) from error
        finally:
            timer.cancel()

    def perform(self, step: Step) -> Any:
        match step:
            case Send(request):
                self.send(request)
            case CloseSend():
                self.close_send()
            case Receive(silence_s):
                return self.receive(silence_s)
        return None

    def cancel(self) -> None:
        self._call.cancel()
        self._requests.put(None)  # lets gRPC's thread go


class _Performer:
    """Performs the steps of one plan."""

    def __init__(self, driver: BlockingDriver, items: Iterator[Any]) -> None:
        self._driver = driver
        self._items = items
        self._stream: _Stream | None = None

    def perform(self, step: Step) -> Any:
        match step:
            case Call():
                return self._driver.unary(step)
            case Sleep(seconds):
                time.sleep(seconds)
            case Pull():
                return next(self._items, END)
            case Tell(function, value):
                function(value)
            case Open(method, timeout_s):
                self.close()
                self._stream = self._driver.stream(method, timeout_s)
            case _:
                assert self._stream is not None, step
                return self._stream.perform(step)
        return None

    def close(self) -> None:
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None
