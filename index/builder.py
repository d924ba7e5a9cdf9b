"""Turns buffers into segments and small segments into larger ones, beside reads and writes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

from index.errors import Closed, StoreError
from index.generation import Generation, Part
from index.segments import Segments
from index.settings import StoreSettings

PAUSE_S_MAX = 60.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to make one segment of: these segments, and the buffer or not."""

    segments: frozenset[str]
    buffer: bool


def plan(generation: Generation, settings: StoreSettings, *, quiet: bool) -> Plan | None:
    """The next thing to build, or None.

    quiet: writes pause. Then a buffer that is not full is built away too, unless what comes of it
    would have no index: its vectors would be compared one by one all the same.
    """
    by_size = sorted(generation.segments, key=lambda part: part.live)
    buffer = generation.buffer
    merged, weight = _merged_with(buffer, by_size)
    full = len(buffer.rows) > settings.exact_vectors_max
    # In the buffer the dead are compared too.
    worthwhile = max(len(buffer.rows), weight) > settings.flat_vectors_max
    if full or (quiet and worthwhile):
        return Plan(merged, buffer=True)
    for part in by_size:
        if part.dead > settings.tombstones_share_max * len(part.rows):
            return Plan(frozenset([part.name]), buffer=False)
    return None


def _merged_with(buffer: Part, by_size: Sequence[Part]) -> tuple[frozenset[str], int]:
    """The segments that `buffer` is merged with, and how many vectors they have together.

    They are those below the next power of two of what is merged already. So all that stay have
    another power of two: there are few, and a vector is rewritten a logarithm of times. (If only
    those that are not larger were merged, ever smaller buffers would leave a segment each.)
    """
    merged = set()
    weight = buffer.live
    for part in by_size:
        if part.live.bit_length() > weight.bit_length():
            break
        merged.add(part.name)
        weight += part.live
    return frozenset(merged), weight


def pause_s(failures: int) -> float:
    """How long nothing is built after so many failures in a row; the first costs no time.

    A build may take minutes, and whatever made two of them fail makes the next one fail too.
    """
    return 0.0 if failures < 2 else min(2.0 ** min(failures - 2, 10), PAUSE_S_MAX)


class Builder:
    """One background thread while there is something to build, and one that waits for a pause of
    the writes while there is something to build then."""

    def __init__(
        self,
        segments: Segments,
        settings: StoreSettings,
        *,
        current: Callable[[], Generation],
        swap: Callable[[Callable[[Generation], Generation]], None],
    ) -> None:
        """swap: replaces the current generation by what the function makes of it, while no
        write is in progress."""
        self._segments = segments
        self._settings = settings
        self._current = current
        self._swap = swap
        self._starting = threading.Lock()
        self._working = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._waiting: threading.Thread | None = None
        self._written_at = 0.0  # on the monotonic clock
        self.failure = ""  # why the last build failed; a write, at times a later one, tries again
        self._failures = 0  # in a row
        self._not_before = 0.0  # on the monotonic clock

    @property
    def building(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def poke(self) -> None:
        """After a write, and after opening: begin what there is to build, in the background, or
        wait there for the pause in which there will be. Returns at once."""
        self._written_at = monotonic()
        self._begin()
        self._expect_quiet()

    def wait(self) -> None:
        """Until the background thread has nothing more to build; a pause is not waited for."""
        thread = self._thread
        if thread is not None:
            thread.join()

    def merge_all(self) -> None:
        """Everything into one segment without dead vectors; a small collection into none.

        Raises Closed, DiskFull, StorageFailed.
        """
        with self._working:
            if self._stop.is_set():
                raise Closed(self._segments.directory.parent.name)
            generation = self._current()
            everything = Plan(frozenset(part.name for part in generation.segments), buffer=True)
            dead = sum(part.dead for part in generation.parts)
            # Whoever asks for this waits for no pause.
            wanted = plan(generation, self._settings, quiet=True)
            if dead or len(generation.segments) > 1 or wanted:
                self._build(generation, everything)

    def close(self) -> None:
        """Stop building; what is half built is removed."""
        with self._starting:
            self._stop.set()
        self.wait()
        waiting = self._waiting
        if waiting is not None:
            waiting.join()
        with self._working:  # a merge that somebody asked for ends too
            pass

    def _begin(self) -> None:
        if self.building or monotonic() < self._not_before:
            return
        if self._planned(self._current()) is None:
            return
        with self._starting:
            if not self.building and not self._stop.is_set():
                self._thread = _started("segments", self._run)

    def _planned(self, generation: Generation) -> Plan | None:
        quiet = self._settings.quiet_s > 0 and self._quiet_in_s() == 0
        return plan(generation, self._settings, quiet=quiet)

    def _quiet_in_s(self) -> float:
        """Until writes pause, if none comes, and a build that failed may be tried again."""
        now = monotonic()
        return max(self._written_at + self._settings.quiet_s, self._not_before, now) - now

    def _expect_quiet(self) -> None:
        if self._settings.quiet_s == 0:
            return
        if plan(self._current(), self._settings, quiet=True) is None:
            return
        with self._starting:
            if self._waiting is None and not self._stop.is_set():
                self._waiting = _started("segments in a pause", self._wait_for_quiet)

    def _wait_for_quiet(self) -> None:
        while not self._stop.wait(self._quiet_in_s()):
            self.wait()  # what is being built now began with what there was then
            # Together with `_expect_quiet`: a write is either seen here or finds nobody waiting.
            with self._starting:
                if self._quiet_in_s() == 0:
                    self._waiting = None
                    break
        self._begin()

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._working:
                generation = self._current()
                wanted = self._planned(generation)
                if wanted is None:
                    return
                try:
                    self._build(generation, wanted)
                except Closed:
                    return
                # FAISS reports all of its troubles as RuntimeError.
                except (StoreError, OSError, MemoryError, RuntimeError) as error:
                    self.failure = str(error)
                    self._failures += 1
                    self._not_before = monotonic() + pause_s(self._failures)
                    log.warning("segments in %s: %s", self._segments.directory, error)
                    return
                self.failure, self._failures = "", 0

    def _build(self, generation: Generation, wanted: Plan) -> None:
        sources: list[Part] = [p for p in generation.segments if p.name in wanted.segments]
        through_row = 0
        if wanted.buffer and len(generation.buffer.rows):
            sources.append(generation.buffer)
            through_row = int(generation.buffer.rows[-1])
        made = self._segments.build(sources, self._stop.is_set) if sources else None
        fresh = [] if made is None else [made]
        kept = [p.name for p in generation.segments if p.name not in wanted.segments]
        names = [*kept, *(part.name for part in fresh)]
        try:
            # The manifest first: on the disk, the old and the new segments are there and right.
            self._segments.commit(names, generation.sequence)
            self._swap(lambda now: now.with_segments(fresh, wanted.segments, through_row))
        except BaseException:
            self._segments.keep({part.name for part in generation.segments})
            raise
        self._segments.keep(names)


def _started(name: str, work: Callable[[], None]) -> threading.Thread:
    """A thread that others may join at once, which one that was not started does not allow."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread
