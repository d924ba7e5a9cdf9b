"""The queue before the model, and the threads that serve it."""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Generic, TypeVar

from server.batching import Caller, Lane, Pending, choice_of, take_batch
from server.errors import DeadlinePassed, Draining, LimitExceeded, QueueFull, QueueTooSlow
from server.speed import Speed
from server.threads import yield_processor

In = TypeVar("In")
Out = TypeVar("Out")

# An answer needs this long to reach the wire before its caller's deadline.
DEADLINE_MARGIN_S = 0.005

# A call is let in if the queue before it is expected to take no more than this share of its time.
# The expectation is an average, and people who come later go before bulk.
DEADLINE_SHARE_MAX = 0.5

RETRY_S_MIN, RETRY_S_MAX = 0.05, 30.0
SPEED_FIRST = Speed.of(call_s=1 / 1250, token_s=1 / 20_000)  # until batches are measured

# Who called so recently may call again: bulk batches are short then.
PEOPLE_S = 10.0

# Bulk that has waited too long lets so many batches of people go before each of its own.
YIELDS_MAX = 4

DUE = attrgetter("due")


@dataclass(frozen=True, slots=True)
class Computed(Generic[Out]):
    """The results of one call's items, in their order, and where the time went."""

    results: list[Out]
    queue_s: float
    compute_s: float


@dataclass(frozen=True, slots=True)
class BatchReport:
    """One model call, for the metrics."""

    texts: int
    tokens: int
    padding_tokens: int
    compute_s: float


