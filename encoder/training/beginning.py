"""A model that a pretraining run begins with, in place of random weights and a new tokenizer.

To go on learning, or to learn the texts of a field (Gururangan et al. 2020).
"""

from pathlib import Path

import tokenizers

from encoder.checkpoint import load_language_model, read_config
from encoder.config import Layout
from encoder.model import MaskedLanguageModel
from encoder.training.recipe import RecipeInvalid, Shape
from encoder.training.vocabulary import BEGIN, END, MASK, PAD, token_id

TOKENIZER = "tokenizer.json"
_ALIKE = ("vocab_size", "width", "layers", "heads", "inner_width", "pad_id", "rope_theta_global")


def shape_of(directory: Path) -> Shape:
    """Its shape as a recipe says it. Raises ModelNotFound, UnsupportedModel, RecipeInvalid."""
    config = read_config(directory)
    if config.layout is not Layout.MODERNBERT or config.local_layers:
        raise RecipeInvalid(
            f"{directory} is no model that `pretrain` or `finetune` wrote: it has another layout "
            "than ModernBERT's with global attention in every layer"
        )
    return Shape(
        width=config.width,
        layers=config.layers,
        heads=config.heads,
        inner_width=config.inner_width,
        tokens_max=config.tokens_max,
        rope_theta=config.rope_theta_global,
    )


def tokenizer_of(directory: Path) -> Path:
    """Its tokenizer's file. Raises FileNotFoundError, RecipeInvalid."""
    file = directory / TOKENIZER
    if not file.is_file():
        raise FileNotFoundError(f"{directory} has no {TOKENIZER}")
    tokenizer = tokenizers.Tokenizer.from_file(str(file))
    try:
        for token in (PAD, BEGIN, END, MASK):
            token_id(tokenizer, token)
    except ValueError as error:
        raise RecipeInvalid(f"{directory}: {error}, which pretraining needs") from None
    return file


def begin_with(model: MaskedLanguageModel, directory: Path) -> None:
    """Give `model` the weights in `directory`, its head included.

    Raises ModelNotFound, ModelDamaged, UnsupportedModel without a masked-LM head, and
    RecipeInvalid for another shape.
    """
    shape_of(directory)  # refuses another layout
    wanted, found = model.encoder.config, read_config(directory)
    for name in _ALIKE:
        if getattr(wanted, name) != getattr(found, name):
            raise RecipeInvalid(
                f"weights {directory}: {name} is {getattr(found, name)} there and "
                f"{getattr(wanted, name)} in the recipe"
            )
    model.load_state_dict(load_language_model(directory).state_dict())
