"""What `polyseme-server check [--repair] --data DIR` does, while no server runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from index.checking import Finding, Part
from index.collection import Collection
from index.errors import DirectoryInUse, StoreError
from index.repairing import Repair
from index.settings import StoreSettings
from index.store import Store

SOUND, FOUND, CANNOT = 0, 1, 2  # exit statuses

Write = Callable[[str], object]


def check(data: Path, *, repair: bool, write: Write = print) -> int:
    """Verify everything in a data directory, mend it if wanted, and say what was found.

    Returns 0 if all is well or was mended without a loss, 1 if something is wrong or was lost,
    2 if the directory cannot be checked: it is in use, of a later format, or no data directory.
    """
    if not (data / "collections").is_dir():
        complain(f"{data} is no data directory: it has no collections/")
        return CANNOT
    try:
        # A check takes longer than the pause in which a store would begin to build.
        store = Store.open(data, StoreSettings(quiet_s=0))
    except DirectoryInUse as error:
        complain(f"{error}: stop it first")
        return CANNOT
    except StoreError as error:
        complain(str(error))
        return CANNOT
    with store:
        names = sorted({collection.name for collection in store.list()} | store.damaged.keys())
        if not names:
            write(f"{data}: no collections")
        statuses = [_check_one(store, name, repair=repair, write=write) for name in names]
    return max(statuses, default=SOUND)


def _check_one(store: Store, name: str, *, repair: bool, write: Write) -> int:
    verified, problems = _look(store, name)
    write(f"{name}")
    for line in verified:
        write(f"  verified  {line}")
    for problem in problems:
        write(f"  FOUND     {problem}")
    if not problems:
        return SOUND
    if not repair:
        write("  run again with --repair to mend it")
        return FOUND
    return _repair_one(store, name, write)


def _look(store: Store, name: str) -> tuple[list[str], list[str]]:
    """What was verified and what is wrong, in sentences."""
    if name in store.damaged:
        return [], [f"cannot be opened: {store.damaged[name]}"]
    verified, findings = checked(store.collection(name))
    return verified, [said(finding, store.directory) for finding in findings]


def _repair_one(store: Store, name: str, write: Write) -> int:
    try:
        mended = store.repair(name)
    except StoreError as error:
        write(f"  CANNOT    be mended: {error}")
        return FOUND
    for line in told(mended):
        write(f"  repaired  {line}")
    # Segments are rebuilt in the background, and a check that ran before would find none.
    store.collection(name).wait_for_builds()
    _, problems = _look(store, name)
    for problem in problems:
        write(f"  STILL     {problem}")
    return FOUND if problems or mended.lost or mended.lost_writes else SOUND


def checked(collection: Collection) -> tuple[list[str], list[Finding]]:
    """What was verified, in sentences, and what is wrong. Reads every file."""
    findings = collection.check()
    statistics = collection.statistics()
    wrong = {finding.part for finding in findings}
    documents = _count(statistics.documents, "document")
    segments = _count(len(statistics.segments), "segment")
    lines = {
        Part.DATABASE: f"the database's pages, and the checksums of {documents} and their vectors",
        Part.DERIVED: f"the words and filter values of {documents}",
        Part.SEGMENT: f"the files of {segments}, by their SHA-256",
    }
    if Part.DATABASE in wrong:
        wrong.add(Part.DERIVED)  # it was not looked at then
    if not statistics.segments:
        del lines[Part.SEGMENT]
    return [line for part, line in lines.items() if part not in wrong], findings


def is_mended_whole(finding: Finding) -> bool:
    """Whether a repair mends it without losing a document."""
    return finding.part is not Part.DATABASE


def said(finding: Finding, data: Path) -> str:
    return f"{finding.path.relative_to(data)}: {problem_of(finding)}"


def problem_of(finding: Finding) -> str:
    """What is wrong, without the file's name, which stands before it."""
    return finding.problem.removeprefix(f"{finding.path} is damaged: ")


def told(repair: Repair) -> Sequence[str]:
    """What a repair did, in sentences."""
    lines = [f"{_count(repair.kept_documents, 'document')} kept"]
    if repair.salvaged:
        lines.insert(0, "the database was written anew; the damaged files stay beside it")
    if repair.lost:
        lines.append(f"{_count(len(repair.lost), 'document')} lost: {', '.join(repair.lost)}")
    if gone := _lost_writes(repair):
        lines.append(gone)
    return lines


def complain(sentence: str) -> None:
    print(f"polyseme-server check: {sentence}", file=sys.stderr)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number:,} {noun}s"


def _lost_writes(repair: Repair) -> str:
    """Which acknowledged writes are gone; empty if none are."""
    writes = repair.lost_writes
    if not writes:
        return ""
    return f"{_count(len(writes), 'write')} lost: sequence {writes[0]} to {writes[-1]}"