class Batcher(Generic[In, Out]):
    """The shell around `take_batch`: a bounded queue, and threads that serve it.

    The threads take their next batch themselves, so the model never waits for the event loop.
    `submit` belongs to one event loop; `compute` is called in the threads.

    The lanes either share threads, and take turns, or have threads of their own, one a core each:
    then those of bulk yield the processor to people's, and nobody waits for a batch of the other
    lane. A batch is computed by one core, as cores do more beside each other than together; only
    a person's batch that has no other beside it or behind it is computed by all of them.
    """

    def __init__(
        self,
        compute: Callable[[Hashable, Sequence[In]], Sequence[Out]],
        tokens_of: Callable[[In], int],
        *,
        tokens_max: int,
        queue_max: int,
        bulk_age_s_max: float,
        bulk_batch_s_max: float,
        workers: int = 1,
        compute_beside: Callable[[Hashable, Sequence[In]], Sequence[Out]] | None = None,
        bulk_niceness: int = 0,
        report: Callable[[BatchReport], None] = lambda report: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """workers: threads, of each lane where they are apart; with 0 nothing is computed, which
        lets a test do it step by step
        compute_beside: what computes a batch that is not alone, on one core; None: the lanes share
        threads and `compute` does it all
        bulk_niceness: of bulk's own threads (Linux)
        clock: what deadlines are readings of"""
        apart = compute_beside is not None
        self._compute, self._compute_beside = compute, compute_beside or compute
        self._apart = apart
        self._bulk_niceness = bulk_niceness
        self._tokens_of = tokens_of
        self._tokens_max = tokens_max
        self._queue_max = queue_max
        self._bulk_age_s_max = bulk_age_s_max
        self._bulk_batch_s_max = bulk_batch_s_max
        self._report = report
        self._clock = clock
        self._workers = max(workers, 1)
        self._lock = threading.Lock()  # guards everything below
        shared = threading.Condition(self._lock)
        self._arrived = {
            lane: threading.Condition(self._lock) if apart else shared for lane in Lane
        }
        self._waiting: dict[Lane, list[Pending[In]]] = {lane: [] for lane in Lane}  # by `due`
        self._live = 0  # of `_waiting`, those whose caller has not given up
        self._person_at = -PEOPLE_S  # when one came last
        self._live_tokens = dict.fromkeys(Lane, 0)  # of these
        self._computing = dict.fromkeys(Lane, 0)  # batches
        self._yielded = 0  # batches of people since the last of bulk
        self._closing = False
        self._speeds = dict.fromkeys(Lane, SPEED_FIRST)
        self._rooms: deque[asyncio.Future[None]] = deque()  # patient callers; the loop's alone
        self._abandoned = 0
        self._loop = asyncio.get_running_loop()
        together: dict[str, tuple[Lane, ...]] = {"model": tuple(Lane)}
        teams = {lane.value: (lane,) for lane in Lane} if apart else together
        self._threads = [
            threading.Thread(
                target=self._serve, args=(lanes,), name=f"{team}-{number}", daemon=True
            )
            for team, lanes in teams.items()
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Texts in the queue whose callers still want them."""
        return self._live

    @property
    def abandoned(self) -> int:
        """Texts whose callers had gone before the model saw them, since the start."""
        return self._abandoned

    async def submit(
        self,
        items: Sequence[In],
        *,
        kind: Hashable,
        lane: Lane,
        deadline: float | None = None,
        patient: bool = False,
    ) -> Computed[Out]:
        """Wait for the results of `items`, in order.

        deadline: reading of time.monotonic; DeadlinePassed is raised a little before it
        patient:  wait for room in the queue instead of raising QueueFull
        Raises QueueTooSlow, a QueueFull, when the deadline is too near for what waits already;
        LimitExceeded for more items than the queue could ever hold, Draining after
        `close`, and what `compute` raised.
        """
        if not items:
            return Computed([], 0.0, 0.0)
        if len(items) > self._queue_max:
            raise LimitExceeded("inputs", len(items), self._queue_max, "model inputs")
        started = self._clock()
        usable = None if deadline is None else deadline - DEADLINE_MARGIN_S
        caller = Caller(len(items), self._loop.create_future(), usable, lane)
        try:
            timeout = None if usable is None else usable - started
            async with asyncio.timeout(timeout):
                await self._enqueue(caller, items, kind, lane, patient)
                await caller.answered
        except TimeoutError:
            raise DeadlinePassed(_spent(caller, self._clock() - started)) from None
        finally:
            self._leave(caller)
        if caller.too_late:
            raise DeadlinePassed(_spent(caller, self._clock() - started))
        if caller.error is not None:
            raise caller.error
        spent = _spent(caller, self._clock() - started)
        return Computed(caller.results, spent["queue"], spent["compute"])

    async def close(self) -> None:
        """Answer what waits with Draining, finish the running batches, end the threads."""
        with self._lock:
            self._closing = True
            left = [pending for lane in Lane for pending in self._waiting[lane]]
            callers = _callers(left)
            self._waiting = {lane: [] for lane in Lane}
            self._live = 0
            self._live_tokens = dict.fromkeys(Lane, 0)
            for arrived in self._arrived.values():
                arrived.notify_all()
        for caller in callers:
            caller.error, caller.waiting, caller.waiting_tokens = Draining(), 0, 0
        self._answer(callers)
        for room in self._rooms:
            if not room.done():
                room.set_exception(Draining())
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    async def _enqueue(
        self, caller: Caller, items: Sequence[In], kind: Hashable, lane: Lane, patient: bool
    ) -> None:
        if not patient:
            tokens = sum(self._tokens_of(item) for item in items)
            self._check_in_time(caller.deadline, lane, tokens)
        while not self._try_enqueue(caller, items, kind, lane):
            if not patient:
                raise QueueFull(self._live, self._queue_max, self._retry_after_s())
            room = self._loop.create_future()
            self._rooms.append(room)
            try:
                await room
            finally:
                self._rooms.remove(room)

    def _try_enqueue(self, caller: Caller, items: Sequence[In], kind: Hashable, lane: Lane) -> bool:
        lengths = [self._tokens_of(item) for item in items]
        due = self._clock() + (self._bulk_age_s_max if lane is Lane.BULK else 0.0)
        order = sorted(range(len(items)), key=lengths.__getitem__, reverse=True)
        # The longest first: what is left over at the end packs well.
        pending = []
        for position in order:
            tokens = lengths[position]
            pending.append(Pending(items[position], tokens, lane, kind, due, caller, position))
            due += tokens * self._speeds[lane].average_s
        with self._lock:
            if self._closing:
                raise Draining()
            if self._live + len(items) > self._queue_max:
                return False
            queue = self._waiting[lane]
            if len(queue) > 2 * self._queue_max:  # callers come and give up in a storm
                queue[:] = [p for p in queue if not p.caller.gone]
            queue += pending
            queue.sort(key=DUE)
            if lane is Lane.INTERACTIVE:
                self._person_at = self._clock()
            caller.waiting, caller.waiting_tokens = len(pending), sum(lengths)
            self._live += len(items)
            self._live_tokens[lane] += sum(lengths)
            self._arrived[lane].notify()  # who leaves something waiting wakes the next
        return True

    def _leave(self, caller: Caller) -> None:
        """The caller stops waiting, with its answer or without."""
        if caller.missing == 0:
            return
        with self._lock:
            self._forget(caller)
        self._wake_patient()

    def _forget(self, caller: Caller) -> None:
        if not caller.gone:
            caller.gone = True
            self._live -= caller.waiting
            self._live_tokens[caller.lane] -= caller.waiting_tokens
            self._abandoned += caller.waiting
            caller.waiting = caller.waiting_tokens = 0

    def _retry_after_s(self, lane: Lane = Lane.BULK) -> float:
        return min(max(self._drained_s(lane), RETRY_S_MIN), RETRY_S_MAX)

    def _drained_s(self, lane: Lane) -> float:
        """How long the model has to do with what goes before a new text of `lane`."""
        tokens = dict.fromkeys(Lane, 0)
        tokens[Lane.INTERACTIVE] = self._live_tokens[Lane.INTERACTIVE]
        if lane is Lane.BULK:
            tokens[Lane.BULK] = self._live_tokens[Lane.BULK]
        elif self._live_tokens[Lane.BULK] and not self._apart:
            tokens[Lane.BULK] = self._bulk_tokens_max(self._clock())  # one batch goes first
        needed_s = sum(count * self._speeds[of].average_s for of, count in tokens.items())
        return needed_s / self._workers

    def _bulk_tokens_max(self, now: float) -> int:
        """Padded tokens of a bulk batch: all that fit, or few enough for a person to wait for."""
        if self._apart or now - self._person_at > PEOPLE_S:
            return self._tokens_max
        within = self._speeds[Lane.BULK].tokens_within(self._bulk_batch_s_max)
        return min(self._tokens_max, within)

    def check(self, count: int, lane: Lane, deadline: float | None) -> None:
        """Raises QueueFull and QueueTooSlow if `submit` of `count` items certainly would: to be
        asked before anything is done for them."""
        if self._live + count > self._queue_max >= count:
            raise QueueFull(self._live, self._queue_max, self._retry_after_s())
        self._check_in_time(deadline, lane, 0)

    def _check_in_time(self, deadline: float | None, lane: Lane, tokens: int) -> None:
        """Raises QueueTooSlow: what will be too late anyway shall not take the model's time from
        those who can still be answered."""
        if deadline is None:
            return
        before_s = self._drained_s(lane)
        beside = min(self._workers, max(1, math.ceil(tokens / self._tokens_max)))  # its batches
        needed_s = before_s + tokens * self._speeds[lane].average_s / beside
        remaining_s = deadline - self._clock()
        # A call that finds nothing before it is tried: the measured speed may be outdated.
        if before_s and needed_s > DEADLINE_SHARE_MAX * remaining_s > 0:
            raise QueueTooSlow(self._live, self._queue_max, self._retry_after_s(lane), needed_s)

    def _serve(self, lanes: Sequence[Lane]) -> None:
        """A thread's life: take a batch of its lanes, compute it, answer; until closed."""
        if Lane.INTERACTIVE not in lanes:
            yield_processor(self._bulk_niceness)
        while batch := self._next(lanes):
            self._run(batch, lanes)

    def _next(self, lanes: Sequence[Lane]) -> list[Pending[In]]:
        """The next batch, waited for; empty when closing."""
        with self._lock:
            while not self._closing:
                if batch := self._next_now(lanes):
                    if any(self._waiting[lane] for lane in lanes):
                        self._arrived[lanes[0]].notify()
                    return batch
                self._arrived[lanes[0]].wait()
        return []

    def _next_now(self, lanes: Sequence[Lane] = tuple(Lane)) -> list[Pending[In]]:
        """The next batch; empty if nobody waits."""
        batch = self._take(lanes, self._clock())
        if batch:
            self._yielded = 0 if batch[0].lane is Lane.BULK else self._yielded + 1
        return batch

    def _take(self, lanes: Sequence[Lane], now: float) -> list[Pending[In]]:
        bulk_tokens_max = self._bulk_tokens_max(now)
        limits = {Lane.INTERACTIVE: self._tokens_max, Lane.BULK: bulk_tokens_max}
        queues = {lane: self._waiting[lane] for lane in lanes}
        counts = {lane: choice_of(q, limits[lane], now) for lane, q in queues.items()}
        taken = take_batch(
            [p for lane, queue in queues.items() for p in queue[: counts[lane]]],
            self._tokens_max,
            now,
            bulk_turn=self._yielded >= YIELDS_MAX,
            bulk_tokens_max=bulk_tokens_max,
            s_per_token=self._speeds[lanes[0]].token_s / self._workers,
        )
        for lane, queue in queues.items():
            queue[: counts[lane]] = [p for p in taken.left if p.lane is lane]
        self._turn_away(_callers(taken.dropped), now)
        for pending in taken.batch:
            pending.caller.waiting -= 1
            pending.caller.waiting_tokens -= pending.tokens
            self._live_tokens[pending.lane] -= pending.tokens
        self._live -= len(taken.batch)
        if taken.batch:
            self._computing[lanes[0]] += 1
        for caller in _callers(taken.batch):
            caller.enter(now)
        return taken.batch

    def _is_alone(self, lane: Lane) -> bool:
        """Whether the batch just taken has no other of `lane` beside it or behind it, and yields
        to nobody."""
        others = self._computing[lane] > 1 or self._live_tokens[lane] > 0
        return lane is Lane.INTERACTIVE and not others

    def _turn_away(self, callers: Iterable[Caller], now: float) -> None:
        too_late = []
        for caller in callers:
            if not caller.is_gone(now):
                caller.too_late = True
                too_late.append(caller)
            self._forget(caller)
        if too_late:  # told now, they may ask elsewhere before their deadline
            self._loop.call_soon_threadsafe(self._answer, too_late)

    def _run(self, batch: list[Pending[In]], lanes: Sequence[Lane] = tuple(Lane)) -> None:
        started = self._clock()
        failure: Exception | None = None
        results: Sequence[Out | None] = [None] * len(batch)
        try:
            compute = self._compute if self._is_alone(lanes[0]) else self._compute_beside
            results = compute(batch[0].kind, [pending.item for pending in batch])
        except Exception as error:  # noqa: BLE001  raised again in each of its callers
            failure = error
        ended = self._clock()
        finished = []
        with self._lock:  # with more than one thread, a caller may be in two batches
            self._computing[lanes[0]] -= 1
            for caller in _callers(batch):
                caller.leave(ended)
                if failure is not None and caller.error is None:
                    caller.error = failure
                    finished.append(caller)
            for pending, result in zip(batch, results, strict=True):
                caller = pending.caller
                caller.results[pending.position] = result
                caller.missing -= 1
                if caller.missing == 0 and caller.error is None:
                    finished.append(caller)
        self._loop.call_soon_threadsafe(self._answer, finished)
        self._measure(batch, ended - started, lanes)

    def _measure(self, batch: list[Pending[In]], compute_s: float, lanes: Sequence[Lane]) -> None:
        tokens = sum(pending.tokens for pending in batch)
        padded = max(pending.tokens for pending in batch) * len(batch)
        speed = self._speeds[lanes[0]].after(padded, compute_s)
        self._speeds |= dict.fromkeys(lanes, speed)
        self._report(BatchReport(len(batch), tokens, padded - tokens, compute_s))

    def _answer(self, callers: Sequence[Caller]) -> None:
        for caller in callers:
            if not caller.answered.done():
                caller.answered.set_result(None)
        self._wake_patient()

    def _wake_patient(self) -> None:
        for room in self._rooms:
            if not room.done():
                room.set_result(None)


def _callers(batch: Iterable[Pending[In]]) -> list[Caller]:
    return list({id(pending.caller): pending.caller for pending in batch}.values())


def _spent(caller: Caller, elapsed_s: float) -> dict[str, float]:
    return {"queue": max(elapsed_s - caller.compute_s, 0.0), "compute": caller.compute_s}
