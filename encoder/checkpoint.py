"""Checkpoints in Hugging Face's form: read into our model, written from it. safetensors only."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from encoder.config import EncoderConfig, UnsupportedModel, from_huggingface, to_huggingface
from encoder.manifest import ModelDamaged, ModelNotFound
from encoder.model import Encoder, MaskedLanguageModel, SentenceEncoder
from encoder.names import bare, encoder_names, head_names, is_beside, prefix
from encoder.sentence import (
    SentenceSettings,
    read_sentence_settings,
    write_sentence_settings,
)

WEIGHTS = "model.safetensors"
SHARDS = "model.safetensors.index.json"
PROJECTION_FOLDER = "2_Dense"

Tensors: TypeAlias = dict[str, Tensor]


def read_config(directory: Path) -> EncoderConfig:
    """The shape of the encoder in `directory`. Raises ModelNotFound, UnsupportedModel."""
    file = directory / "config.json"
    if not file.is_file():
        raise ModelNotFound(f"{directory} has no config.json: it is not a Hugging Face directory")
    try:
        return from_huggingface(json.loads(file.read_text("utf-8")))
    except UnsupportedModel:
        raise
    except (ValueError, TypeError, AttributeError) as error:  # not JSON, or numbers that are none
        raise ModelDamaged(file, f"makes no sense: {error}") from None


def load_sentence_encoder(directory: Path) -> SentenceEncoder:
    """The sentence encoder in `directory`, in fp32, ready to answer (dropout off).

    Raises ModelNotFound, ModelDamaged, and UnsupportedModel when a part is missing here.
    """
    config = read_config(directory)
    settings = read_sentence_settings(directory)
    with torch.device("meta"):  # no memory and no random numbers for what is filled next
        encoder = Encoder(config)
    tensors = read_tensors(directory)
    _fill(encoder, _ours(tensors, encoder_names(config)))
    if left := [name for name in tensors if not is_beside(name)]:
        raise UnsupportedModel(f"the checkpoint's weight {left[0]!r} has no place here")
    projection = _read_projection(directory / settings.projection) if settings.projection else None
    return SentenceEncoder(encoder, settings.pooling, projection).eval()


def load_language_model(directory: Path) -> MaskedLanguageModel:
    """The encoder in `directory` with its masked-LM head. Raises UnsupportedModel without one."""
    config = read_config(directory)
    with torch.device("meta"):
        model = MaskedLanguageModel(config)
    tensors = read_tensors(directory)
    _fill(model.encoder, _ours(tensors, encoder_names(config)))
    head = _ours(tensors, head_names(config))
    _fill(model, {f"encoder.{k}": v for k, v in model.encoder.state_dict().items()} | head)
    return model.eval()


def load_head(directory: Path, encoder: Encoder) -> MaskedLanguageModel | None:
    """`encoder`, which came from `directory`, with the masked-LM head of the checkpoint there.

    None if there is no head, or only a part of one.
    """
    names = head_names(encoder.config)
    tensors = read_tensors(directory)
    if any(part not in tensors for parts in names.values() for part in parts):
        return None
    with torch.device("meta"):
        model = MaskedLanguageModel(encoder.config)
    model.encoder = encoder
    table = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    _fill(model, table | _ours(tensors, names))
    return model.eval()


def read_tensors(directory: Path) -> Tensors:
    """Every weight of a checkpoint, whole or in shards, by its bare name, in fp32."""
    tensors: Tensors = {}
    for file in _weight_files(directory):
        try:
            part = load_file(file)
        except (SafetensorError, OSError) as error:
            raise ModelDamaged(file, f"cannot be read: {error}") from None
        tensors |= {
            bare(name): tensor.float() if tensor.is_floating_point() else tensor
            for name, tensor in part.items()
        }
    return tensors


def save_directory(
    directory: Path,
    model: SentenceEncoder,
    *,
    tokenizer: Path,
    language_model: MaskedLanguageModel | None = None,
    special_tokens: Mapping[str, str] | None = None,
    settings: SentenceSettings | None = None,
) -> None:
    """Write a directory that transformers and sentence-transformers load unchanged.

    tokenizer:      the `tokenizer.json` to copy
    language_model: writes its masked-LM head too; its encoder must be the model's own
    special_tokens: `pad_token`, `mask_token` ... to their spelling, for transformers
    settings:       length, prompts and normalisation; pooling and projection are the model's
    Raises FileExistsError if `directory` holds weights: a checkpoint is never overwritten.
    """
    if (directory / WEIGHTS).exists():
        raise FileExistsError(f"{directory} holds a checkpoint; it is never overwritten")
    if language_model is not None and language_model.encoder is not model.encoder:
        raise ValueError("language_model must share the sentence encoder's own encoder")
    directory.mkdir(parents=True, exist_ok=True)
    config = model.encoder.config
    tensors = theirs(model.encoder, encoder_names(config))
    if language_model is not None:
        tensors = {prefix(config) + name: tensor for name, tensor in tensors.items()}
        tensors |= theirs(language_model, head_names(config))
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
    _write(directory / "config.json", to_huggingface(config, masked_lm=language_model is not None))
    _save_sentence(directory, model, settings or SentenceSettings())
    shutil.copyfile(tokenizer, directory / "tokenizer.json")
    _write(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": (settings and settings.tokens_max) or config.tokens_max,
            "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "attention_mask"],
            **(special_tokens or {}),
        },
    )


def halved(tensors: Mapping[str, Tensor]) -> Tensors:
    """The same with every number in fp16: half of the disk, three digits."""
    return {n: t.half() if t.is_floating_point() else t for n, t in tensors.items()}


def halve_file(source: Path, out: Path) -> None:
    """Write the safetensors file `source` to `out` with its numbers in fp16."""
    save_file(halved(load_file(source)), out, metadata={"format": "pt"})


def theirs(module: nn.Module, names: Mapping[str, tuple[str, ...]]) -> Tensors:
    """A module's weights under transformers' names: our stacked ones come apart."""
    state = module.state_dict()
    tensors: Tensors = {}
    for ours, parts in names.items():
        pieces = state[ours].chunk(len(parts))
        tensors |= {
            part: piece.detach().float().cpu().contiguous().clone()
            for part, piece in zip(parts, pieces, strict=True)
        }
    return tensors


def _ours(tensors: Tensors, names: Mapping[str, tuple[str, ...]]) -> Tensors:
    """Take the named weights out of `tensors`, stacking those that are one of ours."""
    found: Tensors = {}
    for ours, parts in names.items():
        if missing := [part for part in parts if part not in tensors]:
            raise UnsupportedModel(f"the checkpoint has no weight {missing[0]!r}")
        found[ours] = torch.cat([tensors.pop(part) for part in parts])
    return found


def _fill(module: nn.Module, tensors: Tensors) -> None:
    for name, value in module.state_dict().items():
        if name in tensors and tensors[name].shape != value.shape:
            raise UnsupportedModel(
                f"weight {name} has shape {tuple(tensors[name].shape)}; "
                f"config.json promises {tuple(value.shape)}"
            )
    module.load_state_dict(tensors, strict=True, assign=True)


def _weight_files(directory: Path) -> list[Path]:
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    if (directory / SHARDS).is_file():
        index = json.loads((directory / SHARDS).read_text("utf-8"))
        files = [directory / Path(name).name for name in sorted(set(index["weight_map"].values()))]
        for file in files:
            if not file.is_file():
                raise ModelDamaged(file, f"is missing; {SHARDS} names it")
        return files
    if pickles := sorted(directory.glob("*.bin")):
        raise UnsupportedModel(
            f"{directory} has its weights in {pickles[0].name} alone, a pickle, which can run "
            f"code; only safetensors are read"
        )
    raise ModelNotFound(f"{directory} has no {WEIGHTS}")


def _read_projection(folder: Path) -> nn.Linear:
    tensors = {name.removeprefix("linear."): t for name, t in read_tensors(folder).items()}
    if "weight" not in tensors:
        raise UnsupportedModel(f"{folder} has no weight 'linear.weight'")
    width_out, width_in = tensors["weight"].shape
    projection = nn.Linear(width_in, width_out, bias="bias" in tensors)
    _fill(projection, tensors)
    return projection


def _save_sentence(directory: Path, model: SentenceEncoder, settings: SentenceSettings) -> None:
    projection = model.projection
    write_sentence_settings(
        directory,
        SentenceSettings(
            pooling=model.pooling,
            normalized=settings.normalized,
            projection=PROJECTION_FOLDER if projection is not None else "",
            tokens_max=settings.tokens_max or model.encoder.config.tokens_max,
            prompts=settings.prompts,
        ),
        width=model.encoder.config.width,
        projected_width=model.width,
        projection_bias=projection is not None and projection.bias is not None,
    )
    if projection is not None:
        state = projection.state_dict()
        tensors = {f"linear.{name}": t.float().cpu().contiguous() for name, t in state.items()}
        save_file(tensors, directory / PROJECTION_FOLDER / WEIGHTS, metadata={"format": "pt"})


def _write(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
