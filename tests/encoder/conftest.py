"""Models for the encoder's tests: the real one, and small random ones."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from encoder.checkpoint import save_directory
from encoder.config import EncoderConfig, Pooling
from encoder.export import export_directory
from encoder.importing import import_directory
from encoder.model import Encoder, SentenceEncoder
from encoder.sentence import SentenceSettings

os.environ["HF_HUB_OFFLINE"] = "1"  # the judges must not ask the network

VOCABULARY = 30522  # of MiniLM's tokenizer, which the random models borrow

SHAPES = {
    "bert": EncoderConfig(
        model_type="bert", vocab_size=VOCABULARY, width=32, layers=2, heads=4, inner_width=64,
        tokens_max=128, norm_epsilon=1e-12, initializer_range=0.1,
    ),
    "roberta": EncoderConfig(
        model_type="roberta", vocab_size=VOCABULARY, width=32, layers=2, heads=4, inner_width=64,
        tokens_max=128, pad_id=1, token_types=1, initializer_range=0.1,
    ),
    "xlm-roberta": EncoderConfig(
        model_type="xlm-roberta", vocab_size=VOCABULARY, width=32, layers=2, heads=4,
        inner_width=64, tokens_max=128, pad_id=1, token_types=1, initializer_range=0.1,
    ),
    "modernbert": EncoderConfig(
        model_type="modernbert", vocab_size=VOCABULARY, width=32, layers=4, heads=4,
        inner_width=48, tokens_max=128, local_layers=(1, 2), local_window_tokens=8,
        initializer_range=0.1,
    ),
}  # fmt: skip


@pytest.fixture(scope="session")
def sentence_model() -> Callable[..., SentenceEncoder]:
    """Makes a random sentence encoder of a model type."""

    def make(
        model_type: str, *, pooling: Pooling = Pooling.MEAN, projected_width: int = 0
    ) -> SentenceEncoder:
        torch.manual_seed(7)
        config = SHAPES[model_type]
        projection = torch.nn.Linear(config.width, projected_width) if projected_width else None
        return SentenceEncoder(Encoder(config), pooling, projection).eval()

    return make


@pytest.fixture(scope="session")
def saved(
    tmp_path_factory: pytest.TempPathFactory,
    minilm_source: Path,
    sentence_model: Callable[..., SentenceEncoder],
) -> Callable[..., Path]:
    """Saves a random sentence encoder as a Hugging Face directory."""

    def save(model_type: str, **choices: object) -> Path:
        directory = tmp_path_factory.mktemp(model_type) / "model"
        save_directory(
            directory,
            sentence_model(model_type, **choices),
            tokenizer=minilm_source / "tokenizer.json",
            special_tokens={"pad_token": "[PAD]", "mask_token": "[MASK]"},
            settings=SentenceSettings(prompts={"query": "query: "}),
        )
        return directory

    return save


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, saved: Callable[..., Path]) -> Path:
    """A random ModernBERT with a projection, imported and exported in every precision."""
    out = tmp_path_factory.mktemp("tiny") / "model"
    import_directory(saved("modernbert", projected_width=24), out, name="tiny")
    export_directory(out)
    return out


@pytest.fixture(scope="session")
def minilm(model_directory: Path) -> Path:
    """all-MiniLM-L6-v2, imported and exported in every precision."""
    return model_directory
