"""Turns buffers into segments and small segments into larger ones, beside reads and writes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

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


def plan(generation: Generation, settings: StoreSettings) -> Plan | None:
    """The next thing to build, or None.

    A full buffer is merged with every segment that is not larger than what is merged already:
    sizes double, so there are few segments, and a vector is rewritten a logarithm of times.
    """
    by_size = sorted(generation.segments, key=lambda part: part.live)
    if len(generation.buffer.rows) > settings.exact_vectors_max:
        weight = generation.buffer.live
        merged = []
        for part in by_size:
            if part.live > weight:
                break
            merged.append(part.name)
            weight += part.live
        return Plan(frozenset(merged), buffer=True)
    for part in by_size:
        if part.dead > settings.tombstones_share_max * len(part.rows):
            return Plan(frozenset([part.name]), buffer=False)
    return None


def pause_s(failures: int) -> float:
    """How long nothing is built after so many failures in a row; the first costs no time.

    A build may take minutes, and whatever made two of them fail makes the next one fail too.
    """
    return 0.0 if failures < 2 else min(2.0 ** min(failures - 2, 10), PAUSE_S_MAX)


class Builder:
    """One background thread, while there is something to build."""

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
        self.failure = ""  # why the last build failed; a write, at times a later one, tries again
        self._failures = 0  # in a row
        self._not_before = 0.0  # on the monotonic clock

    @property
    def building(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def poke(self) -> None:
        """Begin in the background if there is something to build. Returns at once."""
        if self.building or time.monotonic() < self._not_before:
            return
        if plan(self._current(), self._settings) is None:
            return
        with self._starting:
            if not self.building and not self._stop.is_set():
                self._thread = threading.Thread(target=self._run, name="segments", daemon=True)
                self._thread.start()

    def wait(self) -> None:
        """Until the background thread has nothing more to build."""
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
            if dead or len(generation.segments) > 1 or plan(generation, self._settings):
                self._build(generation, everything)

    def close(self) -> None:
        """Stop building; what is half built is removed."""
        with self._starting:
            self._stop.set()
        self.wait()
        with self._working:  # a merge that somebody asked for ends too
            pass

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._working:
                generation = self._current()
                wanted = plan(generation, self._settings)
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
                    self._not_before = time.monotonic() + pause_s(self._failures)
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
