"""The torture: lives of a server, each ended by surprise, each compared with the last."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from server.maintenance import check
from server.torture.api import Api
from server.torture.model import Kind, Lane, Violation
from server.torture.survey import survey
from server.torture.traffic import Worker
from server.torture.victim import Victim, VictimEnded
from server.torture.workload import PLANS, steps

STARTS_KILLED = 0.12  # of the lives, before they serve
STOPS = 0.05  # of the lives, ended by SIGTERM
TRAFFIC_S = (0.03, 1.5)  # between the first call and the end
START_S = 3.0  # a start takes about so long
THOROUGH_EVERY = 5  # restarts
PROGRESS_S = 10.0
VIOLATIONS_SHOWN = 20


@dataclass(slots=True)
class Torture:
    """One run. `lives` raises nothing: what goes wrong is in `found`."""

    seed: int
    seconds: float
    kills_max: int  # 0: as many as there is time for
    home: Path
    model: Path
    counts: Counter[str] = field(default_factory=Counter)
    found: list[Violation] = field(default_factory=list)
    workers: list[Worker] = field(init=False)

    def __post_init__(self) -> None:
        self.workers = [
            Worker(plan, steps(self.seed, plan), Lane(plan.lane), self.counts) for plan in PLANS
        ]

    async def lives(self) -> None:
        rng = random.Random(self.seed)
        begun = shown = time.monotonic()
        while not self.found and time.monotonic() < begun + self.seconds:
            if self.kills_max and self.counts["kills"] >= self.kills_max:
                break
            await self._guarded(rng)
            if time.monotonic() > shown + PROGRESS_S:
                shown = time.monotonic()
                print(f"{shown - begun:6.0f} s: {self.summary()}", flush=True)
        if not self.found:
            await self._guarded(rng, last=True)
        if not self.found and check(self.home / "data", repair=False) != 0:
            self.found.append(Violation(Kind.CONTENT, "`polyseme-server check` is not content"))

    async def _guarded(self, rng: random.Random, *, last: bool = False) -> None:
        data, log = self.home / "data", self.home / "server.log"
        victim = await Victim.start(data=data, model=self.model, log=log)
        try:
            await self._life(victim, rng, last=last)
        except VictimEnded as ended:
            self.found.append(Violation(Kind.CRASH, str(ended)))
        except grpc.aio.AioRpcError as error:
            told = f"{error.code().name}: {error.details()}"
            self.found.append(Violation(Kind.STATUS, f"while comparing: {told}"))
        finally:
            await victim.bury()

    async def _life(self, victim: Victim, rng: random.Random, *, last: bool) -> None:
        first = not self.counts["lives"]
        self.counts["lives"] += 1
        if not last and not first and rng.random() < STARTS_KILLED:
            await asyncio.sleep(rng.uniform(0, START_S))
            await victim.kill()
            self.counts["kills"] += 1
            self.counts["kills while starting"] += 1
            return
        api = Api(await victim.serving())
        try:
            if first:
                await self._create(api)
            await self._compare(api, thorough=last or self.counts["lives"] % THOROUGH_EVERY == 0)
            if not last and not self.found:
                await self._traffic(api, victim, rng)
            elif not self.found:
                await victim.stop()
        finally:
            await api.close()

    async def _create(self, api: Api) -> None:
        for plan in {plan.collection: plan for plan in PLANS}.values():
            await api.create(plan)

    async def _compare(self, api: Api, *, thorough: bool) -> None:
        self.counts["restarts compared"] += 1
        self.found += await survey(api, self.workers, thorough=thorough)
        if not self.found:
            for worker in self.workers:
                await worker.ask_again(api)
                self.found += worker.found

    async def _traffic(self, api: Api, victim: Victim, rng: random.Random) -> None:
        """All lanes at once, until a moment that nobody expects."""
        lanes = [asyncio.create_task(worker.work(api, victim)) for worker in self.workers]
        await asyncio.sleep(rng.uniform(*TRAFFIC_S))
        if rng.random() < STOPS:
            await victim.stop()
            self.counts["stops"] += 1
        else:
            await victim.kill()
            self.counts["kills"] += 1
        await asyncio.gather(*lanes)
        for worker in self.workers:
            self.counts["unanswered changes"] += len(worker.lane.pending)
            self.found += worker.found

    def summary(self) -> str:
        names = (
            "kills",
            "kills while starting",
            "stops",
            "restarts compared",
            "acknowledged changes",
            "acknowledged documents",
            "unanswered changes",
            "retries",
        )
        return ", ".join(f"{self.counts[name]:,} {name}" for name in names)


def torture(*, seed: int | None, seconds: float, kills: int, data: Path | None, model: Path) -> int:
    """Prints what it does and finds. The exit status: 0 nothing was wrong, 1 something was."""
    seed = random.SystemRandom().randrange(2**31) if seed is None else seed
    home = data or Path(tempfile.mkdtemp(prefix="polyseme-torture-"))
    home.mkdir(parents=True, exist_ok=True)
    if any(home.iterdir()):
        print(f"{home} is not empty; torture begins with an empty directory")
        return 1
    print(f"seed {seed}; the same seed asks for the same, at other moments", flush=True)
    run = Torture(seed, seconds, kills, home, model)
    asyncio.run(run.lives())
    return _verdict(run, keep=data is not None)


def _verdict(run: Torture, *, keep: bool) -> int:
    names = ("write", "bulk", "again", "read", "find", "compact", "save", "restore", "given up")
    print("steps: " + ", ".join(f"{run.counts[name]:,} {name}" for name in names))
    for violation in run.found[:VIOLATIONS_SHOWN]:
        print(f"WRONG {violation}")
    if run.found:
        print(f"the data directory and the server's log are kept in {run.home}")
    elif not keep:
        shutil.rmtree(run.home)
    lost = sum(violation.kind is Kind.LOST for violation in run.found)
    outcome = f"FAILED with {len(run.found)} findings" if run.found else "passed"
    print(f"torture {outcome}: {run.summary()}, lost {lost}, seed {run.seed}")
    return 1 if run.found else 0
