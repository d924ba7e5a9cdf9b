"""People beside three times as much bulk as can be computed: the batcher itself, on a clock of
the test's own and with a model that takes what it is told to, so that it is the same each time."""

import asyncio
import random
from collections import deque
from dataclasses import dataclass

import numpy as np
import pytest

from server.batcher import Batcher
from server.batching import Caller, Lane
from server.errors import QueueFull
from server.settings import Settings

CALL_S, TOKEN_S = 0.0008, 0.00005  # MiniLM on two quiet cores
TOKENS = 26  # of a text, about
CAPACITY = 1 / (TOKENS * TOKEN_S)  # texts a second
PEOPLE = 0.1 * CAPACITY
SECONDS = 20.0
RPC_S = 0.004  # of a call beside queue and model


@dataclass(eq=False)
class Call:
    at: float
    caller: Caller
    lengths: list[int]
    answered_at: float | None = None


class World:
    def __init__(self, seed):
        self.now = 0.0
        self.computed = 0
        self.refused = 0
        self._rng = random.Random(seed)

    def batcher(self):
        settings = {"tokens_max": 2048, "queue_max": 8192, "bulk_age_s_max": 2.0}
        settings |= {"workers": 0, "clock": lambda: self.now}
        settings["bulk_batch_s_max"] = Settings.model_fields["bulk_batch_s_max"].default
        return Batcher(self._compute, lambda tokens: tokens, **settings)

    def calls(self, loop, lane, texts, texts_per_s, deadline_s):
        """Calls at random moments, as many as texts_per_s makes of them."""
        at, made = 0.0, []
        while at < SECONDS:
            at += self._rng.expovariate(texts_per_s / texts)
            lengths = [max(3, round(self._rng.gauss(TOKENS, 6))) for _ in range(texts)]
            caller = Caller(texts, loop.create_future(), at + deadline_s, lane)
            made.append(Call(at, caller, lengths))
        return made

    def run(self, batcher, calls):
        """Every call comes at its moment; a batch is taken whenever the model is free."""
        coming = deque(sorted(calls, key=lambda call: call.at))
        waiting = set()
        while True:
            while coming and coming[0].at <= self.now:
                call = coming.popleft()
                if self._enter(batcher, call):
                    waiting.add(call)
            if batch := batcher._next_now():
                batcher._run(batch)
                for call in [call for call in waiting if call.caller.missing == 0]:
                    call.answered_at = self.now
                    waiting.discard(call)
            elif coming:
                self.now = coming[0].at
            else:
                return

    def _enter(self, batcher, call):
        now, self.now = self.now, call.at
        try:
            batcher._check_in_time(call.caller.deadline, call.caller.lane, sum(call.lengths))
            return batcher._try_enqueue(call.caller, call.lengths, None, call.caller.lane)
        except QueueFull:
            self.refused += 1
            return False
        finally:
            self.now = now

    def _compute(self, kind, items):
        self.now += CALL_S + TOKEN_S * max(items) * len(items)
        self.computed += len(items)
        return items


async def overload(seed, bulk_factor):
    """(seconds of each interactive call, texts of bulk a second, share computed for nobody)"""
    loop, world = asyncio.get_running_loop(), World(seed)
    people = world.calls(loop, Lane.INTERACTIVE, 1, PEOPLE, 2.0)
    bulk = world.calls(loop, Lane.BULK, 32, bulk_factor * CAPACITY, 5.0) if bulk_factor else []
    batcher = world.batcher()
    world.run(batcher, [*people, *bulk])

    def delivered(calls):
        in_time = [c for c in calls if c.answered_at and c.answered_at <= c.caller.deadline]
        return sum(len(call.lengths) for call in in_time)

    computed_for_nobody = 1 - (delivered(people) + delivered(bulk)) / world.computed
    assert delivered(people) == len(people)
    seconds = np.array([call.answered_at - call.at for call in people]) + RPC_S
    return seconds, delivered(bulk) / world.now, computed_for_nobody


@pytest.mark.parametrize("seed", range(2))
async def test_people_wait_at_most_twice_as_long_beside_bulk_and_nothing_is_for_nobody(seed):
    alone, _, _ = await overload(seed, 0)
    beside, bulk, for_nobody = await overload(seed, 3)

    assert np.percentile(beside, 99) < 1.9 * np.percentile(alone, 99)
    assert bulk > 0.6 * CAPACITY  # of what people leave, and in short batches
    assert for_nobody < 0.01
