"""Segments: immutable files with vectors for search, behind a manifest. A cache of the database.

    segments/MANIFEST        line 1: SHA-256 (hex) of the rest; the rest: JSON
                             {"format", "uid", "sequence", "segments": [{"name", "count", "kind",
                             "files": {suffix: {"bytes", "sha256"}}}]}
    segments/<name>.rows     int64, little-endian: row numbers, rising
    segments/<name>.vectors  float32, little-endian: count × dimensions, in the order of the rows
    segments/<name>.faiss    FAISS's own serialisation; position i is the i-th row
                             (absent for kind "flat")

A file is complete and synced before the manifest names it, and the manifest is replaced by a
rename. What the manifest does not name is removed when opening. What it names and is not what it
says is left out, and rebuilt from the database. `uid` is the database's own, and `sequence` is
its sequence when the manifest was written: a database that was put back to an earlier time makes
every segment void.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index import vectors
from index.errors import DataDamaged, StorageFailed, StoreError
from index.files import sha256_of, sync_directory, translated, write_file
from index.generation import Part, length_max
from index.settings import StoreSettings

DIRECTORY_NAME = "segments"
MANIFEST_NAME = "MANIFEST"
FORMAT = 1
MALFORMED = (KeyError, TypeError, ValueError)  # what reading JSON of another shape raises
WRITTEN_VECTORS = 16_384  # copied at once: 24 MiB at 384 values

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FileInfo:
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """What the manifest says about one segment."""

    name: str
    count: int
    kind: str  # flat, scan or graph
    files: dict[str, FileInfo]  # by suffix


class Segments:
    """The segment files of one collection. One builder at a time calls what writes."""

    def __init__(self, directory: Path, uid: str, width: int, settings: StoreSettings) -> None:
        self.directory = directory / DIRECTORY_NAME
        self._uid = uid
        self._width = width
        self._settings = settings
        self.infos: dict[str, SegmentInfo] = {}

    def load(self, sequence: int) -> tuple[list[Part], list[StoreError]]:
        """All sound segments (each row counted as alive) and what is wrong with the others.

        sequence: the database's; no segment may be from a later time.
        """
        problems: list[StoreError] = []
        parts = []
        with translated(self.directory):
            self.directory.mkdir(exist_ok=True)
        try:
            infos = self._read_manifest(sequence, problems)
        except OSError as error:
            return [], [StorageFailed(self.directory / MANIFEST_NAME, str(error))]
        for info in infos:
            try:
                parts.append(self._load(info))
            except DataDamaged as damage:
                problems.append(damage)
            except OSError as error:
                problems.append(StorageFailed(self._path(info.name, "*"), str(error)))
            else:
                self.infos[info.name] = info
        if not any(isinstance(problem, StorageFailed) for problem in problems):
            self._remove_unnamed()  # what cannot be read today may be read tomorrow
        return parts, problems

    def damaged_files(self) -> list[DataDamaged]:
        """Named files that do not hold what the manifest says, found by reading all of them."""
        problems = []
        for info in list(self.infos.values()):
            for suffix in info.files:
                try:
                    self._verify(info, suffix)
                except DataDamaged as damage:
                    if self.infos.get(info.name) is info:  # else it was just replaced
                        problems.append(damage)
        return problems

    def build(self, parts: Sequence[Part], stopped: Callable[[], bool]) -> Part | None:
        """Write what is alive in `parts` as one new segment; None if nothing is.

        It is on the disk but not named yet: `commit` does that. Raises DiskFull, Closed.
        """
        where = _positions(parts)
        if not len(where.rows):
            return None
        name = secrets.token_hex(8)
        try:
            with translated(self.directory):
                part, info = self._write(name, parts, where, stopped)
        except BaseException:
            self._remove([name])
            raise
        self.infos[name] = info
        return part

    def commit(self, names: Iterable[str], sequence: int) -> None:
        """Make the manifest name exactly these segments, durably."""
        kept = [self.infos[name] for name in names]
        body = {
            "format": FORMAT,
            "uid": self._uid,
            "sequence": sequence,
            "segments": [asdict(info) for info in kept],
        }
        source = json.dumps(body, indent=1).encode()
        digest = hashlib.sha256(source).hexdigest().encode()
        write_file(self.directory / MANIFEST_NAME, digest + b"\n" + source)

    def keep(self, names: Iterable[str]) -> None:
        """Remove the files of all others that the manifest does not name. Readers keep what they
        have open.

        What cannot be removed is nobody's: it goes when the collection is opened next.
        """
        gone = self.infos.keys() - set(names) - self._named()
        for name in gone:
            del self.infos[name]
        self._remove(gone)

    def _named(self) -> set[str]:
        """What the manifest names; everything, where it cannot be read."""
        path = self.directory / MANIFEST_NAME
        try:
            return {info.name for info in _infos(_manifest_body(path))} if path.exists() else set()
        except (OSError, DataDamaged, *MALFORMED):
            return set(self.infos)

    # Reading

    def _read_manifest(self, sequence: int, problems: list[StoreError]) -> list[SegmentInfo]:
        path = self.directory / MANIFEST_NAME
        if not path.exists():
            return []
        try:
            body = _manifest_body(path)
            infos = _infos(body)
            sound = body["format"] == FORMAT and body["uid"] == self._uid
            if not sound or body["sequence"] > sequence:
                raise DataDamaged(path, "it belongs to another state of the database")
        except DataDamaged as damage:
            problems.append(damage)
            return []
        except MALFORMED as error:
            problems.append(DataDamaged(path, f"it cannot be read: {error!r}"))
            return []
        return infos

    def _load(self, info: SegmentInfo) -> Part:
        rows = np.frombuffer(self._verify_and_read(info, "rows"), "<i8").astype(np.int64)
        self._verify(info, "vectors")
        matrix = self._map(info.name, info.count)
        index = None
        if info.kind != "flat":
            data = np.frombuffer(self._verify_and_read(info, "faiss"), np.uint8)
            index = vectors.VectorIndex.from_bytes(data, self._settings)
        if len(rows) != info.count or (index is not None and index.count != info.count):
            raise DataDamaged(self._path(info.name, "rows"), "its parts differ in number")
        alive = np.ones(len(rows), np.bool_)
        return Part(rows, matrix, alive, _longest(matrix), index, info.name)

    def _verify_and_read(self, info: SegmentInfo, suffix: str) -> bytes:
        """The file's bytes: those that were checked, not a second reading."""
        path = self._path(info.name, suffix)
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise DataDamaged(path, "it is missing") from error
        if hashlib.sha256(data).hexdigest() != info.files[suffix].sha256:
            raise DataDamaged(path, "its SHA-256 is wrong")
        return data

    def _verify(self, info: SegmentInfo, suffix: str) -> None:
        path = self._path(info.name, suffix)
        try:
            right = sha256_of(path) == info.files[suffix].sha256
        except FileNotFoundError as error:
            raise DataDamaged(path, "it is missing") from error
        if not right:
            raise DataDamaged(path, "its SHA-256 is wrong")

    def _map(self, name: str, count: int) -> NDArray[np.float32]:
        path = self._path(name, "vectors")
        if path.stat().st_size != count * self._width * 4:
            raise DataDamaged(path, "it has the wrong size")
        # As a plain array: indexing numpy's own subclass takes longer than a short search may.
        return np.memmap(path, "<f4", "r", shape=(count, self._width)).view(np.ndarray)

    # Writing

    def _write(
        self, name: str, parts: Sequence[Part], where: _Positions, stopped: Callable[[], bool]
    ) -> tuple[Part, SegmentInfo]:
        count = len(where.rows)
        with self._path(name, "vectors").open("wb") as file:
            for start in range(0, count, WRITTEN_VECTORS):
                block = where.gather(parts, slice(start, start + WRITTEN_VECTORS), self._width)
                file.write(block.astype("<f4", copy=False).tobytes())
            file.flush()
            os.fsync(file.fileno())
        matrix = self._map(name, count)
        index = None
        if count > self._settings.flat_vectors_max:
            index = vectors.build(matrix, self._settings, stopped)
            self._write_synced(name, "faiss", index.to_bytes().tobytes())
        self._write_synced(name, "rows", where.rows.astype("<i8").tobytes())
        sync_directory(self.directory)
        suffixes = ("rows", "vectors") if index is None else ("rows", "vectors", "faiss")
        files = {suffix: self._file_info(name, suffix) for suffix in suffixes}
        info = SegmentInfo(name, count, "flat" if index is None else index.kind, files)
        alive = np.ones(count, np.bool_)
        return Part(where.rows, matrix, alive, _longest(matrix), index, name), info

    def _write_synced(self, name: str, suffix: str, data: bytes) -> None:
        with self._path(name, suffix).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def _file_info(self, name: str, suffix: str) -> FileInfo:
        path = self._path(name, suffix)
        return FileInfo(path.stat().st_size, sha256_of(path))

    def _path(self, name: str, suffix: str) -> Path:
        return self.directory / f"{name}.{suffix}"

    def _remove(self, names: Iterable[str]) -> None:
        try:
            for name in names:
                for path in self.directory.glob(f"{name}.*"):
                    path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("segments in %s: files stay behind: %s", self.directory, error)

    def _remove_unnamed(self) -> None:
        try:
            for path in list(self.directory.iterdir()):
                if path.name != MANIFEST_NAME and path.stem not in self.infos:
                    path.unlink()
        except OSError as error:
            log.warning("segments in %s: files stay behind: %s", self.directory, error)


