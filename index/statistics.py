"""What a collection holds and what it takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from index.generation import Generation, Part


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentStatistics:
    name: str
    kind: str  # flat, scan or graph
    vectors: int  # alive
    tombstones: int  # deleted or replaced, not yet dropped


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """One moment of a collection."""

    documents: int
    vectors: int  # alive, in segments and buffer
    buffer_vectors: int  # alive and in no segment yet; they are compared exactly
    tombstones: int
    segments: tuple[SegmentStatistics, ...]
    disk_bytes: int  # all files of the collection
    building: bool
    build_failure: str  # why the last build failed; empty if it did not
    sequence: int


def measure(
    generation: Generation, directory: Path, *, building: bool, build_failure: str
) -> Statistics:
    return Statistics(
        documents=generation.live,
        vectors=generation.live,
        buffer_vectors=generation.buffer.live,
        tombstones=sum(part.dead for part in generation.parts),
        segments=tuple(_segment_statistics(part) for part in generation.segments),
        disk_bytes=_disk_bytes(directory),
        building=building,
        build_failure=build_failure,
        sequence=generation.sequence,
    )


def _segment_statistics(part: Part) -> SegmentStatistics:
    kind = "flat" if part.index is None else part.index.kind
    return SegmentStatistics(name=part.name, kind=kind, vectors=part.live, tombstones=part.dead)


def _disk_bytes(directory: Path) -> int:
    total = 0
    for path in directory.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue  # a segment that was just replaced
    return total
