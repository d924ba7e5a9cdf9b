"""The shape of an encoder, and its translation from and to Hugging Face's `config.json`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, TypeAlias

Json: TypeAlias = Mapping[str, Any]


class UnsupportedModel(ValueError):
    """A checkpoint needs something that this encoder does not have; the message says what."""


class Layout(StrEnum):
    """The families of encoder that `model.py` builds; `decoder.py` builds the last two."""

    BERT = "bert"  # post-norm, learned positions, GELU, biases (Devlin et al. 2018)
    MODERNBERT = "modernbert"  # pre-norm, RoPE, GeGLU, no biases (Warner et al. 2024)
    # Post-norm, sinusoidal positions, biases (Vaswani et al. 2017, as Junczys-Dowmunt et al. 2018
    # have it): of translation models alone.
    MARIAN = "marian"


class Activation(StrEnum):
    """What is between the two layers of a feed-forward without a gate."""

    GELU = "gelu"
    SILU = "silu"  # also called swish
    RELU = "relu"


class Pooling(StrEnum):
    """How the states of a text's tokens become one vector."""

    MEAN = "mean"
    CLS = "cls"
    MAX = "max"


# Hugging Face's `model_type` for each layout; the RoBERTa types differ from BERT in where
# positions start and in the names of the masked-LM head.
MODEL_TYPES = {
    "bert": Layout.BERT,
    "roberta": Layout.BERT,
    "xlm-roberta": Layout.BERT,
    "modernbert": Layout.MODERNBERT,
}
_LAYOUTS = MODEL_TYPES | {"marian": Layout.MARIAN}  # read by `marian.py`, not as a text encoder


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """Everything that decides the shapes and the arithmetic of an encoder, or of a decoder.

    Raises ValueError, with the numbers in it, for a combination that cannot be built.
    """

    model_type: str = "modernbert"
    vocab_size: int
    width: int = 384  # of a token's state
    layers: int = 6
    heads: int = 6
    inner_width: int = 768  # of the feed-forward layer; of each half of a GeGLU
    tokens_max: int = 512  # the longest input, special tokens included
    pad_id: int = 0
    norm_epsilon: float = 1e-5
    dropout: float = 0.0  # in training only
    initializer_range: float = 0.02

    # BERT alone
    token_types: int = 2

    # Marian alone
    activation: Activation = Activation.GELU
    embeddings_scaled: bool = False  # by the square root of the width

    # ModernBERT alone
    local_layers: tuple[int, ...] = ()  # layers whose tokens see only their neighbourhood
    local_window_tokens: int = 128  # the neighbourhood: half before the token, half after it
    rope_theta_global: float = 160_000.0
    rope_theta_local: float = 10_000.0

    def __post_init__(self) -> None:
        if self.model_type not in _LAYOUTS:
            raise UnsupportedModel(
                f"model type {self.model_type!r} is not supported; {', '.join(_LAYOUTS)} are"
            )
        for name in ("vocab_size", "width", "layers", "heads", "inner_width", "tokens_max"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}")
        if not 0 <= self.pad_id < self.vocab_size:
            raise ValueError(f"pad_id {self.pad_id} is outside the vocabulary of {self.vocab_size}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout} is not in [0, 1)")
        self._check_layout()

    def _check_layout(self) -> None:
        if self.layout is not Layout.MODERNBERT:
            if self.token_types < 1:
                raise ValueError(f"token_types is {self.token_types}; it must be at least 1")
            if self.local_layers:
                raise ValueError("local_layers: only the ModernBERT layout has local attention")
            return
        if self.head_width % 2:
            raise ValueError(f"RoPE turns pairs, and a head's width {self.head_width} is odd")
        if outside := [i for i in self.local_layers if not 0 <= i < self.layers]:
            raise ValueError(f"local_layers names {outside[0]}; there are {self.layers} layers")
        if self.local_window_tokens < 2:
            raise ValueError(f"local_window_tokens {self.local_window_tokens} is below 2")

    @property
    def layout(self) -> Layout:
        """BERT, ModernBERT or Marian."""
        return _LAYOUTS[self.model_type]

    @property
    def biased(self) -> bool:
        """Whether linear layers and norms add a bias."""
        return self.layout is not Layout.MODERNBERT

    @property
    def post_norm(self) -> bool:
        """Whether a norm follows each residual sum, in place of leading each sub-layer."""
        return self.layout is not Layout.MODERNBERT

    @property
    def head_width(self) -> int:
        """Values of one attention head."""
        return self.width // self.heads

    @property
    def position_offset(self) -> int:
        """The row of the position table that the first token reads.

        RoBERTa counts from the padding id + 1, an inheritance from fairseq.
        """
        return self.pad_id + 1 if self.model_type in ("roberta", "xlm-roberta") else 0

    @property
    def local_reach_tokens(self) -> int:
        """How far a token of a local layer sees on each side, itself not counted."""
        return self.local_window_tokens // 2


def from_huggingface(config: Json) -> EncoderConfig:
    """Read a `config.json`. Raises UnsupportedModel with a sentence that says what is missing."""
    model_type = config.get("model_type")
    if model_type == "marian":
        raise UnsupportedModel(
            "model type 'marian' is a translation model; import it with: "
            "polyseme-model import-translation"
        )
    if model_type not in MODEL_TYPES:
        raise UnsupportedModel(
            f"model type {model_type!r} is not supported; {', '.join(MODEL_TYPES)} are"
        )
    if not config.get("tie_word_embeddings", True):
        raise UnsupportedModel(
            "an output table apart from the input's is missing here: tie_word_embeddings is false"
        )
    try:
        if MODEL_TYPES[model_type] is Layout.BERT:
            return _bert(config)
        return _modernbert(config)
    except KeyError as error:
        raise UnsupportedModel(f"config.json has no {error.args[0]!r}") from None


