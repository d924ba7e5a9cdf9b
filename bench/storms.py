"""Callers who cancel, fall silent, do not read or send too much: what the others notice of them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import grpc
import numpy as np
import psutil  # type: ignore[import-untyped]

from polyseme.v1 import admin_pb2, admin_pb2_grpc, common_pb2, encoder_pb2, encoder_pb2_grpc

MIB = 1024 * 1024
PERSON_PAUSE_S = 0.05
SETTLE_S = 2.0
TEXT = "apple bank spring crane bat seal light match ring bolt " * 2

OPENED_AT_ONCE = 50  # more, and the person waits for this process instead of the server
CANCELLED_CALLS, CANCELLED_AT_ONCE, CANCELLED_WITHIN_S = 2000, 100, 0.05
STREAMS, STREAMS_A_CHANNEL, STREAMS_HELD_S = 5000, 1000, 10.0
DEAF_STREAMS, DEAF_S = 20, 10.0
LARGE_CALLS, LARGE_BYTES = 40, 40 * MIB


@dataclass(slots=True)
class Seen:
    """What a storm's own callers were told, and what a person noticed beside it."""

    codes: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)  # of the person's calls, by code
    resident: list[float] = field(default_factory=list)  # MiB: before, most, after
    computed: int = 0  # texts

    def row(self, name: str) -> str:
        times = np.percentile(self.seconds, [50, 99]) * 1e3 if self.seconds else (0.0, 0.0)
        codes = ", ".join(f"{n:,} {code}" for code, n in self.codes.most_common())
        failed = ", ".join(f"{n} {code}" for code, n in self.failed.most_common())
        before, most, after = self.resident
        return (
            f"| {name} | {codes} | {len(self.seconds)} of {len(self.seconds) + self.failed.total()}"
            f"{f' ({failed})' if failed else ''} "
            f"| {times[0]:,.0f} | {times[1]:,.0f} | {before:,.0f} / {most:,.0f} / {after:,.0f} "
            f"| {self.computed:,} |"
        )


Storm = Callable[["Place", Seen], Awaitable[None]]


class Place:
    """A server to storm."""

    def __init__(self, port: int, pid: int) -> None:
        self._port = port
        self._process = psutil.Process(pid)

    @contextlib.asynccontextmanager
    async def channel(self) -> AsyncIterator[grpc.aio.Channel]:
        """A connection of its own."""
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
        address = f"127.0.0.1:{self._port}"
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            yield channel

    def resident_mib(self) -> float:
        return float(self._process.memory_info().rss) / MIB

    async def weather(self, storm: Storm) -> Seen:
        """What `storm` did, while a person called all the time."""
        seen = Seen()
        async with self.channel() as channel:
            admin = admin_pb2_grpc.AdminServiceStub(channel)
            before = await admin.GetStatistics(admin_pb2.GetStatisticsRequest())
            resident = [self.resident_mib()]
            person = asyncio.create_task(self._person(channel, seen, resident))
            await storm(self, seen)
            await asyncio.sleep(SETTLE_S)
            person.cancel()
            await asyncio.gather(person, return_exceptions=True)
            after = await admin.GetStatistics(admin_pb2.GetStatisticsRequest())
        seen.resident = [resident[0], max(resident), self.resident_mib()]
        seen.computed = after.texts - before.texts - len(seen.seconds)
        return seen

    async def _person(self, channel: grpc.aio.Channel, seen: Seen, resident: list[float]) -> None:
        embed = encoder_pb2_grpc.EncoderServiceStub(channel).Embed
        request = encoder_pb2.EmbedRequest(
            inputs=["an apple a day"], priority=common_pb2.PRIORITY_INTERACTIVE
        )
        while True:
            began = time.monotonic()
            try:
                await embed(request, timeout=5.0)
                seen.seconds.append(time.monotonic() - began)
            except grpc.aio.AioRpcError as error:
                seen.failed[error.code().name] += 1
            resident.append(self.resident_mib())
            await asyncio.sleep(PERSON_PAUSE_S)


