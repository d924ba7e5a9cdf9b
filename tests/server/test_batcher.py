"""The rule with random queues and no event loop; the shell with a model made of events."""

import asyncio
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.batcher import PEOPLE_S, YIELDS_MAX, Batcher
from server.batching import (
    CHOICE,
    PADDING_SHARE_MAX,
    Caller,
    Lane,
    Pending,
    choice_of,
    run_around,
    take_batch,
)
from server.errors import DeadlinePassed, Draining, LimitExceeded, QueueFull, QueueTooSlow
from server.speed import Speed

NEVER = None  # an answer's future; the rule does not look at it


def pending(position, tokens, *, lane=Lane.INTERACTIVE, kind=None, due=0.0, caller=None):
    return Pending(position, tokens, lane, kind, due, caller or Caller(1, NEVER), position)


queues = st.lists(
    st.tuples(
        st.integers(1, 60),
        st.sampled_from(Lane),
        st.sampled_from([None, (1,), (1, 2)]),
        st.floats(0, 10),
        st.booleans(),
    ),
    max_size=60,
)


def queue_of(rows):
    waiting = [
        pending(position, tokens, lane=lane, kind=kind, due=due)
        for position, (tokens, lane, kind, due, _) in enumerate(rows)
    ]
    for item, (*_, gone) in zip(waiting, rows, strict=True):
        item.caller.gone = gone
    return waiting


def drain(waiting, tokens_max):
    batches, dropped = [], []
    while waiting:
        taken = take_batch(waiting, tokens_max, now=0.0)
        assert taken.batch or not taken.left
        batches.append(taken.batch)
        dropped += taken.dropped
        waiting = taken.left
    return [batch for batch in batches if batch], dropped


@given(rows=queues, tokens_max=st.integers(1, 300))
def test_every_text_travels_once_unless_its_caller_has_gone(rows, tokens_max):
    waiting = queue_of(rows)

    batches, dropped = drain(waiting, tokens_max)

    travelled = [p.item for batch in batches for p in batch]
    assert sorted(travelled) == [p.item for p in waiting if not p.caller.gone]
    assert sorted(p.item for p in dropped) == [p.item for p in waiting if p.caller.gone]


@given(rows=queues, tokens_max=st.integers(1, 300))
def test_a_batch_fits_the_budget_or_holds_a_single_text(rows, tokens_max):
    batches, _ = drain(queue_of(rows), tokens_max)

    for batch in batches:
        padded = len(batch) * max(p.tokens for p in batch)
        assert padded <= tokens_max or len(batch) == 1
        assert padded - sum(p.tokens for p in batch) <= tokens_max * PADDING_SHARE_MAX


@given(rows=queues, tokens_max=st.integers(1, 300))
def test_a_batch_is_of_one_lane_and_one_kind_and_holds_what_is_due_first(rows, tokens_max):
    waiting = [p for p in queue_of(rows) if not p.caller.gone]
    while waiting:
        taken = take_batch(waiting, tokens_max, now=0.0)

        assert len({(p.lane, p.kind) for p in taken.batch}) == 1
        assert min(p.due for p in waiting) == min(p.due for p in taken.batch)
        waiting = taken.left


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=50), data=st.data())
def test_a_run_cannot_grow_any_further(lengths, data):
    lengths.sort()
    at = data.draw(st.integers(0, len(lengths) - 1))
    tokens_max = data.draw(st.integers(1, 500))

    run = run_around(lengths, at, tokens_max)

    assert run.start <= at < run.stop
    for low, high in ((run.start - 1, run.stop), (run.start, run.stop + 1)):
        if low >= 0 and high <= len(lengths):
            padded = lengths[high - 1] * (high - low)
            too_large = padded > tokens_max
            too_empty = padded - sum(lengths[low:high]) > tokens_max * PADDING_SHARE_MAX
            assert too_large or too_empty


def test_texts_of_one_length_fill_the_budget():
    waiting = [pending(i, 10) for i in range(100)]

    taken = take_batch(waiting, 400, now=0.0)

    assert len(taken.batch) == 40


def test_a_text_whose_deadline_has_passed_is_dropped():
    late = pending(0, 10, caller=Caller(1, NEVER, deadline=5.0))
    in_time = pending(1, 10, caller=Caller(1, NEVER, deadline=7.0))

    taken = take_batch([late, in_time], 100, now=6.0)

    assert [p.item for p in taken.batch] == [1]
    assert [p.item for p in taken.dropped] == [0]


class Model:
    """Doubles numbers; waits for `free` first, so that a test decides when it is done."""

    def __init__(self):
        self.free = threading.Event()
        self.free.set()
        self.batches = []

    def compute(self, kind, items):
        self.batches.append((kind, list(items)))
        assert self.free.wait(10)
        if "poison" in items:
            raise ZeroDivisionError("the model failed")
        return [item * 2 for item in items]


