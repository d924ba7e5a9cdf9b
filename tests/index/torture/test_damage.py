"""Every file with flipped bits and cut ends: a right answer, or an error that says so."""

import os

import pytest

from index.torture import damage
from index.torture.place import temporary_home

pytestmark = pytest.mark.timeout(1800)

# DAMAGE_VARIANTS=20000 pytest -m slow tests/index/torture/test_damage.py
MANY = int(os.environ.get("DAMAGE_VARIANTS", "2000"))


@pytest.mark.parametrize("count", [110, pytest.param(MANY, marks=pytest.mark.slow)])
def test_damage_makes_no_wrong_answer_no_crash_and_no_hang(count):
    verdicts = list(damage.run(count, count))

    assert [str(verdict) for verdict in verdicts if verdict.wrong] == []
    outcomes = {verdict.outcome for verdict in verdicts}
    assert outcomes >= {"right", "refused", "named"}
    silent = [verdict for verdict in verdicts if verdict.silent]
    print(f"{len(silent)} of {count}: answered wrongly until `check` is run")
    # In files of a killed server, whose digest is unknown, or where words and their own documents
    # are damaged at once.
    one_bit = [v for v in silent if "base='closed'" in v.what and "kind='flip'" in v.what]
    assert one_bit == []
    assert len(silent) <= count / 50


def test_every_file_is_among_those_that_are_damaged(tmp_path):
    damage.make_bases(tmp_path)

    files = {name.rpartition("/")[2].rpartition(".")[2] for name in damage.files_of(tmp_path)}

    assert files >= {"LOCK", "FORMAT", "SEAL", "MANIFEST", "SNAPSHOT", "json", "rows", "vectors"}
    assert files >= {"faiss", "sqlite3", "sqlite3-wal"}


def test_a_process_that_dies_is_a_verdict_and_the_next_variant_gets_another(tmp_path):
    damage.make_bases(tmp_path)
    first, second = damage.variants(tmp_path, seed=1, count=2)
    batch = damage.Batch(tmp_path)
    batch.judge(first)

    os.kill(batch.process.pid, 9)
    verdict = batch.judge(first)

    assert "died" in verdict.wrong[0]
    assert batch.judge(second).wrong == []
    batch.end()


# Bugs that might be, and must be found.


def found(files, kinds=("flip",), count=60):
    """What is wrong with the first of these variants with which something is, in this process."""
    with temporary_home() as home:
        damage.make_bases(home)
        truths = damage.truths_of(home)
        for variant in damage.variants(home, 5, count * 20):
            if variant.kind in kinds and any(file in variant.file for file in files):
                verdict = damage.judged(home, variant, truths[variant.base])
                if verdict.wrong or verdict.silent:
                    return str(verdict)
    return ""


@pytest.mark.slow
def test_segments_that_are_not_compared_with_their_digest_are_found_out(monkeypatch):
    monkeypatch.setattr("index.segments.Segments._verify", lambda self, info, suffix: None)

    assert "search" in found([".vectors"])


@pytest.mark.slow
def test_documents_without_a_checksum_are_found_out(monkeypatch):
    monkeypatch.setattr("index.records.Record.crc", lambda record: 0)
    monkeypatch.setattr("index.engine.Engine._compare_with_seal", lambda *_: None)

    assert found(["fruit/documents.sqlite3"])


@pytest.mark.slow
def test_a_store_that_does_not_miss_lost_writes_is_found_out(monkeypatch):
    monkeypatch.setattr("index.engine.check_sequence", lambda *_: None)

    assert "check is content" in found(["sqlite3-wal"])


@pytest.mark.slow
def test_a_store_that_does_not_compare_the_closed_file_is_found_out(monkeypatch):
    monkeypatch.setattr("index.engine.Engine._digest", lambda engine: "")

    assert found(["fruit/documents.sqlite3"], ("flips", "zeros"), count=100)
