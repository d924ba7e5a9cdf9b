"""A disk that forgets: what a power cut may leave of the changes made so far.

An fsync makes a file's bytes durable, or a directory's names. All else may be on the disk or
not: writes sector by sector, in any order; names in the order in which they were changed, as a
journal keeps them, but any number of the last ones may be missing.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePath

from index.torture.disk import (
    Change,
    Create,
    MakeDirectory,
    Remove,
    Rename,
    Sync,
    Truncate,
    Write,
)

SECTOR_BYTES = 512  # is written whole or not at all


class Fate(StrEnum):
    """What becomes of that which no fsync covers."""

    LOST = "lost"
    TORN = "torn"  # any sectors of any writes, any number of the last names
    EARLY_NAMES = "early names"  # the names are all there, the bytes are not
    KEPT = "kept"  # as after kill -9


@dataclass(slots=True, eq=False)
class File:
    durable: bytearray = field(default_factory=bytearray)
    pending: list[Write | Truncate] = field(default_factory=list)  # since the last fsync
    names_file: bool = False  # its first fsync makes its name durable

    def bytes_after(self, fate: Fate, rng: random.Random) -> bytes:
        data = bytearray(self.durable)
        if fate in (Fate.KEPT, Fate.TORN):
            for change in self.pending:
                for part in _parts(change):
                    if fate is Fate.KEPT or rng.random() < 0.5:
                        _apply(data, part)
        return bytes(data)


def _parts(change: Write | Truncate) -> Iterator[Write | Truncate]:
    if isinstance(change, Truncate):
        yield change
        return
    start, end = change.offset, change.offset + len(change.data)
    while start < end:
        stop = min(end, (start // SECTOR_BYTES + 1) * SECTOR_BYTES)
        data = change.data[start - change.offset : stop - change.offset]
        yield Write(change.path, start, data)
        start = stop


def _apply(data: bytearray, change: Write | Truncate) -> None:
    if isinstance(change, Truncate):
        del data[change.size :]
        data.extend(bytes(change.size - len(data)))
        return
    end = change.offset + len(change.data)
    data.extend(bytes(max(0, end - len(data))))
    data[change.offset : end] = change.data


@dataclass(slots=True)
class Names:
    """What is where; None is a directory."""

    entries: dict[PurePath, File | None] = field(default_factory=dict)

    def apply(self, change: Change, file: File | None) -> None:
        match change:
            case Create(path=path) | MakeDirectory(path=path):
                self.entries[path] = file
            case Remove(path=path):
                self.entries.pop(path, None)
            case Rename(path=path, to=to):
                moved = [name for name in self.entries if name == path or path in name.parents]
                for name in moved:
                    self.entries[to / name.relative_to(path)] = self.entries.pop(name)
            case _:
                raise TypeError(change)


class Platter:
    """The disk below `home`, from empty, as one change after another is made."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._now = Names({home: None})
        self._durable = Names({home: None})
        self._journal: list[tuple[Change, File | None]] = []  # changes of names not yet durable

    def apply(self, change: Change) -> None:
        match change:
            case Create():
                file = File(names_file=change.synced_name)
                self._rename(change, file)
            case MakeDirectory() | Rename() | Remove():
                self._rename(change, None)
                if isinstance(change, Remove) and change.synced:
                    self._sync_names(change.path.parent)
            case Write() | Truncate():
                self._file(change.path).pending.append(change)
            case Sync():
                self._sync(change.path)

    def leave(self, home: Path, fate: Fate, rng: random.Random) -> None:
        """Write into the empty directory `home` what a power cut now may leave."""
        names = Names(dict(self._durable.entries))
        kept = {
            Fate.LOST: 0,
            Fate.TORN: rng.randint(0, len(self._journal)),
        }.get(fate, len(self._journal))
        for change, file in self._journal[:kept]:
            names.apply(change, file)
        for name, file in sorted(names.entries.items(), key=lambda item: len(item[0].parts)):
            path = home / name.relative_to(self._home)
            if file is None:
                path.mkdir(exist_ok=True)
            else:
                path.write_bytes(file.bytes_after(fate, rng))

    def _file(self, path: Path) -> File:
        file = self._now.entries[path]
        assert file is not None, f"{path} is a directory"
        return file

    def _rename(self, change: Change, file: File | None) -> None:
        self._now.apply(change, file)
        self._journal.append((change, file))

    def _sync(self, path: Path) -> None:
        file = self._now.entries[path]
        if file is None:
            self._sync_names(path)
            return
        for change in file.pending:
            _apply(file.durable, change)
        file.pending.clear()
        if file.names_file:
            file.names_file = False
            self._sync_names(path.parent)

    def _sync_names(self, directory: Path) -> None:
        """The journal is one for all directories: what is before a durable change is durable."""
        last = max(
            (i for i, (change, _) in enumerate(self._journal) if directory in _parents(change)),
            default=-1,
        )
        for change, file in self._journal[: last + 1]:
            self._durable.apply(change, file)
        del self._journal[: last + 1]


def _parents(change: Change) -> tuple[Path, ...]:
    if isinstance(change, Rename):
        return change.path.parent, change.to.parent
    return (change.path.parent,)