async def code_of(call: Awaitable[object]) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    except asyncio.CancelledError:
        return "CANCELLED"
    return "OK"


async def nothing(place: Place, seen: Seen) -> None:
    """For comparison."""
    await asyncio.sleep(5.0)


async def cancellations(place: Place, seen: Seen) -> None:
    rng = random.Random(0)
    request = encoder_pb2.EmbedRequest(inputs=[TEXT] * 32, priority=common_pb2.PRIORITY_BULK)
    async with place.channel() as channel:
        embed = encoder_pb2_grpc.EncoderServiceStub(channel).Embed
        for _ in range(CANCELLED_CALLS // CANCELLED_AT_ONCE):
            calls = [embed(request) for _ in range(CANCELLED_AT_ONCE)]
            ends = [asyncio.create_task(code_of(call)) for call in calls]
            for call in calls:
                await asyncio.sleep(rng.uniform(0, CANCELLED_WITHIN_S / CANCELLED_AT_ONCE))
                call.cancel()
            seen.codes.update(await asyncio.gather(*ends))


async def silence(place: Place, seen: Seen) -> None:
    """Half of the streams are cancelled, the other half vanish with their connections."""
    async with contextlib.AsyncExitStack() as stack:
        streams = []
        for _ in range(STREAMS // STREAMS_A_CHANNEL):
            channel = await stack.enter_async_context(place.channel())
            stub = encoder_pb2_grpc.EncoderServiceStub(channel)
            for _ in range(STREAMS_A_CHANNEL // OPENED_AT_ONCE):
                opened = [stub.EmbedStream(None) for _ in range(OPENED_AT_ONCE)]
                await asyncio.gather(*(stream.wait_for_connection() for stream in opened))
                streams += opened
                await asyncio.sleep(0)
        await asyncio.sleep(STREAMS_HELD_S)
        for stream in streams:
            seen.codes[(await stream.code()).name if stream.done() else "open"] += 1
        for stream in streams[::2]:
            stream.cancel()


async def deafness(place: Place, seen: Seen) -> None:
    """Streams that are written to for as long as they take it, and never read."""

    async def push(stream: grpc.aio.StreamStreamCall) -> None:  # type: ignore[type-arg]
        request = encoder_pb2.EmbedStreamRequest(
            request=encoder_pb2.EmbedRequest(inputs=["apple"] * 200)
        )
        while True:
            await stream.write(request)
            seen.codes["messages taken"] += 1

    async with place.channel() as channel:
        stub = encoder_pb2_grpc.EncoderServiceStub(channel)
        pushing = [asyncio.create_task(push(stub.EmbedStream(None))) for _ in range(DEAF_STREAMS)]
        await asyncio.sleep(DEAF_S)
        for task in pushing:
            task.cancel()
        await asyncio.gather(*pushing, return_exceptions=True)


async def size(place: Place, seen: Seen) -> None:
    request = encoder_pb2.EmbedRequest(inputs=["a" * LARGE_BYTES])
    async with place.channel() as channel:
        embed = encoder_pb2_grpc.EncoderServiceStub(channel).Embed
        for _ in range(LARGE_CALLS // 4):
            seen.codes.update(await asyncio.gather(*(code_of(embed(request)) for _ in range(4))))


STORMS: Sequence[tuple[str, Storm]] = (
    ("nothing", nothing),
    (f"{CANCELLED_CALLS:,} calls cancelled", cancellations),
    (f"{STREAMS:,} silent streams", silence),
    (f"{DEAF_STREAMS} streams not read", deafness),
    (f"{LARGE_CALLS} messages of {LARGE_BYTES // MIB} MiB", size),
)


async def report(port: int, pid: int) -> None:
    """Print a row a storm."""
    place = Place(port, pid)
    print(
        "\n| beside a person | its callers saw | person's calls OK | p50 ms | p99 ms "
        "| resident MiB before / most / after | texts computed for it |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, storm in STORMS:
        print((await place.weather(storm)).row(name), flush=True)
