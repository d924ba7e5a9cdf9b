"""A data directory: named collections, one process.

LOCK                        the process id of its user; held by flock
FORMAT                      the format's number, as text
collections/<name>/         documents.sqlite3 (index/database.py), segments/ (index/segments.py)
collections/.<name>.<what>  a collection that is being made or removed; cleared when opening
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Self

from index import database, snapshots
from index.checking import Part as Damage
from index.collection import Collection
from index.errors import (
    Closed,
    CollectionExists,
    CollectionNotFound,
    DataDamaged,
    DiskFull,
    EtagMismatch,
    FormatTooNew,
    StorageFailed,
    StoreError,
)
from index.files import DirectoryLock, sync_directory, translated, write_file
from index.repairing import SPEC_COPY_NAME, Repair, mend, spec_of
from index.settings import StoreSettings
from index.spec import JSON, CollectionSpec

FORMAT = 1

log = logging.getLogger(__name__)


class Store:
    """All collections of one directory. Thread-safe.

    Every call takes `_lock`, so nobody keeps it for longer than memory takes: who makes or removes
    a collection holds its name in `_underway` instead, and nobody else touches its directory.
    """

    def __init__(self, directory: Path, settings: StoreSettings) -> None:
        self.directory = directory
        self.settings = settings
        self._collections: dict[str, Collection] = {}
        self._damaged: dict[str, StoreError] = {}
        self._lock = threading.RLock()
        self._underway: set[str] = set()  # names of what is being made or removed
        self._ended = threading.Condition(self._lock)  # one of them is made or removed
        # Of updates, and of removals that ask for an etag; taken before `_lock`, never inside it:
        # an update waits for the writer.
        self._revising = threading.Lock()
        self._closed = False
        self._unsettled = False  # the disk may hold collections that are not open
        self._home = directory / "collections"
        with translated(directory):
            self._home.mkdir(parents=True, exist_ok=True)
            sync_directory(directory)
            self._directory_lock = DirectoryLock(directory / "LOCK")
        try:
            with translated(directory):
                self._check_format()
                self._clear_leftovers()
                self._open_all()
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, directory: Path, settings: StoreSettings | None = None) -> Self:
        """Open, or create, the data directory.

        Raises DirectoryInUse, FormatTooNew, DiskFull, StorageFailed. A damaged collection does
        not keep the others from being served: it is in `damaged`, and asking for it raises. One
        that an input/output error or a full disk kept shut is tried again when it is asked for.
        """
        return cls(directory, settings or StoreSettings())

    @property
    def damaged(self) -> Mapping[str, StoreError]:
        """Collections that could not be opened, by name, with the reason."""
        with self._lock:
            self._settle()
        return MappingProxyType(self._damaged)

    def create(self, spec: CollectionSpec) -> Collection:
        """Raises CollectionExists, InvalidInput."""
        spec.checked(dimensions_max=self.settings.dimensions_max)

        def fill(directory: Path) -> None:
            meta = {"spec": spec.to_json(), "created_at": time.time()}
            counters = {"uid": secrets.token_hex(16), "sequence": 0, "next_row": 1}
            database.create(directory / database.FILE_NAME, {**meta, **counters})
            write_file(directory / SPEC_COPY_NAME, spec.to_json().encode())

        return self._make(spec.name, fill)

    def collection(self, name: str) -> Collection:
        """Raises CollectionNotFound, or what is wrong with a damaged one."""
        with self._lock:
            self._settle()
            if name in self._damaged:
                raise self._damaged[name]
            if name not in self._collections:
                raise CollectionNotFound(name)
            return self._collections[name]

    def collection_at_hand(self, name: str) -> Collection | None:
        """The collection if it can be told at once that it is here and well, else None: then ask
        `collection`, which may wait."""
        if not self._lock.acquire(blocking=False):
            return None
        try:
            if self._closed or self._unsettled or name in self._damaged:
                return None
            return self._collections.get(name)
        finally:
            self._lock.release()

    def list(self) -> list[Collection]:
        """All that can be used, by name."""
        with self._lock:
            self._settle()
            return [self._collections[name] for name in sorted(self._collections)]

    def update(
        self,
        name: str,
        *,
        description: str | None = None,
        embedding: Mapping[str, JSON] | None = None,
        etag: str = "",
    ) -> Collection:
        """Change what may change. Raises EtagMismatch when `etag` is given and not current."""
        with self._revising:
            collection = self.collection(name)
            self._check_etag(collection, etag)
            spec = collection.spec
            if description is not None:
                spec = replace(spec, description=description)
            if embedding is not None:
                spec = replace(spec, embedding=embedding)
            collection.update_spec(spec)
            return collection

    def delete(self, name: str, *, etag: str = "") -> None:
        """Remove the collection and all its files. A damaged one can be removed too.

        From the beginning nobody finds it; its name is free when this returns.
        """
        with self._revising, self._lock:
            self._check_open()
            if name not in self._damaged:
                self._check_etag(self.collection(name), etag)
            collection = self._collections.pop(name, None)
            self._damaged.pop(name, None)
            self._underway.add(name)
        removed = False
        try:
            directory = self._home / f".{name}.deleting"
            with translated(directory):
                if collection is not None:
                    collection.close(sealed=False)
                _remove(directory)
                (self._home / name).rename(directory)
                sync_directory(self._home)
            removed = True
            _discard(directory)  # it is gone already; the rest is tidying
        finally:
            self._end(name, known=removed)

    def restore(self, snapshot: Path, name: str) -> Collection:
        """A new collection `name` from a snapshot, whose files are verified first.

        Raises DataDamaged, FormatTooNew, CollectionExists.
        """

        def fill(directory: Path) -> None:
            spec = snapshots.restore(snapshot, directory, name)
            spec.checked(dimensions_max=self.settings.dimensions_max)
            write_file(directory / SPEC_COPY_NAME, spec.to_json().encode())

        return self._make(name, fill)

    def repair(self, name: str) -> Repair:
        """Mend what `check` finds, or what keeps the collection from being opened.

        Words and filter values are made again; segments are rebuilt; of a damaged database every
        whole document is copied into a new one, what is lost is named, and the damaged files stay
        beside it in a directory `damaged-<time>`. Nobody else can use the store meanwhile.
        """
        with self._revising, self._lock:
            self._settle()
            damaged = set()
            if name in self._damaged:
                if isinstance(self._damaged[name], FormatTooNew):
                    raise self._damaged[name]
                spec = spec_of(self._home / name)
                damaged.add(Damage.DATABASE)
            else:
                collection = self.collection(name)
                spec = collection.spec
                damaged.update(finding.part for finding in collection.check())
            try:
                self._damaged.pop(name, None)
                if name in self._collections:
                    self._collections.pop(name).close()
                repair = mend(self._home / name, spec, damaged)
                collection = Collection(self._home / name, self.settings)
            except BaseException:
                self._unsettled = True  # it may be mended, or as it was: the disk will be asked
                raise
            self._collections[name] = collection
            repair.kept_documents = collection.documents_count
            return repair

    def close(self) -> None:
        """Close every collection, also those being made, and let another process in."""
        with self._revising, self._lock:
            if self._closed:
                return
            self._closed = True
            self._ended.wait_for(lambda: not self._underway)
            with contextlib.ExitStack() as last:
                last.callback(self._directory_lock.release)
                for collection in self._collections.values():
                    last.callback(collection.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make(self, name: str, fill: Callable[[Path], None]) -> Collection:
        """Fill a directory; then it gets its name, durably, and is opened."""
        with self._lock:
            self._check_new(name)
            self._underway.add(name)
        made: Collection | None = None
        try:
            self._fill(name, fill)
            made = Collection(self._home / name, self.settings)
            return made
        finally:
            self._end(name, made, known=made is not None)

    def _fill(self, name: str, fill: Callable[[Path], None]) -> None:
        temporary = self._home / f".{name}.making"
        try:
            with translated(temporary), database.translated(temporary):
                _remove(temporary)
                temporary.mkdir()
                fill(temporary)
                sync_directory(temporary)
                temporary.rename(self._home / name)
                sync_directory(self._home)
        except BaseException:
            _discard(temporary)
            raise

    def _end(self, name: str, made: Collection | None = None, *, known: bool) -> None:
        """Give the name back. What failed may have happened all the same: then the disk is asked.

        In one step, or the name would be free before it is known to be in doubt.
        """
        with self._lock:
            if made is not None:
                self._collections[name] = made
            self._unsettled = self._unsettled or not known
            self._underway.remove(name)
            self._ended.notify_all()

    def _settle(self) -> None:
        """Open what is on the disk and not open, unless it is known to be damaged."""
        self._check_open()
        if not self._unsettled:
            return
        try:
            names = sorted(os.listdir(self._home))
        except OSError as error:  # what is open can be used all the same
            log.warning("%s: %s", self._home, error)
            return
        self._unsettled = False
        try:
            for name in names:
                known = name in self._collections or not _may_pass(self._damaged.get(name))
                if not known and name not in self._underway and not name.startswith("."):
                    self._open_one(name)
        except MemoryError:
            self._unsettled = True  # there may be some at the next call
            raise

    def _open_one(self, name: str) -> None:
        try:
            self._collections[name] = Collection(self._home / name, self.settings)
        except StoreError as error:
            self._damaged[name] = error
            self._unsettled = self._unsettled or _may_pass(error)
        else:
            self._damaged.pop(name, None)

    def _check_new(self, name: str) -> None:
        self._settle()
        if name in self._collections or name in self._damaged or name in self._underway:
            raise CollectionExists(name)

    def _check_open(self) -> None:
        if self._closed:
            raise Closed(str(self.directory))

    @staticmethod
    def _check_etag(collection: Collection, etag: str) -> None:
        if etag and etag != collection.etag:
            raise EtagMismatch(collection.name, etag, collection.etag)

    def _check_format(self) -> None:
        path = self.directory / "FORMAT"
        if not path.exists():
            write_file(path, f"{FORMAT}\n".encode())
            return
        found = path.read_bytes()[:32].strip()
        if not found.isdigit():
            raise DataDamaged(path, "it should hold the number of the data format")
        if int(found) > FORMAT:
            raise FormatTooNew(path, int(found), FORMAT)

    def _clear_leftovers(self) -> None:
        for path in self._home.glob(".*"):
            _discard(path)

    def _open_all(self) -> None:
        for name in sorted(os.listdir(self._home)):
            if not name.startswith("."):
                self._open_one(name)


def _may_pass(error: StoreError | None) -> bool:
    """Whether trying once more may help; None is no error yet."""
    return error is None or isinstance(error, StorageFailed | DiskFull)


def _remove(directory: Path) -> None:
    """With all that is in it, if it is there. Raises OSError."""
    if directory.exists():
        shutil.rmtree(directory)


def _discard(directory: Path) -> None:
    """The same, but what cannot be removed stays: opening, or who needs the name, tries again."""
    try:
        _remove(directory)
    except OSError as error:
        log.warning("%s stays behind: %s", directory, error)