@pytest.fixture
def model():
    return Model()


@pytest.fixture
async def batcher(model):
    batcher = Batcher(
        model.compute,
        lambda item: item if isinstance(item, int) else 1,
        tokens_max=100,
        queue_max=10,
        bulk_age_s_max=0.2,
        bulk_batch_s_max=1.0,
    )
    yield batcher
    model.free.set()
    await batcher.close()


def submit(batcher, items, lane=Lane.INTERACTIVE, **more):
    return asyncio.create_task(batcher.submit(items, kind=None, lane=lane, **more))


async def busy(batcher, model):
    """Keep the model at a first text until `model.free` is set."""
    model.free.clear()
    first = submit(batcher, [1])
    while not model.batches:
        await asyncio.sleep(0.001)
    return first


async def test_answers_come_in_the_order_of_the_items(batcher):
    computed = await submit(batcher, [5, 50, 1, 7])

    assert computed.results == [10, 100, 2, 14]
    assert computed.compute_s > 0


async def test_no_items_are_answered_at_once(batcher):
    computed = await submit(batcher, [])

    assert computed.results == []


async def test_what_waits_while_the_model_is_busy_travels_together(batcher, model):
    first = await busy(batcher, model)
    others = [submit(batcher, [number]) for number in (10, 11, 12)]
    await asyncio.sleep(0.01)
    model.free.set()
    await asyncio.gather(first, *others)

    assert [sorted(items) for _, items in model.batches] == [[1], [10, 11, 12]]


async def test_a_full_queue_refuses_and_says_when_to_come_back(batcher, model):
    first = await busy(batcher, model)
    waiting = submit(batcher, [1] * 10)
    await asyncio.sleep(0.01)

    with pytest.raises(QueueFull) as refusal:
        await submit(batcher, [1])

    assert refusal.value.waiting == refusal.value.limit == 10
    assert 0 < refusal.value.retry_after_s <= 30
    assert (batcher.waiting, batcher.abandoned) == (10, 0)
    model.free.set()
    await asyncio.gather(first, waiting)


async def test_a_patient_caller_waits_for_room(batcher, model):
    first = await busy(batcher, model)
    waiting = submit(batcher, [1] * 10)
    await asyncio.sleep(0.01)
    patient = submit(batcher, [2, 3], patient=True)
    await asyncio.sleep(0.01)
    assert not patient.done()

    model.free.set()

    assert (await patient).results == [4, 6]
    await asyncio.gather(first, waiting)


async def test_a_call_that_could_never_fit_is_refused_for_good(batcher):
    with pytest.raises(LimitExceeded):
        await submit(batcher, [1] * 11, patient=True)


async def test_a_cancelled_call_never_reaches_the_model(batcher, model):
    first = await busy(batcher, model)
    cancelled = submit(batcher, [77, 77])
    await asyncio.sleep(0.01)
    assert batcher.waiting == 2

    cancelled.cancel()
    await asyncio.wait([cancelled])
    assert batcher.waiting == 0
    model.free.set()
    await first
    await submit(batcher, [3])

    assert all(77 not in items for _, items in model.batches)
    assert batcher.abandoned == 2


async def test_an_expired_call_is_told_where_its_time_went(batcher, model):
    first = await busy(batcher, model)

    with pytest.raises(DeadlinePassed) as refusal:
        await submit(batcher, [77], deadline=time.monotonic() + 0.05)

    assert refusal.value.spent_s["queue"] == pytest.approx(0.05, abs=0.04)
    model.free.set()
    await first
    assert all(77 not in items for _, items in model.batches)


async def test_bulk_yields_to_interactive(batcher, model):
    first = await busy(batcher, model)
    bulk = submit(batcher, [20], lane=Lane.BULK)
    await asyncio.sleep(0.01)
    interactive = submit(batcher, [21])
    await asyncio.sleep(0.01)
    model.free.set()
    await asyncio.gather(first, bulk, interactive)

    assert [items for _, items in model.batches] == [[1], [21], [20]]


async def test_bulk_that_has_waited_long_goes_before_every_fifth_batch_of_people(batcher, model):
    first = await busy(batcher, model)
    bulk = submit(batcher, [20], lane=Lane.BULK)
    await asyncio.sleep(0.25)
    people = [submit(batcher, [90 + number]) for number in range(6)]  # a batch each
    await asyncio.sleep(0.01)
    model.free.set()
    await asyncio.gather(first, bulk, *people)

    order = [items for _, items in model.batches]
    assert order.index([20]) == YIELDS_MAX  # the first of them was computed before


