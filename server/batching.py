"""Which texts travel through the model together: the rule, as pure functions."""

import asyncio
import itertools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic, TypeVar

In = TypeVar("In")

# A batch carries at most this share of its budget as padding: beyond it, a second model call is
# cheaper than the rectangle. (MiniLM on two cores: a call costs what 16 tokens cost.)
PADDING_SHARE_MAX = 1 / 16

# A batch is chosen from what is due first, so many times its budget. More to choose from packs
# better, takes longer to look at, and begins calls that are finished much later or not at all.
CHOICE = 4


class Lane(Enum):
    """Who is waiting: a person, or a job that yields to people but never starves."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


@dataclass(slots=True, eq=False)
class Caller:
    """One call's share of the queue. `waiting` and `missing` count some of its items."""

    size: int
    answered: "asyncio.Future[None]"
    deadline: float | None = None  # time.monotonic
    lane: Lane = Lane.INTERACTIVE
    gone: bool = False
    too_late: bool = False  # turned away: its deadline was too near for what was left of it
    waiting: int = 0  # in the queue: neither taken into a batch nor turned away
    waiting_tokens: int = 0  # of these
    missing: int = 0  # without a result
    results: list[Any] = field(default_factory=list)
    error: Exception | None = None
    compute_s: float = 0.0  # while at least one batch that it travelled in was computed
    batches: int = 0  # that are being computed
    since: float = 0.0  # when the first of these was taken

    def __post_init__(self) -> None:
        self.missing = self.size
        self.results = [None] * self.size

    def is_gone(self, now: float) -> bool:
        """Nobody will read the answer: cancelled, failed, or too late."""
        return self.gone or (self.deadline is not None and now >= self.deadline)

    def enter(self, now: float) -> None:
        """A batch with some of it is taken. Several may be computed side by side."""
        if self.batches == 0:
            self.since = now
        self.batches += 1

    def leave(self, now: float) -> None:
        """The batch is computed."""
        self.batches -= 1
        if self.batches == 0:
            self.compute_s += now - self.since

    def is_hopeless(self, now: float, s_per_token: float) -> bool:
        """What is left of it would be too late even if it were all computed now."""
        if self.deadline is None:
            return False
        return now + self.waiting_tokens * s_per_token >= self.deadline


@dataclass(slots=True, eq=False)
class Pending(Generic[In]):
    """One text that waits.

    due: when the model could have reached it, had its call been alone; later by
    `bulk_age_s_max` for a bulk text. The smallest goes first, so that a large call cannot hold
    up a small one, and nothing waits for ever: newer texts are due later.
    """

    item: In
    tokens: int
    lane: Lane
    kind: Hashable  # texts of different kinds take different paths through the model
    due: float
    caller: Caller
    position: int  # among the caller's items


@dataclass(frozen=True, slots=True)
class Taken(Generic[In]):
    """A batch, what is left waiting, and what was dropped because its caller has gone."""

    batch: list[Pending[In]]
    left: list[Pending[In]]
    dropped: list[Pending[In]]


def take_batch(
    waiting: Sequence[Pending[In]],
    tokens_max: int,
    now: float,
    *,
    bulk_turn: bool = True,
    bulk_tokens_max: int | None = None,
    s_per_token: float = 0.0,
) -> Taken[In]:
    """The next batch out of `waiting`: the text due first, and those nearest to it in length.

    bulk_turn: bulk that has waited too long goes before people; if not, people go first. It must
    not always be its turn: under lasting overload all of it has waited too long.
    bulk_tokens_max: the limit for a bulk batch, if it is another: a person may wait for it
    s_per_token: what the model takes at least. Callers whose rest it cannot compute before their
    deadline are dropped, unless nobody else waits: the measured speed may be outdated.
    All are of one lane and one kind. Padded size is `len(batch) * longest`, because the model
    sees a rectangle; it stays within the limit, except that a text above it travels alone
    rather than never.
    """
    alive = [pending for pending in waiting if not pending.caller.is_gone(now)]
    dropped = [p for p in waiting if p.caller.is_gone(now)] if len(alive) < len(waiting) else []
    hopeless = {id(p) for p in alive if p.caller.is_hopeless(now, s_per_token)}
    if 0 < len(hopeless) < len(alive):
        dropped += [p for p in alive if id(p) in hopeless]
        alive = [p for p in alive if id(p) not in hopeless]
    if not alive:
        return Taken([], [], dropped)
    people = [p for p in alive if p.lane is Lane.INTERACTIVE] if not bulk_turn else []
    first = min(people or alive, key=lambda pending: pending.due)
    if first.lane is Lane.BULK and bulk_tokens_max is not None:
        tokens_max = min(tokens_max, bulk_tokens_max)
    peers = [p for p in alive if p.lane is first.lane and p.kind == first.kind]
    peers.sort(key=lambda pending: pending.tokens)
    run = run_around([p.tokens for p in peers], peers.index(first), tokens_max)
    batch = peers[run]
    chosen = set(map(id, batch))
    return Taken(batch, [p for p in alive if id(p) not in chosen], dropped)


def choice_of(waiting: Sequence[Pending[In]], tokens_max: int, now: float) -> int:
    """How many of `waiting`, in the order in which they are due, a batch is chosen from. Those
    whose callers have gone do not count."""
    tokens = 0
    for count, pending in enumerate(waiting):
        if tokens >= CHOICE * tokens_max:
            return count
        tokens += 0 if pending.caller.is_gone(now) else pending.tokens
    return len(waiting)


def run_around(lengths: Sequence[int], at: int, tokens_max: int) -> slice:
    """The run of `lengths` (rising) that grows from `at` for as long as its padded size fits.

    Of its two neighbours the run takes the one that leaves less padding; the padding stays
    within PADDING_SHARE_MAX of `tokens_max`.
    """
    sums = [0, *itertools.accumulate(lengths)]
    padding_max = tokens_max * PADDING_SHARE_MAX
    start, stop = at, at + 1
    while True:
        grown: list[tuple[int, int, int]] = []
        for low, high in ((start - 1, stop), (start, stop + 1)):
            if low < 0 or high > len(lengths):
                continue
            padded = lengths[high - 1] * (high - low)
            padding = padded - (sums[high] - sums[low])
            if padded <= tokens_max and padding <= padding_max:
                grown.append((padding, low, high))
        if not grown:
            return slice(start, stop)
        _, start, stop = min(grown)
