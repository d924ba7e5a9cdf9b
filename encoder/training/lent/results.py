"""What a lent machine gives back: a folder as a few files of limited size, and back again."""

import hashlib
import json
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from encoder.training.lent.parcels import ParcelDamaged

PART_BYTES = 15 * 2**20
PARTS_MAX = 4  # of one result: files and bytes that leave the machine are counted


def give(folder: Path, out: Path, name: str) -> int:
    """Write `folder` into `out` as `<name>.json` and `<name>.<nn>`; returns the count of parts.

    Raises ValueError if it does not fit into PARTS_MAX parts; nothing is then written.
    """
    with tempfile.TemporaryFile() as packed:
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
            archive.add(folder, arcname=name)
        size = packed.tell()
        if size > PART_BYTES * PARTS_MAX:
            raise ValueError(
                f"{folder} has {size / 2**20:.0f} MiB packed; {PARTS_MAX} parts of "
                f"{PART_BYTES / 2**20:.0f} MiB are the most"
            )
        packed.seek(0)
        out.mkdir(parents=True, exist_ok=True)
        parts: list[dict[str, str]] = []
        while data := packed.read(PART_BYTES):
            part = out / f"{name}.{len(parts):02d}"
            part.write_bytes(data)
            parts.append({"file": part.name, "sha256": hashlib.sha256(data).hexdigest()})
    # Last, and whole: a result without it was not given.
    (out / f"{name}.json").write_text(json.dumps(parts, indent=1), "utf-8")
    return len(parts)


def collect(folders: Sequence[Path], out: Path) -> list[Path]:
    """Put together every result whose parts lie in `folders`; returns the results' folders.

    A result that lies there more than once is taken from the last folder. Raises ParcelDamaged
    for a part that is missing or changed, and for folders without any result.
    """
    found = {file.stem: file for folder in folders for file in sorted(folder.glob("*.json"))}
    if not found:
        raise ParcelDamaged(f"no results in {', '.join(map(str, folders))}")
    return [_join(file, out / name) for name, file in found.items()]


def _join(manifest: Path, target: Path) -> Path:
    with tempfile.TemporaryFile() as packed:
        for entry in json.loads(manifest.read_text("utf-8")):
            part = manifest.with_name(entry["file"])
            data = part.read_bytes() if part.exists() else b""
            if hashlib.sha256(data).hexdigest() != entry["sha256"]:
                raise ParcelDamaged(f"{part} is missing or not what was given")
            packed.write(data)
        packed.seek(0)
        shutil.rmtree(target, ignore_errors=True)
        with tarfile.open(fileobj=packed, mode="r:gz") as archive:
            archive.extractall(target.parent, filter="data")
    return target
