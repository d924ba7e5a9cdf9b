"""MarianMT directories (the OPUS-MT models) read as translators of ours."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from encoder.checkpoint import read_tensors
from encoder.config import Activation, EncoderConfig, UnsupportedModel
from encoder.manifest import ModelDamaged, ModelNotFound
from encoder.spm import read_pieces, source_tokenizer, target_tokenizer
from encoder.translation_config import (
    FOLDER,
    SOURCE_TOKENIZER,
    TARGET_TOKENIZER,
    TranslationConfig,
)
from encoder.translator import Translator, filled, save_translator

_ACTIVATIONS = {
    "swish": Activation.SILU,
    "silu": Activation.SILU,
    "gelu": Activation.GELU,
    "relu": Activation.RELU,
}
# Options of old configurations, with the only value that Marian's own models have.
_OLD_OPTIONS: Mapping[str, object] = {
    "normalize_before": False,
    "normalize_embedding": False,
    "add_final_layer_norm": False,
    "static_position_embeddings": True,
    "tie_word_embeddings": True,
}
# Ours to theirs, below a layer; several of theirs are one of ours, stacked.
_ATTENTION = {
    "attention.query_key_value": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.output": ("self_attn.out_proj",),
    "attention_norm": ("self_attn_layer_norm",),
}
_CROSS_ATTENTION = {
    "cross_attention.query": ("encoder_attn.q_proj",),
    "cross_attention.key_value": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "cross_attention.output": ("encoder_attn.out_proj",),
    "cross_attention_norm": ("encoder_attn_layer_norm",),
}
_FEED_FORWARD = {
    "feed_forward.inner": ("fc1",),
    "feed_forward.outer": ("fc2",),
    "feed_forward_norm": ("final_layer_norm",),
}


def load_marian(directory: Path, pairs: Sequence[tuple[str, str]]) -> Translator:
    """The model in `directory` (config.json and safetensors), in fp32, ready to answer.

    pairs: the languages that it translates; a model of several target languages is told which by
           a token before the source (`>>fra<<`), which `vocab.json` has
    Raises ModelNotFound, ModelDamaged, UnsupportedModel.
    """
    config = _config(directory, pairs)
    tensors = read_tensors(directory)
    ours: dict[str, Tensor] = {}
    for stack, shape in (("encoder", config.encoder), ("decoder", config.decoder)):
        ours[f"{stack}.embeddings.word.weight"] = _table(tensors, stack, tied=config.tied_tables)
        for layer in range(shape.layers):
            ours |= _layer(tensors, stack, layer)
    ours["decoder.bias"] = tensors["final_logits_bias"].reshape(-1)
    head = tensors.get("lm_head.weight")
    if head is not None and not torch.equal(head, ours["decoder.embeddings.word.weight"]):
        raise UnsupportedModel("an output table apart from the decoder's own is missing here")
    return filled(config, ours)


def import_marian(
    source: Path, out: Path, *, source_languages: Sequence[str], target_languages: Sequence[str]
) -> TranslationConfig:
    """Read the model and the SentencePiece files in `source`; write `out`/translation.

    Text is not passed through Moses' normalisation of punctuation, which some of these models
    were trained behind. Raises as `load_marian`, and FileExistsError.
    """
    pairs = [(a, b) for a in source_languages for b in target_languages if a != b]
    model = load_marian(source, pairs)
    tokenizers = _tokenizers(source, model.config)
    save_translator(out, model)
    for name, tokenizer in zip((SOURCE_TOKENIZER, TARGET_TOKENIZER), tokenizers, strict=True):
        tokenizer.save(str(out / FOLDER / name))
    return model.config


def _config(directory: Path, pairs: Sequence[tuple[str, str]]) -> TranslationConfig:
    file = directory / "config.json"
    if not file.is_file():
        raise ModelNotFound(f"{directory} has no config.json: it is not a Hugging Face directory")
    try:
        content = json.loads(file.read_text("utf-8"))
        return _translation_config(content, pairs, _source_ids(directory, pairs))
    except KeyError as error:
        raise UnsupportedModel(f"{file} has no {error.args[0]!r}") from None
    except UnsupportedModel:
        raise
    except (ValueError, TypeError) as error:
        raise ModelDamaged(file, f"makes no sense: {error}") from None


def _translation_config(
    content: Mapping[str, Any], pairs: Sequence[tuple[str, str]], source_ids: Mapping[str, int]
) -> TranslationConfig:
    if content.get("model_type") != "marian":
        raise UnsupportedModel(f"model type {content.get('model_type')!r} is not marian")
    for option, value in _OLD_OPTIONS.items():
        if content.get(option, value) != value:
            raise UnsupportedModel(f"{option}: {content[option]} is missing here")
    shared = content.get("share_encoder_decoder_embeddings", True)
    target_size = content["vocab_size"] if shared else content["decoder_vocab_size"]
    end = content["eos_token_id"]
    begin = content["decoder_start_token_id"]
    return TranslationConfig(
        encoder=_shape(content, "encoder", content["vocab_size"]),
        decoder=_shape(content, "decoder", target_size),
        tied_tables=shared,
        begin_ids=dict.fromkeys(sorted({target for _, target in pairs}), begin),
        end_id=end[0] if isinstance(end, list) else end,
        source_ids=source_ids,
        pairs=tuple(pairs),
    )


def _shape(content: Mapping[str, Any], stack: str, vocab_size: int) -> EncoderConfig:
    activation = content["activation_function"]
    if activation not in _ACTIVATIONS:
        raise UnsupportedModel(f"the activation {activation!r} is missing here")
    return EncoderConfig(
        model_type="marian",
        vocab_size=vocab_size,
        width=content["d_model"],
        layers=content[f"{stack}_layers"],
        heads=content[f"{stack}_attention_heads"],
        inner_width=content[f"{stack}_ffn_dim"],
        tokens_max=content["max_position_embeddings"],
        pad_id=content["pad_token_id"],
        norm_epsilon=1e-5,
        dropout=content.get("dropout", 0.1),
        activation=_ACTIVATIONS[activation],
        embeddings_scaled=content.get("scale_embedding", False),
    )


def _source_ids(directory: Path, pairs: Sequence[tuple[str, str]]) -> dict[str, int]:
    """The tokens `>>xxx<<` of the pairs' targets, where the vocabulary has such."""
    vocabulary = _vocabulary(directory / "vocab.json")
    if not any(token.startswith(">>") and token.endswith("<<") for token in vocabulary):
        return {}
    targets = sorted({target for _, target in pairs})
    if missing := [target for target in targets if f">>{target}<<" not in vocabulary]:
        raise UnsupportedModel(f"the vocabulary has no token >>{missing[0]}<<")
    return {target: vocabulary[f">>{target}<<"] for target in targets}


