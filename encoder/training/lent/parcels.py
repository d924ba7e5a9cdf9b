"""Files cut into shards, and shards put into folders of limited size; and back again.

The standard library alone: on the other machine this runs before anything is installed. Each
shard is known by its SHA-256, on both sides, so a half of a transfer is never taken for a whole.
"""

import hashlib
import json
import lzma
import os
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

MANIFEST = "parcel.json"
SHARD_BYTES = 12 * 2**20  # before compression: many enough for all cores
XZ_PRESET = 6
COMPRESSED_SUFFIXES = (".whl", ".safetensors", ".xz")  # would not become smaller


class ParcelDamaged(ValueError):
    """A parcel or a file of results is not what was packed; the message names the file."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A piece of a file, as it lies in a parcel.

    path, offset, bytes: which file, below the folder packed, and which of its bytes
    stored, stored_bytes, sha256: the shard's file, its size and the hash of what is in it
    """

    path: str
    offset: int
    bytes: int
    stored: str
    stored_bytes: int
    sha256: str

    @property
    def compressed(self) -> bool:
        """Whether it must be decompressed."""
        return self.stored.endswith(".xz")


def cut(root: Path, paths: Iterable[Path], store: Path) -> list[Shard]:
    """Write the shards of files below `root` into `store`, in their order.

    A shard that `store` has is not compressed again: its name is a hash of its content.
    """
    store.mkdir(parents=True, exist_ok=True)
    wanted = [
        (path, offset)
        for path in paths
        for offset in range(0, max(1, path.stat().st_size), SHARD_BYTES)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # lzma lets other threads run
        return list(threads.map(lambda piece: _cut(root, piece[0], piece[1], store), wanted))


def _cut(root: Path, path: Path, offset: int, store: Path) -> Shard:
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(SHARD_BYTES)
    name = hashlib.sha256(data).hexdigest()[:24]
    compressed = not path.name.endswith(COMPRESSED_SUFFIXES)
    stored = store / (name + (".xz" if compressed else ".raw"))
    if not stored.exists():
        # Its own name: of two equal files two threads may write the same shard at once.
        temporary = stored.with_name(f".{stored.name}.{os.getpid()}.{threading.get_ident()}")
        temporary.write_bytes(lzma.compress(data, preset=XZ_PRESET) if compressed else data)
        temporary.rename(stored)
    content = stored.read_bytes()
    place = path.relative_to(root).as_posix()
    digest = hashlib.sha256(content).hexdigest()
    return Shard(place, offset, len(data), stored.name, len(content), digest)


def fill(shards: Sequence[Shard], bytes_max: int) -> list[list[Shard]]:
    """Shards in parcels of at most `bytes_max`, in their order.

    Raises ValueError for a shard that is larger alone.
    """
    parcels: list[list[Shard]] = []
    size = 0
    for shard in shards:
        if shard.stored_bytes > bytes_max:
            raise ValueError(f"{shard.path}: a shard of {shard.stored_bytes} bytes fits no parcel")
        if not parcels or size + shard.stored_bytes > bytes_max:
            parcels.append([])
            size = 0
        parcels[-1].append(shard)
        size += shard.stored_bytes
    return parcels


def write_parcel(folder: Path, shards: Sequence[Shard], store: Path) -> None:
    """The folder that travels: the shards' files and a manifest."""
    folder.mkdir(parents=True)
    for shard in shards:
        target = folder / shard.stored
        if not target.exists():  # two equal shards are one file
            os.link(store / shard.stored, target)
    manifest = [asdict(shard) for shard in shards]
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), "utf-8")


def receive(folder: Path, root: Path) -> int:
    """Put the files of a parcel, or its pieces of them, below `root`; returns their bytes.

    May be repeated, in any order. Raises ParcelDamaged before anything of a bad shard is written.
    """
    try:
        entries = json.loads((folder / MANIFEST).read_text("utf-8"))
        shards = [Shard(**entry) for entry in entries]
    except (OSError, ValueError, TypeError) as error:
        raise ParcelDamaged(f"{folder} is no parcel: {error}") from None
    for path in {shard.path for shard in shards}:
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return sum(threads.map(lambda shard: _put(shard, folder, root), shards))


def _put(shard: Shard, folder: Path, root: Path) -> int:
    stored = folder / shard.stored
    try:
        content = stored.read_bytes()
    except OSError as error:
        raise ParcelDamaged(f"{stored} is missing: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != shard.sha256:
        raise ParcelDamaged(f"{stored} is not what was packed: its SHA-256 differs")
    data = lzma.decompress(content) if shard.compressed else content
    file = os.open(root / shard.path, os.O_WRONLY)
    try:
        written = 0
        while written < len(data):
            written += os.pwrite(file, data[written:], shard.offset + written)
    finally:
        os.close(file)
    return len(data)
