"""Streams that are answered in order while several messages are worked on."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

Request = TypeVar("Request")
Reply = TypeVar("Reply")


async def in_order(
    requests: AsyncIterator[Request],
    answer: Callable[[Request], Awaitable[Reply]],
    *,
    in_flight_max: int,
) -> AsyncIterator[Reply]:
    """The answer to each request, in the order of the requests.

    No request is read while `in_flight_max` are unanswered: the caller's flow control is what
    waits. Raises what `requests` and `answer` raise; what is then still worked on is cancelled.
    """
    room = asyncio.Semaphore(in_flight_max)
    begun: asyncio.Queue[asyncio.Task[Reply] | None] = asyncio.Queue()  # bounded by `room`
    tasks: set[asyncio.Task[Reply]] = set()

    async def read() -> None:
        try:
            while True:
                await room.acquire()
                task = asyncio.create_task(_answered(answer, await anext(requests)))
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


async def _answered(answer: Callable[[Request], Awaitable[Reply]], request: Request) -> Reply:
    return await answer(request)  # a task wants a coroutine, not any awaitable
