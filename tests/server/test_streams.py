import asyncio
import contextlib

import pytest

from server.streams import in_order


async def requests_of(count, read):
    for number in range(count):
        read.append(number)
        yield number


async def test_answers_come_in_order_though_work_ends_in_another():
    async def answer(number):
        await asyncio.sleep(0.01 * (number % 3))
        return number * 2

    replies = [reply async for reply in in_order(requests_of(20, []), answer, in_flight_max=4)]

    assert replies == [number * 2 for number in range(20)]


async def test_nothing_is_read_while_enough_is_unanswered():
    read, started = [], []

    async def answer(number):
        started.append(number)
        await asyncio.sleep(60)

    replies = in_order(requests_of(20, read), answer, in_flight_max=3)
    reading = asyncio.ensure_future(anext(replies))
    await asyncio.sleep(0.05)
    assert read == started == [0, 1, 2]

    reading.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reading
    await replies.aclose()


async def test_work_is_cancelled_when_the_stream_ends_early():
    cancelled = []

    async def answer(number):
        try:
            await asyncio.sleep(60 if number else 0)
        except asyncio.CancelledError:
            cancelled.append(number)
            raise
        return number

    replies = in_order(requests_of(20, []), answer, in_flight_max=3)
    assert await anext(replies) == 0
    await asyncio.sleep(0.01)
    await replies.aclose()

    assert sorted(cancelled) == [1, 2]  # in any order


async def test_an_error_of_the_work_ends_the_stream():
    async def answer(number):
        raise ZeroDivisionError

    replies = in_order(requests_of(3, []), answer, in_flight_max=2)

    with pytest.raises(ZeroDivisionError):
        await anext(replies)