def test_aged_bulk_goes_before_people_only_in_its_turn():
    """Under lasting overload all bulk is aged; people then waited for the whole of it."""
    waiting = [pending(i, 50, lane=Lane.BULK, due=0.0) for i in range(6)]
    waiting.append(pending(9, 50, due=5.0))

    lanes = {
        turn: take_batch(waiting, 100, now=5.0, bulk_turn=turn).batch[0].lane
        for turn in (True, False)
    }

    assert lanes == {True: Lane.BULK, False: Lane.INTERACTIVE}


def test_the_time_of_batches_that_are_computed_side_by_side_counts_once():
    caller = Caller(3, NEVER)

    caller.enter(1.0)
    caller.enter(2.0)
    caller.leave(3.0)
    caller.leave(5.0)
    caller.enter(7.0)
    caller.leave(8.0)

    assert caller.compute_s == 5.0


def test_a_bulk_batch_has_a_limit_of_its_own():
    bulk = [pending(i, 10, lane=Lane.BULK) for i in range(20)]
    people = [pending(i, 10) for i in range(20)]

    assert len(take_batch(bulk, 100, now=0.0, bulk_tokens_max=30).batch) == 3
    assert len(take_batch(people, 100, now=0.0, bulk_tokens_max=30).batch) == 10


def test_what_cannot_be_computed_in_time_is_dropped_before_it_takes_model_time():
    late = Caller(2, NEVER, deadline=1.5, waiting_tokens=200)
    in_time = Caller(1, NEVER, deadline=1.5, waiting_tokens=100)
    waiting = [pending(i, 100, caller=late) for i in range(2)]
    waiting.append(pending(2, 100, caller=in_time))

    taken = take_batch(waiting, 100, now=0.0, s_per_token=0.01)

    assert [p.item for p in taken.batch] == [2]
    assert [p.item for p in taken.dropped] == [0, 1]


def test_what_is_thought_to_be_too_late_is_tried_when_nobody_else_waits():
    """Or a speed that was measured in a bad moment would never be measured again."""
    late = Caller(1, NEVER, deadline=0.5, waiting_tokens=100)

    taken = take_batch([pending(0, 100, caller=late)], 100, now=0.0, s_per_token=0.01)

    assert len(taken.batch) == 1


@given(rows=queues, tokens_max=st.integers(1, 100))
def test_a_batch_is_chosen_from_what_is_due_first(rows, tokens_max):
    waiting = queue_of(rows)

    count = choice_of(waiting, tokens_max, now=0.0)

    chosen = sum(p.tokens for p in waiting[:count] if not p.caller.gone)
    assert count == len(waiting) or chosen >= CHOICE * tokens_max
    assert sum(p.tokens for p in waiting[: count - 1] if not p.caller.gone) < CHOICE * tokens_max


async def test_a_call_that_would_be_too_late_is_refused_before_it_takes_model_time(batcher, model):
    """Let in, such calls were half computed when their time was up, and nobody was answered."""
    batcher._speeds = dict.fromkeys(Lane, Speed.of(0, 0.01))
    first = await busy(batcher, model)
    waiting = submit(batcher, [90] * 2)  # 1.8 s of work
    await asyncio.sleep(0.01)

    with pytest.raises(QueueTooSlow) as refusal:
        await submit(batcher, [20], lane=Lane.BULK, deadline=time.monotonic() + 1)
    assert 1 < refusal.value.retry_after_s < 3
    patient = submit(batcher, [20], deadline=time.monotonic() + 1, patient=True)
    in_time = submit(batcher, [20], deadline=time.monotonic() + 10)

    model.free.set()
    await asyncio.gather(first, waiting, patient, in_time)


async def test_what_a_call_of_many_batches_takes_is_shared_by_the_workers(model):
    batcher = Batcher(
        model.compute,
        lambda item: item,
        tokens_max=100,
        queue_max=20,
        bulk_age_s_max=0.2,
        bulk_batch_s_max=1.0,
        workers=4,
    )
    batcher._speeds = dict.fromkeys(Lane, Speed.of(0, 0.01))
    model.free.clear()
    try:
        first = submit(batcher, [100] * 4)
        while len(model.batches) < 4:
            await asyncio.sleep(0.001)
        waiting = submit(batcher, [40])
        await asyncio.sleep(0.01)
        # 4 s of work, of each worker 1 s
        large = submit(batcher, [100] * 4, deadline=time.monotonic() + 5)
        await asyncio.sleep(0.01)
        model.free.set()

        assert (await large).results == [200] * 4
        await asyncio.gather(first, waiting)
    finally:
        model.free.set()
        await batcher.close()


