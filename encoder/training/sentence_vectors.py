"""A teacher's vectors on disk: each text is read by the teacher once, whatever run asks for it.

A folder a teacher: `vectors.f16`, a row a text; `texts.u64`, a hash a row; `teacher.json`. Both
files only grow, vectors first, and what a kill cut off is dropped when the folder is opened.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from encoder.training.atomic import write_atomically
from encoder.training.progress import Progress
from encoder.training.sentence_teacher import Teacher

BLOCK_TEXTS = (
    2048  # between two writes: what a kill can cost, and among whom like lengths are found
)
NUMBER_BYTES, HASH_BYTES = 2, 8
MISSING = -1


class Vectors(Protocol):
    """What training asks of a teacher's vectors."""

    width: int

    def rows(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Where each text's vector is, (texts,); MISSING where there is none."""

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors of `rows`, (rows, width)."""


class BlankVectors:
    """The same vector for every text: for a rehearsal, which must not wait for the teacher."""

    def __init__(self, width: int) -> None:
        self.width = width

    def rows(self, texts: Sequence[str]) -> NDArray[np.int64]:
        return np.zeros(len(texts), dtype=np.int64)

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.full((len(rows), self.width), self.width**-0.5, dtype=np.float32)


class TeacherVectors:
    """The vectors of one teacher, of the texts that were computed so far.

    A text is known by 64 bits of its hash: of a million texts two are taken for one another
    once in forty million runs.
    """

    def __init__(self, cache: Path, teacher: Teacher) -> None:
        self._teacher = teacher
        self.width = teacher.width
        self.folder = cache / f"teacher-{teacher.sha256[:12]}"
        self.folder.mkdir(parents=True, exist_ok=True)
        description = {"sha256": teacher.sha256, "width": teacher.width}
        write_atomically(self.folder / "teacher.json", json.dumps(description).encode())
        self._open()

    def _open(self) -> None:
        """Map what is whole in both files."""
        vectors, texts = self._files()
        count = self._count()
        hashes = np.fromfile(texts, dtype=np.uint64, count=count) if count else _no_hashes()
        self._order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[self._order]
        self._vectors = (
            np.memmap(vectors, dtype=np.float16, mode="r", shape=(count, self.width))
            if count
            else np.empty((0, self.width), dtype=np.float16)
        )

    def _files(self) -> tuple[Path, Path]:
        return self.folder / "vectors.f16", self.folder / "texts.u64"

    def __len__(self) -> int:
        return len(self._vectors)

    def rows(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Where each text's vector is, (texts,); MISSING where the teacher has not read it."""
        wanted = _hashes(texts)
        if not len(self._sorted):
            return np.full(len(wanted), MISSING, dtype=np.int64)
        place = np.minimum(np.searchsorted(self._sorted, wanted), len(self._sorted) - 1)
        found = self._sorted[place] == wanted
        return np.where(found, self._order[place], MISSING).astype(np.int64)

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors of `rows`, (rows, width)."""
        return self._vectors[rows].astype(np.float32)

    def missing(self, texts: Iterable[str]) -> list[str]:
        """The texts without a vector, each once, in their order."""
        different = list(dict.fromkeys(texts))
        absent = np.flatnonzero(self.rows(different) == MISSING)
        return [different[index] for index in absent]

    def compute(self, texts: Iterable[str]) -> int:
        """Have the teacher read what it has not read yet; returns how many texts those were.

        Several processes may do so at once; a text that two of them read has two rows. Raises
        OSError if the disk is full; what was computed stays.
        """
        self._open()  # what another process has read since
        wanted = self.missing(texts)
        characters = [len(text) for text in wanted]
        progress, done = Progress("teacher's vectors", sum(characters)), 0
        for begin in range(0, len(wanted), BLOCK_TEXTS):
            block = wanted[begin : begin + BLOCK_TEXTS]
            self._append(block, self._teacher.vectors(block))
            done += sum(characters[begin : begin + BLOCK_TEXTS])
            progress.update(done, f"{begin + len(block):,} of {len(wanted):,} texts")
        if wanted:
            progress.finish(f"{len(wanted):,} texts")
            self._open()
        return len(wanted)

    def _append(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        rows, hashes = self._files()
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            count = self._count()
            _replace_end(rows, count * NUMBER_BYTES * self.width, vectors.astype(np.float16))
            _replace_end(hashes, count * HASH_BYTES, _hashes(texts))

    def _count(self) -> int:
        """How many rows are whole in both files."""
        rows, hashes = self._files()
        return min(_size(rows) // (NUMBER_BYTES * self.width), _size(hashes) // HASH_BYTES)


def _hashes(texts: Iterable[str]) -> NDArray[np.uint64]:
    digests = (hashlib.blake2b(t.encode(), digest_size=HASH_BYTES).digest() for t in texts)
    return np.frombuffer(b"".join(digests), dtype=np.uint64)


def _no_hashes() -> NDArray[np.uint64]:
    return np.empty(0, dtype=np.uint64)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _replace_end(path: Path, offset: int, data: NDArray[Any]) -> None:
    """Write `data` from `offset` on, in place of what a kill may have left there."""
    with path.open("ab") as file:
        file.truncate(offset)
        file.write(data.tobytes())
        file.flush()
        os.fsync(file.fileno())
