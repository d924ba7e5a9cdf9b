"""The names of an encoder's weights here and in Hugging Face's checkpoints."""

import re
from collections.abc import Mapping
from typing import TypeAlias

from encoder.config import EncoderConfig, Layout

# Ours to theirs. Several of theirs are one of ours, stacked along the first dimension.
Names: TypeAlias = Mapping[str, tuple[str, ...]]

# Weights that a checkpoint may hold beside the encoder's: of other heads, of next-sentence
# prediction, and constants that old versions saved.
_BESIDE = re.compile(
    r"(^|\.)(pooler|cls|lm_head|classifier|qa_outputs|head|decoder)\."
    r"|(position_ids|token_type_ids|inv_freq)$"
)
_PREFIX = re.compile(r"^(bert|roberta|model)\.")


def encoder_names(config: EncoderConfig) -> dict[str, tuple[str, ...]]:
    """Names inside `model.Encoder`, to those in the bare transformers model."""
    bert = config.layout is Layout.BERT
    names = dict(_BERT_EMBEDDINGS if bert else _MODERNBERT_EMBEDDINGS)
    for layer in range(config.layers):
        block = dict(_BERT_LAYER if bert else _MODERNBERT_LAYER)
        if not bert and layer == 0:
            del block["attention_norm.weight"]
        theirs = f"encoder.layer.{layer}." if bert else f"layers.{layer}."
        for ours, parts in block.items():
            names[f"layers.{layer}.{ours}"] = tuple(theirs + part for part in parts)
    return names


def head_names(config: EncoderConfig) -> dict[str, tuple[str, ...]]:
    """Names of the masked-LM head inside `model.MaskedLanguageModel`, to transformers'."""
    return dict(_HEADS[config.model_type])


def prefix(config: EncoderConfig) -> str:
    """What transformers writes before the encoder's names in a model with a head."""
    return {"bert": "bert.", "modernbert": "model."}.get(config.model_type, "roberta.")


def bare(name: str) -> str:
    """A checkpoint's name as the bare transformers model of today has it."""
    name = _PREFIX.sub("", name)
    # Checkpoints converted from TensorFlow have the paper's names.
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
        "LayerNorm.beta", "LayerNorm.bias"
    )


def is_beside(name: str) -> bool:
    """Whether a weight may be left out without changing the encoder."""
    return _BESIDE.search(name) is not None


def _pairs(
    table: Mapping[str, str | tuple[str, ...]], parameters: tuple[str, ...]
) -> dict[str, tuple[str, ...]]:
    return {
        f"{ours}.{parameter}": tuple(
            f"{part}.{parameter}" for part in ((theirs,) if isinstance(theirs, str) else theirs)
        )
        for ours, theirs in table.items()
        for parameter in parameters
    }


_BOTH = ("weight", "bias")
_WEIGHT = ("weight",)

_BERT_EMBEDDINGS = _pairs(
    {
        "embeddings.word": "embeddings.word_embeddings",
        "embeddings.position": "embeddings.position_embeddings",
        "embeddings.token_type": "embeddings.token_type_embeddings",
    },
    _WEIGHT,
) | _pairs({"embeddings.norm": "embeddings.LayerNorm"}, _BOTH)

_BERT_LAYER = _pairs(
    {
        "attention.query_key_value": (
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
        ),
        "attention.output": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "feed_forward.inner": "intermediate.dense",
        "feed_forward.outer": "output.dense",
        "feed_forward_norm": "output.LayerNorm",
    },
    _BOTH,
)

_MODERNBERT_EMBEDDINGS = _pairs(
    {
        "embeddings.word": "embeddings.tok_embeddings",
        "embeddings.norm": "embeddings.norm",
        "final_norm": "final_norm",
    },
    _WEIGHT,
)

_MODERNBERT_LAYER = _pairs(
    {
        "attention.query_key_value": "attn.Wqkv",
        "attention.output": "attn.Wo",
        "attention_norm": "attn_norm",
        "feed_forward.inner": "mlp.Wi",
        "feed_forward.outer": "mlp.Wo",
        "feed_forward_norm": "mlp_norm",
    },
    _WEIGHT,
)

_ROBERTA_HEAD = _pairs({"transform": "lm_head.dense", "norm": "lm_head.layer_norm"}, _BOTH) | {
    "bias": ("lm_head.bias",)
}

_HEADS = {
    "bert": _pairs(
        {
            "transform": "cls.predictions.transform.dense",
            "norm": "cls.predictions.transform.LayerNorm",
        },
        _BOTH,
    )
    | {"bias": ("cls.predictions.bias",)},
    "roberta": _ROBERTA_HEAD,
    "xlm-roberta": _ROBERTA_HEAD,
    "modernbert": _pairs({"transform": "head.dense", "norm": "head.norm"}, _WEIGHT)
    | {"bias": ("decoder.bias",)},
}