def _tokenizers(directory: Path, config: TranslationConfig) -> tuple[Tokenizer, Tokenizer]:
    ids = _vocabulary(directory / "vocab.json")
    target_ids = ids if config.tied_tables else _vocabulary(directory / "target_vocab.json")
    for file, found, size in (
        ("vocab.json", ids, config.encoder.vocab_size),
        ("the target's vocabulary", target_ids, config.decoder.vocab_size),
    ):
        if len(found) > size:
            raise UnsupportedModel(f"{file} has {len(found)} tokens; the model knows {size}")
    source = read_pieces(directory / "source.spm")
    target = read_pieces(directory / "target.spm")
    special = [token for token in ("<unk>", "</s>", "<pad>") if token in target_ids]
    return (
        source_tokenizer(source, ids, unknown="<unk>", end="</s>"),
        target_tokenizer(target, target_ids, special=special),
    )


def _vocabulary(file: Path) -> dict[str, int]:
    if not file.is_file():
        raise ModelNotFound(f"{file} is missing; a MarianMT directory has it")
    try:
        content = json.loads(file.read_text("utf-8"))
        return {str(token): int(index) for token, index in content.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelDamaged(file, f"makes no sense: {error}") from None


def _table(tensors: Mapping[str, Tensor], stack: str, *, tied: bool) -> Tensor:
    names = ("shared.weight",) if tied else ()
    for name in (*names, f"{stack}.embed_tokens.weight", "shared.weight"):
        if name in tensors:
            return tensors[name]
    raise UnsupportedModel(f"the checkpoint has no word table of the {stack}")


def _layer(tensors: Mapping[str, Tensor], stack: str, layer: int) -> dict[str, Tensor]:
    crossing = _CROSS_ATTENTION if stack == "decoder" else {}
    found: dict[str, Tensor] = {}
    for ours, parts in (_ATTENTION | crossing | _FEED_FORWARD).items():
        for kind in ("weight", "bias"):
            theirs = [f"{stack}.layers.{layer}.{part}.{kind}" for part in parts]
            if missing := [name for name in theirs if name not in tensors]:
                raise UnsupportedModel(f"the checkpoint has no weight {missing[0]!r}")
            stacked = torch.cat([tensors[name] for name in theirs])
            found[f"{stack}.layers.{layer}.{ours}.{kind}"] = stacked
    return found
