"""What happens when three times more is asked for than can be done?

    python -m bench.overload --model models/all-minilm-l6-v2 [--seconds 300] [--factor 3]

Starts a server on loopback, measures its capacity with a closed loop of bulk calls, the interactive
lane alone, and then both lanes together, asked for at `--factor` times the capacity by an open
loop: calls come at random moments (Poisson) whether or not earlier ones were answered. Interactive
calls bring 1 text and wait 2 s, bulk calls 32 texts and 5 s.

Goodput is what was answered in time; "computed, not delivered" is the share of the texts that the
model embedded for callers who no longer waited. The slope of the resident memory is a straight
line through the second half of the run. Client and server share this machine's cores.

Then storms, each beside a person who calls all the time: 2,000 calls that are cancelled, 5,000
silent streams, streams that nobody reads, messages that are too large. `--only` load or storms.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import grpc
import numpy as np
import psutil  # type: ignore[import-untyped]
from google.rpc import error_details_pb2, status_pb2

from bench import storms
from polyseme.v1 import admin_pb2, admin_pb2_grpc, common_pb2, encoder_pb2, encoder_pb2_grpc
from server.torture.victim import Victim

WORDS = ("apple", "bank", "spring", "crane", "bat", "seal", "light", "match", "ring", "bolt")
TEXT_WORDS = 20
CAPACITY_S = 8.0
ALONE_S = 10.0
INTERACTIVE_SHARE = 0.1  # of the capacity
OUTSTANDING_MAX = 3000  # calls of the generator; more are counted as not sent
DETAILS = "grpc-status-details-bin"
MIB = 1024 * 1024


@dataclass(slots=True, eq=False)
class Lane:
    name: str
    texts: int  # of one call
    deadline_s: float
    priority: common_pb2.Priority.ValueType
    seconds: list[float] = field(default_factory=list)  # of calls answered OK
    codes: Counter[str] = field(default_factory=Counter)
    without_retry_info: int = 0

    def row(self, run_s: float) -> str:
        asked = sum(self.codes.values())
        times = np.percentile(self.seconds, [50, 99]) * 1e3 if self.seconds else (0.0, 0.0)
        good = len(self.seconds) * self.texts / run_s
        others = ", ".join(f"{n:,} {code}" for code, n in self.codes.most_common() if code != "OK")
        share = len(self.seconds) / max(asked, 1)
        return (
            f"| {self.name} | {asked * self.texts / run_s:,.0f} | {good:,.0f} | {share:.1%} "
            f"| {times[0]:,.0f} | {times[1]:,.0f} | {others or 'none'} |"
        )


def interactive(name: str) -> Lane:
    return Lane(name, 1, 2.0, common_pb2.PRIORITY_INTERACTIVE)


def bulk(name: str) -> Lane:
    return Lane(name, 32, 5.0, common_pb2.PRIORITY_BULK)


class Load:
    def __init__(self, channel: grpc.aio.Channel, pid: int) -> None:
        self._embed = encoder_pb2_grpc.EncoderServiceStub(channel).Embed
        self._admin = admin_pb2_grpc.AdminServiceStub(channel)
        self._process = psutil.Process(pid)
        self._rng = random.Random(0)
        self._outstanding: set[asyncio.Task[None]] = set()
        self.resident: list[tuple[float, float]] = []  # seconds, MiB

    async def capacity(self) -> float:
        """Texts a second, when there is always another call."""
        lane = Lane("capacity", 32, 60.0, common_pb2.PRIORITY_BULK)
        end = time.monotonic() + CAPACITY_S

        async def caller() -> None:
            while time.monotonic() < end:
                await self._call(lane)

        begun = time.monotonic()
        await asyncio.gather(*(caller() for _ in range(8)))
        return len(lane.seconds) * lane.texts / (time.monotonic() - begun)

    async def offer(self, rates: dict[Lane, float], seconds: float) -> None:
        """Ask at these rates (texts a second), whatever is answered; wait for the last answer."""
        await asyncio.gather(*(self._arrivals(lane, r, seconds) for lane, r in rates.items()))
        await asyncio.gather(*self._outstanding)

    async def watch(self) -> None:
        begun = time.monotonic()
        while True:
            self.resident.append((time.monotonic() - begun, self._process.memory_info().rss / MIB))
            await asyncio.sleep(1)

    def slope(self) -> float:
        """MiB a minute over the second half."""
        half = self.resident[len(self.resident) // 2 :]
        if len(half) < 2:
            return 0.0
        seconds, mib = np.array(half).T
        return float(np.polyfit(seconds, mib, 1)[0]) * 60

    async def statistics(self) -> admin_pb2.GetStatisticsResponse:
        return await self._admin.GetStatistics(admin_pb2.GetStatisticsRequest(), timeout=30)

    async def recovered_s(self, usual_s: float) -> float:
        """How long until an interactive call takes no more than `usual_s`."""
        begun = time.monotonic()
        while True:
            lane = interactive("")
            await self._call(lane)
            if lane.seconds and lane.seconds[0] <= usual_s:
                return time.monotonic() - begun

    async def _arrivals(self, lane: Lane, texts_per_s: float, seconds: float) -> None:
        at = time.monotonic()
        end = at + seconds
        while at < end:
            at += self._rng.expovariate(texts_per_s / lane.texts)
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            if len(self._outstanding) >= OUTSTANDING_MAX:
                lane.codes["not sent"] += 1
                continue
            task = asyncio.create_task(self._call(lane))
            self._outstanding.add(task)
            task.add_done_callback(self._outstanding.discard)

    async def _call(self, lane: Lane) -> None:
        inputs = [" ".join(self._rng.choices(WORDS, k=TEXT_WORDS)) for _ in range(lane.texts)]
        request = encoder_pb2.EmbedRequest(inputs=inputs, priority=lane.priority)
        begun = time.monotonic()
        try:
            await self._embed(request, timeout=lane.deadline_s)
        except grpc.aio.AioRpcError as error:
            lane.codes[error.code().name] += 1
            refused = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            lane.without_retry_info += refused and not has_retry_info(error)
        else:
            lane.codes["OK"] += 1
            lane.seconds.append(time.monotonic() - begun)


def has_retry_info(error: grpc.aio.AioRpcError) -> bool:
    trailers = cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ())
    for key, data in trailers:
        if key == DETAILS and isinstance(data, bytes):
            details = status_pb2.Status.FromString(data).details
            return any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in details)
    return False


async def measure(load: Load, seconds: float, factor: float) -> None:
    capacity = await load.capacity()
    print(f"capacity: {capacity:,.0f} texts/s in calls of 32, {TEXT_WORDS} words each", flush=True)
    alone = interactive("interactive alone")
    share = INTERACTIVE_SHARE * capacity
    await load.offer({alone: share}, ALONE_S)
    usual_s = float(np.percentile(alone.seconds, 99))

    people = interactive("interactive")
    lanes = {people: share, bulk("bulk"): factor * capacity - share}
    before = await load.statistics()
    watching = asyncio.create_task(load.watch())
    begun = time.monotonic()
    await load.offer(lanes, seconds)
    run_s = time.monotonic() - begun
    recovered_s = await load.recovered_s(2 * usual_s)
    watching.cancel()
    after = await load.statistics()

    print("| lane | asked texts/s | goodput texts/s | calls OK | p50 ms | p99 ms | other codes |")
    print("|---|---|---|---|---|---|---|")
    print(alone.row(ALONE_S))
    for lane in lanes:
        print(lane.row(run_s))
    beside_s = float(np.percentile(people.seconds or [float("nan")], 99))
    print(f"\np99 of interactive calls beside bulk: {beside_s / usual_s:.2f} times that alone")
    computed = after.texts - before.texts
    delivered = sum(len(lane.seconds) * lane.texts for lane in lanes)
    print(
        f"\ncomputed, not delivered: {max(0, computed - delivered) / max(computed, 1):.2%} of "
        f"{computed:,} texts; dropped before the model: "
        f"{after.abandoned_texts - before.abandoned_texts:,} texts; refusals without RetryInfo: "
        f"{sum(lane.without_retry_info for lane in lanes)}"
    )
    print(
        f"resident memory: {load.resident[0][1]:,.0f} to {load.resident[-1][1]:,.0f} MiB, at most "
        f"{max(mib for _, mib in load.resident):,.0f}, slope {load.slope():+.1f} MiB/min; "
        f"recovered after {recovered_s:.2f} s"
    )


async def run(model: Path, seconds: float, factor: float, only: str) -> None:
    with tempfile.TemporaryDirectory(prefix="polyseme-overload-") as directory:
        home = Path(directory)
        victim = await Victim.start(data=home / "data", model=model, log=home / "log")
        try:
            port = await victim.serving()
            if only != "storms":
                async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                    await measure(Load(channel, victim.pid), seconds, factor)
            if only != "load":
                await storms.report(port, victim.pid)
        finally:
            await victim.bury()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--factor", type=float, default=3.0, help="times the capacity")
    parser.add_argument("--only", choices=("load", "storms"), default="")
    chosen = parser.parse_args()
    asyncio.run(run(chosen.model, chosen.seconds, chosen.factor, chosen.only))


if __name__ == "__main__":
    main()
