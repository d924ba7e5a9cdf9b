"""The queue before the model, and the threads that serve it."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from server.batching import Caller, Lane, Pending, take_batch
from server.errors import DeadlinePassed, Draining, LimitExceeded, QueueFull, QueueTooSlow

In = TypeVar("In")
Out = TypeVar("Out")

# An answer needs this long to reach the wire before its caller's deadline.
DEADLINE_MARGIN_S = 0.005

# A call is let in if the queue before it is expected to take no more than this share of its time.
# The expectation is an average, and people who come later go before bulk.
DEADLINE_SHARE_MAX = 0.5

RETRY_S_MIN, RETRY_S_MAX = 0.05, 30.0
S_PER_TOKEN_FIRST = 1 / 20_000  # until the first batch is measured


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
    """

    def __init__(
        self,
        compute: Callable[[Hashable, Sequence[In]], Sequence[Out]],
        tokens_of: Callable[[In], int],
        *,
        tokens_max: int,
        queue_max: int,
        bulk_age_s_max: float,
        workers: int = 1,
        report: Callable[[BatchReport], None] = lambda report: None,
    ) -> None:
        self._compute = compute
        self._tokens_of = tokens_of
        self._tokens_max = tokens_max
        self._queue_max = queue_max
        self._bulk_age_s_max = bulk_age_s_max
        self._report = report
        self._arrived = threading.Condition()  # guards everything below
        self._waiting: list[Pending[In]] = []
        self._live = 0  # of `_waiting`, those whose caller has not given up
        self._live_tokens = dict.fromkeys(Lane, 0)  # of these
        self._before: Lane | None = None  # whose the last batch was
        self._closing = False
        self._s_per_token = S_PER_TOKEN_FIRST
        self._rooms: deque[asyncio.Future[None]] = deque()  # patient callers; the loop's alone
        self._abandoned = 0
        self._loop = asyncio.get_running_loop()
        self._threads = [
            threading.Thread(target=self._serve, name=f"model-{number}", daemon=True)
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
        started = time.monotonic()
        usable = None if deadline is None else deadline - DEADLINE_MARGIN_S
        caller = Caller(len(items), self._loop.create_future(), usable, lane)
        try:
            timeout = None if usable is None else usable - started
            async with asyncio.timeout(timeout):
                await self._enqueue(caller, items, kind, lane, patient)
                await caller.answered
        except TimeoutError:
            raise DeadlinePassed(_spent(caller, started)) from None
        finally:
            self._leave(caller)
        if caller.error is not None:
            raise caller.error
        spent = _spent(caller, started)
        return Computed(caller.results, spent["queue"], spent["compute"])

    async def close(self) -> None:
        """Answer what waits with Draining, finish the running batches, end the threads."""
        with self._arrived:
            self._closing = True
            callers = {id(p.caller): p.caller for p in self._waiting}.values()
            self._waiting = []
            self._live = 0
            self._live_tokens = dict.fromkeys(Lane, 0)
            self._arrived.notify_all()
        for caller in callers:
            caller.error, caller.waiting, caller.waiting_tokens = Draining(), 0, 0
        self._answer(list(callers))
        for room in self._rooms:
            if not room.done():
                room.set_exception(Draining())
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    async def _enqueue(
        self, caller: Caller, items: Sequence[In], kind: Hashable, lane: Lane, patient: bool
    ) -> None:
        if not patient:
            self._check_in_time(caller, sum(self._tokens_of(item) for item in items))
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
        due = time.monotonic() + (self._bulk_age_s_max if lane is Lane.BULK else 0.0)
        order = sorted(range(len(items)), key=lengths.__getitem__, reverse=True)
        # The longest first: what is left over at the end packs well.
        pending = []
        for position in order:
            tokens = lengths[position]
            pending.append(Pending(items[position], tokens, lane, kind, due, caller, position))
            due += tokens * self._s_per_token
        with self._arrived:
            if self._closing:
                raise Draining()
            if self._live + len(items) > self._queue_max:
                return False
            if len(self._waiting) > 2 * self._queue_max:  # callers come and give up in a storm
                self._waiting = [p for p in self._waiting if not p.caller.gone]
            self._waiting += pending
            caller.waiting, caller.waiting_tokens = len(pending), sum(lengths)
            self._live += len(items)
            self._live_tokens[lane] += sum(lengths)
            self._arrived.notify()
        return True

    def _leave(self, caller: Caller) -> None:
        """The caller stops waiting, with its answer or without."""
        if caller.missing == 0:
            return
        with self._arrived:
            self._forget(caller)
        self._wake_patient()

    def _forget(self, caller: Caller) -> None:
        if not caller.gone:
            caller.gone = True
            self._live -= caller.waiting
            self._live_tokens[caller.lane] -= caller.waiting_tokens
            self._abandoned += caller.waiting
            caller.waiting = caller.waiting_tokens = 0

    def _retry_after_s(self) -> float:
        return min(max(self._drained_s(Lane.BULK), RETRY_S_MIN), RETRY_S_MAX)

    def _drained_s(self, lane: Lane) -> float:
        """How long the model has to do with what goes before a new text of `lane`."""
        tokens = self._live_tokens[Lane.INTERACTIVE]
        if lane is Lane.BULK:
            tokens += self._live_tokens[Lane.BULK]
        elif self._live_tokens[Lane.BULK]:
            tokens += self._tokens_max  # at most one bulk batch goes first
        return tokens * self._s_per_token / len(self._threads)

    def _check_in_time(self, caller: Caller, tokens: int) -> None:
        """Raises QueueTooSlow: what will be too late anyway shall not take the model's time from
        those who can still be answered."""
        if caller.deadline is None:
            return
        needed_s = self._drained_s(caller.lane) + tokens * self._s_per_token
        remaining_s = caller.deadline - time.monotonic()
        # A call that finds nothing before it is tried: the measured speed may be outdated.
        if self._live and needed_s > DEADLINE_SHARE_MAX * remaining_s > 0:
            raise QueueTooSlow(self._live, self._queue_max, self._retry_after_s(), needed_s)

    def _serve(self) -> None:
        """A thread's life: take a batch, compute it, answer; until closed."""
        while batch := self._next():
            self._run(batch)

    def _next(self) -> list[Pending[In]]:
        """The next batch, waited for; empty when closing."""
        with self._arrived:
            while not self._closing:
                now = time.monotonic()
                taken = take_batch(self._waiting, self._tokens_max, now, after=self._before)
                self._waiting = taken.left
                for pending in taken.dropped:
                    self._forget(pending.caller)
                for pending in taken.batch:
                    pending.caller.waiting -= 1
                    pending.caller.waiting_tokens -= pending.tokens
                    self._live_tokens[pending.lane] -= pending.tokens
                self._live -= len(taken.batch)
                if taken.batch:
                    self._before = taken.batch[0].lane
                    return taken.batch
                self._arrived.wait()
        return []

    def _run(self, batch: list[Pending[In]]) -> None:
        started = time.monotonic()
        failure: Exception | None = None
        results: Sequence[Out | None] = [None] * len(batch)
        try:
            results = self._compute(batch[0].kind, [pending.item for pending in batch])
        except Exception as error:  # noqa: BLE001  raised again in each of its callers
            failure = error
        elapsed_s = time.monotonic() - started
        finished = []
        with self._arrived:  # with more than one thread, a caller may be in two batches
            for caller in {id(p.caller): p.caller for p in batch}.values():
                caller.compute_s += elapsed_s
                if failure is not None and caller.error is None:
                    caller.error = failure
                    finished.append(caller)
            for pending, result in zip(batch, results, strict=True):
                caller = pending.caller
                caller.results[pending.position] = result
                caller.missing -= 1
                if caller.missing == 0 and caller.error is None:
                    finished.append(caller)
        self._measure(batch, elapsed_s)
        self._loop.call_soon_threadsafe(self._answer, finished)

    def _measure(self, batch: list[Pending[In]], compute_s: float) -> None:
        tokens = sum(pending.tokens for pending in batch)
        padded = max(pending.tokens for pending in batch) * len(batch)
        # An average over about the last ten batches.
        self._s_per_token += 0.1 * (compute_s / padded - self._s_per_token)
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


def _spent(caller: Caller, started: float) -> dict[str, float]:
    elapsed_s = time.monotonic() - started
    return {"queue": max(elapsed_s - caller.compute_s, 0.0), "compute": caller.compute_s}