@dataclass(frozen=True, slots=True)
class _Positions:
    """Where each live vector of some parts is, by rising row number."""

    rows: NDArray[np.int64]
    part: NDArray[np.int64]
    position: NDArray[np.int64]

    def gather(self, parts: Sequence[Part], block: slice, width: int) -> NDArray[np.float32]:
        part, position = self.part[block], self.position[block]
        result = np.empty((len(part), width), np.float32)
        for number, source in enumerate(parts):
            mine = part == number
            result[mine] = source.vectors[position[mine]]
        return result


def _positions(parts: Sequence[Part]) -> _Positions:
    positions = [np.flatnonzero(part.alive) for part in parts]
    rows = np.concatenate([p.rows[found] for p, found in zip(parts, positions, strict=True)])
    numbers = np.repeat(np.arange(len(parts)), [len(found) for found in positions])
    order = np.argsort(rows)
    return _Positions(rows[order], numbers[order], np.concatenate(positions)[order])


def _longest(matrix: NDArray[np.float32]) -> float:
    starts = range(0, len(matrix), WRITTEN_VECTORS)
    return max((length_max(matrix[start : start + WRITTEN_VECTORS]) for start in starts), default=0)


def _manifest_body(path: Path) -> dict[str, Any]:
    digest, _, source = path.read_bytes().partition(b"\n")
    if hashlib.sha256(source).hexdigest().encode() != digest:
        raise DataDamaged(path, "its SHA-256 is wrong")
    body = json.loads(source)
    if not isinstance(body, dict):
        raise DataDamaged(path, "it is no JSON object")
    return body


def _infos(body: dict[str, Any]) -> list[SegmentInfo]:
    return [_info(segment) for segment in body["segments"]]


def _info(segment: dict[str, Any]) -> SegmentInfo:
    files = {suffix: FileInfo(**info) for suffix, info in segment["files"].items()}
    return SegmentInfo(segment["name"], segment["count"], segment["kind"], files)
