"""What a collection holds and what it takes."""

from __future__ import annotations

from dataclasses import dataclass


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
