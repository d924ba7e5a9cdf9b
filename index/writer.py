"""The one writer of a collection. Concurrent writes share a transaction, and so its fsync.

Whoever gets the lock first leads: it applies every waiting change, each in a savepoint of its
own, commits once, and shows memory the result. The others find their change done.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from index import database, files
from index.changes import Change, Once, Transaction
from index.database import free_bytes, translated
from index.documents import Written
from index.errors import Closed, DataDamaged, DiskFull, StorageFailed, StoreError
from index.generation import Generation
from index.records import Reader
from index.settings import StoreSettings

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Ticket:
    """A change that waits, and then its outcome."""

    change: Change | Once
    written: Written | None = None
    error: BaseException | None = None

    @property
    def done(self) -> bool:
        return self.written is not None or self.error is not None

    def outcome(self) -> Written:
        if self.error is not None:
            raise self.error
        assert self.written is not None
        return self.written


class Writer:
    """Applies changes in order. A change is durable, and visible, before `write` returns."""

    def __init__(
        self,
        path: Path,
        reader: Reader,
        next_row: int,
        settings: StoreSettings,
        *,
        current: Callable[[], Generation],
        publish: Callable[[Generation], None],
        reload: Callable[[], Generation],
        acknowledging: Callable[[int], None],
    ) -> None:
        """acknowledging: is told the sequence of each durable write before its caller is"""
        self.lock = threading.RLock()  # also held to swap segments, and for maintenance
        self._path = path
        self._reader = reader
        self._next_row = next_row
        self._settings = settings
        self._current = current
        self._publish = publish
        self._reload = reload
        self._acknowledging = acknowledging
        self._waiting: deque[Ticket] = deque()
        self._log_bytes_max = database.WAL_BYTES_KEPT
        self._closed = False

    def write(self, change: Change | Once) -> Written:
        """Raises what the change raises, DiskFull, StorageFailed or DataDamaged; then nothing
        was changed."""
        ticket = Ticket(change)
        self._waiting.append(ticket)
        with self.lock:
            while not ticket.done:  # a full group may have gone before this ticket
                self._lead()
        return ticket.outcome()

    @contextmanager
    def maintaining(self) -> Iterator[sqlite3.Connection]:
        """The connection, while no write is in progress. Raises Closed."""
        with self.lock:
            self._check_open()
            yield self._reader.connection

    def close(self) -> None:
        with self.lock:
            self._closed = True
            self._reader.connection.close()

    def _lead(self) -> None:
        size = min(len(self._waiting), self._settings.group_writes_max)
        tickets = [self._waiting.popleft() for _ in range(size)]
        try:
            with files.translated(self._path), translated(self._path):
                self._commit(tickets)
        except Exception as error:
            for ticket in tickets:
                ticket.error, ticket.written = error, None
            if not isinstance(error, StoreError | OSError | MemoryError):
                raise  # a bug
        except BaseException:  # an interrupt is for this thread alone
            for ticket in tickets:
                ticket.error = StorageFailed(self._path, "the writer was interrupted")
            raise
        else:
            self._shorten_log()

    def _shorten_log(self) -> None:
        """What fails here costs no write its answer; it is tried again when the log has grown."""
        path = self._path.with_name(f"{self._path.name}-wal")
        size = 0
        try:
            size = path.stat().st_size
            if size <= self._log_bytes_max:
                return
            shortened = database.truncate_log(self._reader.connection)
        except (OSError, sqlite3.Error, MemoryError) as error:
            log.warning("%s cannot be shortened: %s", path, error)
            shortened = False
        self._log_bytes_max = database.WAL_BYTES_KEPT + (0 if shortened else size)

    def _commit(self, tickets: list[Ticket]) -> None:
        self._check_open()
        free = free_bytes(self._path.parent)
        if free < self._settings.disk_free_bytes_min:
            raise DiskFull(self._path, free)
        before = self._caught_up()
        connection = self._reader.connection
        transaction = Transaction(self._reader, before.sequence, self._next_row)
        try:
            connection.execute("BEGIN IMMEDIATE")
            for ticket in tickets:
                self._apply(ticket, transaction, alone=len(tickets) == 1)
            after = self._prepared(before, transaction)
            self._save_counters(transaction)
            connection.execute("COMMIT")
        except BaseException:
            self._roll_back(before)
            raise
        self._next_row = transaction.next_row
        self._publish(after)
        self._acknowledging(after.sequence)

    def _check_open(self) -> None:
        if self._closed:
            raise Closed(self._path.parent.name)

    def _apply(self, ticket: Ticket, transaction: Transaction, *, alone: bool) -> None:
        """A change that is refused undoes itself; any other failure undoes the group."""
        if alone:  # a savepoint would copy each page that a large write touches
            ticket.written = ticket.change.apply(transaction)
            return
        mark = transaction.mark()
        added, removed = len(transaction.added_rows), len(transaction.removed_rows)
        connection = self._reader.connection
        connection.execute("SAVEPOINT change")
        try:
            ticket.written = ticket.change.apply(transaction)
        except (DataDamaged, DiskFull, StorageFailed):
            raise
        except StoreError as error:
            ticket.error = error
            connection.execute("ROLLBACK TO change")
            transaction.rewind(mark, added, removed)
        connection.execute("RELEASE change")

    def _prepared(self, before: Generation, transaction: Transaction) -> Generation:
        """Made before the commit, so that nothing can fail between commit and publication."""
        if transaction.sequence == before.sequence:
            return before
        width = before.storage.vectors.shape[1]
        vectors = np.array(transaction.added_vectors, np.float32).reshape(-1, width)
        rows = np.array(transaction.added_rows, np.int64)
        removed = np.sort(np.array(transaction.removed_rows, np.int64))
        return before.after(transaction.sequence, removed, rows, vectors)

    def _save_counters(self, transaction: Transaction) -> None:
        self._reader.connection.executemany(
            "UPDATE meta SET value = ? WHERE key = ?",
            [(transaction.sequence, "sequence"), (transaction.next_row, "next_row")],
        )

    def _roll_back(self, before: Generation) -> None:
        """Back to the old state, or, when a commit failed after it took effect, to the new."""
        connection = self._reader.connection
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            committed = self._reader.sequence() != before.sequence
        except (sqlite3.Error, StoreError):
            return  # the first error says more
        if committed:
            self._caught_up()

    def _caught_up(self) -> Generation:
        """The current generation; read anew where the database has a write that it has not."""
        current = self._current()
        if self._reader.sequence() == current.sequence:
            return current
        after = self._reload()
        self._next_row = int(
            self._reader.connection.execute(
                "SELECT value FROM meta WHERE key = 'next_row'"
            ).fetchone()[0]
        )
        self._publish(after)
        return after