async def test_a_call_that_becomes_too_late_is_told_before_its_deadline(batcher, model):
    batcher._speeds = dict.fromkeys(Lane, Speed.of(0, 0.001))
    first = await busy(batcher, model)
    late = submit(batcher, [90] * 2, lane=Lane.BULK, deadline=time.monotonic() + 1.0)
    await asyncio.sleep(0.01)
    batcher._speeds = dict.fromkeys(Lane, Speed.of(0, 0.02))  # the model has become slower
    other = submit(batcher, [5])
    await asyncio.sleep(0.01)
    began = time.monotonic()
    model.free.set()

    with pytest.raises(DeadlinePassed):
        await late
    assert time.monotonic() - began < 0.5
    await asyncio.gather(first, other)
    assert all(90 not in items for _, items in model.batches)
    assert batcher.waiting == 0


async def test_bulk_batches_are_short_while_people_call_and_full_otherwise(model):
    batcher = Batcher(
        model.compute,
        lambda item: item,
        tokens_max=10_000,
        queue_max=1000,
        bulk_age_s_max=9.0,
        bulk_batch_s_max=0.5,
    )
    batcher._measure = lambda *_: None  # or this model, which takes no time, were found out
    for person in (False, True):
        if person:
            await submit(batcher, [1])
        batcher._speeds = dict.fromkeys(Lane, Speed.of(0, 0.001))
        first = await busy(batcher, model)
        bulk = submit(batcher, [100] * 50, lane=Lane.BULK)
        await asyncio.sleep(0.01)
        batcher._person_at = time.monotonic() if person else -PEOPLE_S
        model.free.set()
        await asyncio.gather(first, bulk)
    await batcher.close()

    sizes = [len(items) for _, items in model.batches if items[0] == 100]
    assert sizes[0] == 50
    assert max(sizes[1:]) == 5


async def test_bulk_that_waits_does_not_make_a_person_too_late(batcher, model):
    batcher._speeds = dict.fromkeys(Lane, Speed.of(0, 0.01))
    first = await busy(batcher, model)
    waiting = submit(batcher, [90] * 8, lane=Lane.BULK)  # 7.2 s of work
    await asyncio.sleep(0.01)
    person = submit(batcher, [2], deadline=time.monotonic() + 4)
    await asyncio.sleep(0.01)

    model.free.set()
    assert (await person).results == [4]
    await asyncio.gather(first, waiting)


async def test_what_waits_is_counted_down_to_nothing(batcher, model):
    first = await busy(batcher, model)
    kept = submit(batcher, [5, 6])
    cancelled = submit(batcher, [7], lane=Lane.BULK)
    await asyncio.sleep(0.01)
    cancelled.cancel()
    model.free.set()
    await asyncio.gather(first, kept)
    await asyncio.wait([cancelled])

    assert batcher.waiting == 0
    assert set(batcher._live_tokens.values()) == {0}


async def test_a_small_call_does_not_wait_for_all_of_a_large_one(batcher, model):
    batcher._speeds = dict.fromkeys(
        Lane, Speed.of(0, 1.0)
    )  # each text of the large call is due seconds after the last
    first = await busy(batcher, model)
    large = submit(batcher, [90] * 8)
    await asyncio.sleep(0.01)
    small = submit(batcher, [2])
    await asyncio.sleep(0.01)
    model.free.set()
    await asyncio.gather(first, large, small)

    order = [items for _, items in model.batches]
    assert order.index([2]) == 2


async def test_all_workers_share_the_batches_of_one_call():
    together = threading.Barrier(4)

    def compute(kind, items):
        together.wait(timeout=5)  # for three others, who are at a batch of their own
        return items

    batcher = Batcher(
        compute,
        lambda item: 100,
        tokens_max=100,
        queue_max=20,
        bulk_age_s_max=0.2,
        bulk_batch_s_max=1.0,
        workers=4,
    )
    await asyncio.sleep(0.1)  # until all wait: who is only starting looks for work anyway
    try:
        computed = await batcher.submit(range(20), kind=None, lane=Lane.INTERACTIVE)
    finally:
        await batcher.close()

    assert computed.results == list(range(20))


async def test_a_failed_batch_fails_its_own_callers_only(batcher, model):
    first = await busy(batcher, model)
    bad = submit(batcher, ["poison"])
    await asyncio.sleep(0.01)
    good = submit(batcher, [60])  # too long to share a batch with the other
    await asyncio.sleep(0.01)
    model.free.set()

    with pytest.raises(ZeroDivisionError):
        await bad
    assert (await good).results == [120]
    await first


async def test_closing_turns_away_what_waits_and_what_comes(model):
    batcher = Batcher(
        model.compute,
        lambda item: 1,
        tokens_max=100,
        queue_max=10,
        bulk_age_s_max=1.0,
        bulk_batch_s_max=1.0,
    )
    first = await busy(batcher, model)
    waiting = submit(batcher, [5])
    await asyncio.sleep(0.01)
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0.01)
    model.free.set()
    await closing

    assert (await first).results == [2]
    with pytest.raises(Draining):
        await waiting
    with pytest.raises(Draining):
        await submit(batcher, [6])
