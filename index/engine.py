"""A collection's machinery: database, vectors, writer, readers and builder, put together."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from index import database, files
from index.builder import Builder
from index.changes import Change, Once
from index.checking import Finding, check_database, check_words, examine
from index.checking import Part as Damage
from index.documents import Written
from index.errors import DataDamaged, DiskFull, ReadOnly, StorageFailed
from index.generation import Generation, Part
from index.lexical import merge_words
from index.reading import Generations, Readers, View
from index.records import Reader
from index.repairing import SPEC_COPY_NAME, finish
from index.seal import Seal, SealFile, check_sequence, digest_of_closed, read_seal
from index.segments import Segments
from index.settings import StoreSettings
from index.spec import CollectionSpec
from index.statistics import Statistics, measure
from index.writer import Writer

TRUNCATIONS_MAX = 5  # tries of a compaction, each of which writes may wait for
TURN_S = 0.002  # between steps: who releases a lock and takes it again leaves it to nobody

log = logging.getLogger(__name__)


class Engine:
    """Thread-safe. Whoever writes, reads or maintains a collection does it through this."""

    def __init__(self, directory: Path, settings: StoreSettings) -> None:
        """Open what is in `directory`. Raises DataDamaged or FormatTooNew."""
        self.directory = directory
        self._path = directory / database.FILE_NAME
        self.settings = settings
        self.reason = ""  # why it is read-only
        self._doubted = False  # it was checked, and not all is well
        with files.translated(directory):
            finish(directory)
        with files.translated(self._path):
            seal = read_seal(directory)
            digest = digest_of_closed(self._path) if seal is not None and seal.digest else ""
        with database.translated(self._path):
            connection = database.connect(self._path, writer=True)
            try:
                self._open(connection, seal, digest)
            except BaseException:
                connection.close()
                raise

    def _open(self, connection: sqlite3.Connection, seal: Seal | None, digest: str) -> None:
        meta = database.read_meta(connection, self._path)
        self.spec = _spec(str(meta["spec"]), self._path)
        self.created_at = float(meta["created_at"])
        self._writing = Reader(connection, self._path, self.spec.dimensions)
        self._seal: SealFile | None = None
        self._compare_with_seal(str(meta["uid"]), seal, digest)
        self._segments = Segments(
            self.directory, str(meta["uid"]), self.spec.dimensions, self.settings
        )
        parts, problems = self._segments.load(self._writing.sequence())
        for problem in problems:
            log.warning("%s; its vectors are read from the database", problem)
        self._generations = Generations(self._load(parts))
        self._readers = Readers(self._path, self.spec.dimensions, self.settings.readers_max)
        self._writer = Writer(
            self._path,
            self._writing,
            database.whole_number(meta, "next_row", self._path),
            self.settings,
            current=lambda: self._generations.current,
            publish=self._generations.publish,
            reload=lambda: self._load(self._generations.current.segments),
            acknowledging=self._note,
        )
        self._builder = Builder(
            self._segments,
            self.settings,
            current=lambda: self._generations.current,
            swap=self._swap,
        )
        self._break_seal(str(meta["uid"]))
        self._builder.poke()

    def _compare_with_seal(self, uid: str, seal: Seal | None, digest: str) -> None:
        """Raises DataDamaged where acknowledged writes, or ways to documents, are lost."""
        sequence = self._writing.sequence()
        check_sequence(seal, uid, sequence, self._path)
        if seal is None or not seal.digest or (seal.uid, seal.sequence) != (uid, sequence):
            return
        if digest != seal.digest:
            log.warning("%s changed while it was closed; everything is read", self._path)
            self.reason = examine(self._writing, self._writing.connection, self._path)

    def _break_seal(self, uid: str) -> None:
        """Once there may be writes. What was found damaged keeps its seal, and is found again."""
        if self.reason:
            return
        try:
            self._seal = SealFile(self.directory, Seal(uid, self.current.sequence))
        except (OSError, DiskFull, StorageFailed) as error:  # reads go on
            log.warning("%s cannot be sealed: %s", self._path, error)

    def _note(self, sequence: int) -> None:
        if self._seal is not None:
            self._seal.set(sequence)

    def _load(self, segments: Sequence[Part]) -> Generation:
        """A generation from the database, given segments that hold some of its rows."""
        rows = self._writing.all_rows()
        rest = rows
        sound = []
        for part in segments:
            alive = np.isin(part.rows, rest, assume_unique=True)
            rest = np.setdiff1d(rest, part.rows, assume_unique=True)
            sound.append(replace(part, alive=alive))
        blocks = self._writing.vector_blocks(rest.tolist())
        sequence, width = self._writing.sequence(), self.spec.dimensions
        return Generation.of_blocks(sequence, sound, rest, blocks, width)

    def _swap(self, change: Callable[[Generation], Generation]) -> None:
        with self._writer.lock:
            self._generations.publish(change(self._generations.current))

    @property
    def current(self) -> Generation:
        return self._generations.current

    def wait(self, sequence: int) -> None:
        """Raises SequenceNotReached when the write does not come soon."""
        self._generations.wait(sequence, self.settings.min_sequence_wait_s)

    def write(self, change: Change | Once) -> Written:
        """Durable and visible on return. Raises ReadOnly, DiskFull, StorageFailed, DataDamaged."""
        self._check_writable()
        with self._noticing_damage():
            written = self._writer.write(change)
        self._builder.poke()
        return written

    @contextmanager
    def view(self) -> Iterator[View]:
        """The newest state, unchanging while the context lasts."""
        with self._noticing_damage(), self._readers.view(self._generations) as view:
            yield view

    def update_spec(self, spec: CollectionSpec) -> None:
        """Store another description or embedding; the vectors' shape and origin stay."""
        self._check_writable()
        with self._maintaining() as connection:
            connection.execute("UPDATE meta SET value = ? WHERE key = 'spec'", (spec.to_json(),))
            self.spec = spec
        files.write_file(self.directory / SPEC_COPY_NAME, spec.to_json().encode())

    # Maintenance

    def wait_for_builds(self) -> None:
        self._builder.wait()

    def compact(self) -> None:
        """Writes go on between the steps. Raises ReadOnly, Closed, DiskFull, StorageFailed."""
        self._check_writable()
        self._builder.merge_all()
        self._turn(partial(merge_words, first=True))
        while self._turn(partial(merge_words, first=False)):
            pass
        for _ in range(TRUNCATIONS_MAX):
            if self._turn(database.truncate_log):
                return
        log.warning("%s: somebody reads on, and its write-ahead log is not shortened", self._path)

    def _turn(self, step: Callable[[sqlite3.Connection], bool]) -> bool:
        with self._maintaining() as connection:
            done = step(connection)
        time.sleep(TURN_S)
        return done

    @contextmanager
    def _maintaining(self) -> Iterator[sqlite3.Connection]:
        """The connection that writes, while no write is in progress."""
        with (
            self._noticing_damage(),
            database.translated(self._path),
            self._writer.maintaining() as connection,
        ):
            yield connection

    def check(self) -> list[Finding]:
        with self._readers.view(self._generations) as view:
            findings = list(check_database(view.reader, self._path))
        if not any(finding.part is Damage.DATABASE for finding in findings):
            with self._writer.maintaining() as connection:
                findings += check_words(connection, self._path)
        with files.translated(self.directory):
            for damage in self._segments.damaged_files():
                findings.append(Finding(Damage.SEGMENT, damage.path, damage.reason))
        for finding in findings:
            self._doubted = self._doubted or finding.part is not Damage.SEGMENT
            if finding.part is Damage.DATABASE:
                self.reason = self.reason or f"{finding.path} is damaged: {finding.problem}"
        return findings

    def statistics(self) -> Statistics:
        with files.translated(self.directory):
            return measure(
                self.current, self.directory, building=self._builder.building,
                build_failure=self._builder.failure,
            )  # fmt: skip

    def close(self, *, sealed: bool = True) -> None:
        """Wait for the write in progress; running reads end as they please.

        sealed: read the database once more, so that damage while it is closed will be noticed
        """
        self._builder.close()
        self._writer.close()
        self._readers.close()
        seal, self._seal = self._seal, None
        if seal is not None:
            if sealed and not self.reason and not self._doubted:
                seal.set(self.current.sequence, self._digest())
            seal.close()

    def _digest(self) -> str:
        """Of the closed database; empty where it is not all in one file, or too large."""
        try:
            if self._path.with_name(f"{self._path.name}-wal").exists():
                return ""  # somebody still reads
            if self._path.stat().st_size > self.settings.sealed_bytes_max:
                return ""
            # The log's removal first: after a power cut a log beside a seal would look like a
            # change, and all would be read to find that nothing is wrong.
            files.sync_directory(self.directory)
            return digest_of_closed(self._path)
        except OSError as error:
            log.warning("%s cannot be sealed: %s", self._path, error)
            return ""

    def _check_writable(self) -> None:
        if self.reason:
            raise ReadOnly(self.spec.name, self.reason)

    @contextmanager
    def _noticing_damage(self) -> Iterator[None]:
        """Damage found on the way makes the collection read-only: writing would spread it."""
        try:
            yield
        except DataDamaged as damage:
            self.reason = self.reason or str(damage)
            raise


def _spec(source: str, path: Path) -> CollectionSpec:
    try:
        return CollectionSpec.from_json(source)
    except (ValueError, TypeError, KeyError) as error:
        raise DataDamaged(path, f"its specification cannot be read: {error}") from error
