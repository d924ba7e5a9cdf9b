"""One collection's SQLite file: its tables, how it is opened, what its errors mean.

documents.sqlite3 (WAL, synchronous=FULL) is the log of record; all else is made from it.

    meta       key, value: format, uid, spec (JSON), created_at, sequence, next_row
    documents  row, id, text, metadata (JSON), sequence, created_at, updated_at, crc
    vectors    row, vector (float32, little-endian, dimensions of them), crc
    fields     path, kind, value, row: each metadata value, for filters (index/fields.py)
    lexical    FTS5 over documents.text, which it does not store again
    words      how many documents have a word, read from FTS5's own tables
    requests   number, request_id, digest, created_at, result (JSON)

A row number is never used twice: replacing a document deletes its row and makes a new one. So
whatever is derived from a row (a vector in a segment) can only be right or gone, never stale.
The crc columns (CRC-32) cover the row's other columns, because SQLite has no checksums.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from index.errors import DataDamaged, DiskFull, FormatTooNew, StorageFailed
from index.lexical import TOKENIZER

FILE_NAME = "documents.sqlite3"
FORMAT = 1

# Between 4 KiB, quickest for single writes, and 16 KiB, quickest for batches of a thousand.
PAGE_BYTES = 8192
WAL_BYTES_KEPT = 64 * 1024 * 1024  # a larger write-ahead log is truncated
CACHE_KIB = 16 * 1024  # of each connection
FULL_BYTES = 256 * 1024  # a file system with less room than this is full
BUSY_MS = 10_000  # nobody else writes; only a checkpoint can hold the file for a moment
TRUNCATION_MS = 200  # how long writes wait, at most, for readers that keep the log

# The second when damaged text is part of an error's message.
ERRORS = (sqlite3.Error, UnicodeDecodeError)

# How messages begin that tell of damage, but have no code or that of any mistake: the module's own,
# and those about a schema that is not the one we made. All statements are ours.
DAMAGE = (
    *("Could not decode to UTF-8", "invalid fts5 file format", "error in tokenizer constructor"),
    *("no such table", "no such column", "no such tokenizer", "unrecognized option"),
    "no such fts5 table",
    *("vtable constructor failed", "parse error in", "SQL logic error"),
)

CONNECTION = sqlite3.Connection  # a test puts one here that fails when it is told to

TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE documents (
    row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, sequence INTEGER NOT NULL,
    created_at REAL NOT NULL, updated_at REAL NOT NULL, crc INTEGER NOT NULL,
    metadata TEXT NOT NULL, text TEXT NOT NULL
);
CREATE TABLE vectors (row INTEGER PRIMARY KEY, crc INTEGER NOT NULL, vector BLOB NOT NULL);
CREATE TABLE fields (
    path TEXT NOT NULL, kind TEXT NOT NULL, value NOT NULL, row INTEGER NOT NULL,
    PRIMARY KEY (path, kind, value, row)
) WITHOUT ROWID;
CREATE TABLE requests (
    number INTEGER PRIMARY KEY, request_id TEXT NOT NULL UNIQUE, digest BLOB NOT NULL,
    created_at REAL NOT NULL, result TEXT NOT NULL
);
CREATE INDEX requests_by_age ON requests (created_at);
"""

WORDS_TABLE = "CREATE VIRTUAL TABLE words USING fts5vocab (lexical, row);"

# Where each word stands, of each reader's own. A temporary table may not be made once only queries
# may be asked.
PLACES_TABLE = "CREATE VIRTUAL TABLE temp.places USING fts5vocab (main, lexical, instance)"

LEXICAL_TABLE = f"""
CREATE VIRTUAL TABLE lexical USING fts5 (
    text, content = 'documents', content_rowid = 'row', tokenize = '{TOKENIZER}'
);
"""


def connect(path: Path, *, writer: bool) -> sqlite3.Connection:
    """A connection to an existing file, in autocommit: transactions are begun by hand.

    It may move between threads, but only one may use it at a time.
    """
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None,
        check_same_thread=False, cached_statements=256, factory=CONNECTION,
    )  # fmt: skip
    try:
        configure(connection, writer=writer)
    except BaseException:
        connection.close()
        raise
    return connection


def configure(connection: sqlite3.Connection, *, writer: bool) -> None:
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    connection.execute("PRAGMA cell_size_check = ON")  # damaged pages are noticed, not followed
    connection.execute("PRAGMA trusted_schema = OFF")
    if writer:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_KEPT}")
    else:
        connection.execute(PLACES_TABLE)
        connection.execute("PRAGMA query_only = ON")


def truncate_log(connection: sqlite3.Connection) -> bool:
    """Write all of the log into the database and empty it; False where readers keep it.

    While one reader always overlaps the next, SQLite by itself never begins its log anew
    (sqlite.org/wal.html, 6). Here new readers do without the log as soon as it is written, and
    the old ones are waited for.
    """
    connection.execute(f"PRAGMA busy_timeout = {TRUNCATION_MS}")
    try:
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    return not busy


def create(path: Path, meta: dict[str, object]) -> None:
    """A new file with empty tables and `meta`. The caller makes the directory durable."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(f"BEGIN; {TABLES} {LEXICAL_TABLE} {WORDS_TABLE}")
        values = {"format": FORMAT, **meta}
        connection.executemany("INSERT INTO meta VALUES (?, ?)", values.items())
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()


def read_meta(connection: sqlite3.Connection, path: Path) -> dict[str, int | float | str]:
    """All of `meta`. Raises FormatTooNew, or DataDamaged when something is missing."""
    meta = dict(connection.execute("SELECT key, value FROM meta"))
    found = meta.get("format")
    if not isinstance(found, int):
        raise DataDamaged(path, "it has no format number")
    if found > FORMAT:
        raise FormatTooNew(path, found, FORMAT)
    missing = {"spec", "uid", "sequence", "next_row", "created_at"} - meta.keys()
    if missing:
        raise DataDamaged(path, f"it has no {', '.join(sorted(missing))}")
    return meta


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors about `path` into ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise _translation(error, path) from error
    except UnicodeDecodeError as error:
        raise DataDamaged(path, f"what should be text is not: {error}") from error


def _translation(error: sqlite3.Error, path: Path) -> DiskFull | DataDamaged | StorageFailed:
    # The low byte is the primary code: sqlite.org/rescode.html
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    # A shared-memory file that cannot grow is reported as an input/output error.
    unwritable = code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
    free = free_bytes_told(path.parent)
    crowded = unwritable and free is not None and free < FULL_BYTES
    if code == sqlite3.SQLITE_FULL or crowded:
        return DiskFull(path, free or 0)
    told = not unwritable and str(error).startswith(DAMAGE)
    if told or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return DataDamaged(path, str(error))
    return StorageFailed(path, f"{type(error).__name__}: {error}")


def whole_number(meta: Mapping[str, object], key: str, path: Path) -> int:
    """A count that the database keeps of itself. Raises DataDamaged for anything else."""
    value = meta.get(key)
    if not isinstance(value, int):
        raise DataDamaged(path, f"its {key} is {value!r}, not a number")
    return value


def free_bytes(directory: Path) -> int:
    """Bytes that a process without privileges may still write there. Raises OSError."""
    return shutil.disk_usage(directory).free


def free_bytes_told(directory: Path) -> int | None:
    """The same for an error's message: a disk in trouble may not even tell that."""
    try:
        return free_bytes(directory)
    except OSError:
        return None
