"""Streams that are answered in order while several messages are worked on."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from server.errors import StreamIdle

Request = TypeVar("Request")
Reply = TypeVar("Reply")


async def in_order(
    requests: AsyncIterator[Request],
    answer: Callable[[Request], Awaitable[Reply]],
    *,
    in_flight_max: int,
    idle_s_max: float,
) -> AsyncIterator[Reply]:
    """The answer to each request, in the order of the requests.

    No request is read while `in_flight_max` are unanswered: the caller's flow control is what
    waits. Raises StreamIdle after `idle_s_max` seconds without a request, and what `answer`
    raises; what is then still worked on is cancelled.
    """
    room = asyncio.Semaphore(in_flight_max)
    begun: asyncio.Queue[asyncio.Task[Reply] | None] = asyncio.Queue()  # bounded by `room`
    tasks: set[asyncio.Task[Reply]] = set()

    async def read() -> None:
        try:
            while True:
                await room.acquire()
                task = asyncio.create_task(_answered(answer, await _next(requests, idle_s_max)))
                tasks.add(task)
                begun.put_nowait(task)
        except StopAsyncIteration:
            return
        finally:
            begun.put_nowait(None)

    reader = asyncio.create_task(read())
    try:
        while (task := await begun.get()) is not None:
            yield await task
            tasks.discard(task)
            room.release()
        await reader
    finally:
        for left in (reader, *tasks):
            left.cancel()
        await asyncio.gather(reader, *tasks, return_exceptions=True)


async def _next(requests: AsyncIterator[Request], idle_s_max: float) -> Request:
    try:
        async with asyncio.timeout(idle_s_max):
            return await anext(requests)
    except TimeoutError:
        raise StreamIdle(idle_s_max) from None


async def _answered(answer: Callable[[Request], Awaitable[Reply]], request: Request) -> Reply:
    return await answer(request)  # a task wants a coroutine, not any awaitable