def _bert(config: Json) -> EncoderConfig:
    _require(config, "position_embedding_type", "absolute", "relative position embeddings")
    _require(config, "hidden_act", "gelu", "this activation of the feed-forward layer")
    _require(config, "is_decoder", False, "a decoder")
    _require(config, "add_cross_attention", False, "cross attention")
    if config.get("embedding_size", config["hidden_size"]) != config["hidden_size"]:
        raise UnsupportedModel("embeddings of another width than the layers' are missing here")
    pad_id = config.get("pad_token_id")
    shape = EncoderConfig(
        model_type=config["model_type"],
        vocab_size=config["vocab_size"],
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        inner_width=config["intermediate_size"],
        tokens_max=config["max_position_embeddings"],
        pad_id=(0 if config["model_type"] == "bert" else 1) if pad_id is None else pad_id,
        norm_epsilon=config.get("layer_norm_eps", 1e-12),
        dropout=config.get("hidden_dropout_prob", 0.1),
        initializer_range=config.get("initializer_range", 0.02),
        token_types=config.get("type_vocab_size", 2),
    )
    # A position table of 514 rows with an offset of 2 reads 512 tokens.
    return replace(shape, tokens_max=shape.tokens_max - shape.position_offset)


def _modernbert(config: Json) -> EncoderConfig:
    for option in ("attention_bias", "mlp_bias", "norm_bias", "classifier_bias"):
        _require(config, option, False, "a bias in ModernBERT's layers")
    _require(config, "hidden_activation", "gelu", "this activation of the feed-forward layer")
    _require(config, "classifier_activation", "gelu", "this activation of the head")
    _require(config, "decoder_bias", True, "an output layer without a bias")
    layers = config["num_hidden_layers"]
    every = config.get("global_attn_every_n_layers", 3)
    kinds = config.get("layer_types") or [
        "sliding_attention" if layer % every else "full_attention" for layer in range(layers)
    ]
    if unknown := set(kinds) - {"sliding_attention", "full_attention"}:
        raise UnsupportedModel(f"attention of type {', '.join(sorted(unknown))} is missing here")
    return EncoderConfig(
        model_type="modernbert",
        vocab_size=config["vocab_size"],
        width=config["hidden_size"],
        layers=layers,
        heads=config["num_attention_heads"],
        inner_width=config["intermediate_size"],
        tokens_max=config["max_position_embeddings"],
        pad_id=config["pad_token_id"],
        norm_epsilon=config.get("norm_eps", 1e-5),
        dropout=config.get("mlp_dropout", 0.0),
        initializer_range=config.get("initializer_range", 0.02),
        local_layers=tuple(i for i, kind in enumerate(kinds) if kind == "sliding_attention"),
        local_window_tokens=config.get("local_attention", 128),
        rope_theta_global=_theta(config, "full_attention", "global_rope_theta", 160_000.0),
        rope_theta_local=_theta(config, "sliding_attention", "local_rope_theta", 10_000.0),
    )


def to_huggingface(config: EncoderConfig, *, masked_lm: bool) -> dict[str, Any]:
    """The `config.json` with which transformers builds the same encoder."""
    common = {
        "model_type": config.model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.inner_width,
        "pad_token_id": config.pad_id,
        "initializer_range": config.initializer_range,
        "tie_word_embeddings": True,
        "dtype": "float32",
    }
    if config.layout is Layout.BERT:
        family = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta"}
        own = _bert_options(config)
        name = family[config.model_type]
    else:
        own = _modernbert_options(config)
        name = "ModernBert"
    architecture = name + ("ForMaskedLM" if masked_lm else "Model")
    return {"architectures": [architecture], **common, **own}


def _bert_options(config: EncoderConfig) -> dict[str, Any]:
    return {
        "hidden_act": "gelu",
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.dropout,
        "max_position_embeddings": config.tokens_max + config.position_offset,
        "type_vocab_size": config.token_types,
        "layer_norm_eps": config.norm_epsilon,
    }


def _modernbert_options(config: EncoderConfig) -> dict[str, Any]:
    thetas = {
        "full_attention": config.rope_theta_global,
        "sliding_attention": config.rope_theta_local,
    }
    return {
        "hidden_activation": "gelu",
        "max_position_embeddings": config.tokens_max,
        "norm_eps": config.norm_epsilon,
        "norm_bias": False,
        "attention_bias": False,
        "mlp_bias": False,
        "mlp_dropout": config.dropout,
        "embedding_dropout": config.dropout,
        "local_attention": config.local_window_tokens,
        "layer_types": [
            "sliding_attention" if layer in config.local_layers else "full_attention"
            for layer in range(config.layers)
        ],
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in thetas.items()
        },
        # The defaults are rows of the original vocabulary, which a smaller one does not have.
        **dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), None),
    }


def _theta(config: Json, kind: str, old_name: str, default: float) -> float:
    """RoPE's base, where transformers 5 writes it or where transformers 4 did."""
    parameters = (config.get("rope_parameters") or {}).get(kind) or {}
    scaling = parameters.get("rope_type", "default")
    if scaling != "default" or config.get("rope_scaling"):
        raise UnsupportedModel(f"RoPE scaling is missing here: rope_type is {scaling!r}")
    return float(parameters.get("rope_theta") or config.get(old_name) or default)


def _require(config: Json, option: str, supported: object, missing: str) -> None:
    value = config.get(option, supported)
    if value != supported:
        raise UnsupportedModel(f"{missing} is missing here: {option} is {value!r}")
