"""Snapshots of collections under the data directory, by names that cannot lead out of it.

snapshots/<collection>/<time>-<sequence>/     what `Collection.snapshot` writes
snapshots/<collection>/.<time>                one that is being made
"""

from __future__ import annotations

import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

from grpc import StatusCode

from index.collection import Collection
from index.files import sync_directory, translated
from index.snapshots import Snapshot
from server.errors import Answer, CallRefused, RequestInvalid, resource_info, row

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}/\d{8}T\d{6}\.\d{6}Z-\d+", re.ASCII)


class SnapshotNotFound(CallRefused):
    def __init__(self, name: str) -> None:
        super().__init__(f"there is no snapshot {name!r}")
        self.name = name


@row(SnapshotNotFound)
def _(error: SnapshotNotFound) -> Answer:
    return Answer(
        code=StatusCode.NOT_FOUND,
        reason="SNAPSHOT_NOT_FOUND",
        message=str(error),
        metadata={"snapshot": error.name},
        details=(resource_info("polyseme.v1.Snapshot", error.name),),
    )


class Snapshots:
    """The snapshots of one data directory."""

    def __init__(self, data: Path) -> None:
        self._home = data / "snapshots"
        for left in self._home.glob("*/.*"):  # by a process that died
            shutil.rmtree(left, ignore_errors=True)

    def create(self, collection: Collection) -> tuple[str, Snapshot, int]:
        """A snapshot's name, what is in it, how many documents it has. Durable on return.

        The name tells the sequence, which is known when the copy is finished. Beside a busy
        writer the number of documents may be that of a moment later. Raises DiskFull,
        StorageFailed.
        """
        before = collection.statistics()
        time = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        directory = self._home / collection.name
        temporary = directory / f".{time}"
        try:
            with translated(directory):
                directory.mkdir(parents=True, exist_ok=True)
                snapshot = collection.snapshot(temporary)
                final = directory / f"{time}-{snapshot.sequence}"
                temporary.rename(final)
                for changed in (directory, self._home, self._home.parent):
                    sync_directory(changed)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        after = collection.statistics()
        counted = before if before.sequence == snapshot.sequence else after
        return f"{collection.name}/{final.name}", snapshot, counted.documents

    def path(self, name: str, field: str) -> Path:
        """Where the snapshot is.

        Raises RequestInvalid for what is no name, SnapshotNotFound, StorageFailed.
        """
        if not _NAME.fullmatch(name):
            raise RequestInvalid(field, f"{name!r} is no snapshot's name: collection/time-sequence")
        path = self._home / name
        with translated(path):
            found = path.is_dir()
        if not found:
            raise SnapshotNotFound(name)
        return path
