"""The shape of a translation model, and the `config.json` of its folder. No torch.

The folder `translation/` in a model directory holds `config.json`, `model.safetensors` (what the
translator does not share with the model around it) and, where the tokens are not those of the
model around it, tokenizers of its own.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from encoder.config import EncoderConfig, Layout
from encoder.manifest import ModelDamaged, ModelNotFound

FOLDER = "translation"
CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
SOURCE_TOKENIZER = "source.tokenizer.json"  # absent: the model directory's own tokenizer
TARGET_TOKENIZER = "target.tokenizer.json"  # absent: the source's
FORMAT = 1


@dataclass(frozen=True, slots=True)
class AlignmentHeads:
    """Whose cross-attention says which source token a target token comes from."""

    layer: int = -1  # of the decoder, from 0; -1 is the last
    heads: tuple[int, ...] = ()  # whose mean is taken; empty for all


@dataclass(frozen=True, slots=True, kw_only=True)
class TranslationConfig:
    """Everything that decides the shapes and the arithmetic of a translation model.

    The source is encoded as for embedding ([CLS] text [SEP]); the target is a begin token, the
    text, and `end_id`.

    encoder:       the whole encoder, shared layers and own
    shared_layers: how many of its first layers, and with them the embeddings, are those of the
                   model directory around it; 0 where the whole encoder is the translator's own
    tied_tables:   whether the decoder reads and writes with the encoder's word table
    begin_ids:     by target language, the token with which the decoder begins
    source_ids:    by target language, a token to put before the source (multilingual OPUS-MT)
    pairs:         (source, target) languages it was trained on
    learnt_tokens: the longest text that it was trained on, special tokens included; 0 if nobody
                   knows
    """

    encoder: EncoderConfig
    decoder: EncoderConfig
    shared_layers: int = 0
    tied_tables: bool = False
    begin_ids: Mapping[str, int]
    end_id: int
    source_ids: Mapping[str, int] = field(default_factory=dict)
    pairs: tuple[tuple[str, str], ...]
    alignment: AlignmentHeads = AlignmentHeads()
    learnt_tokens: int = 0

    def __post_init__(self) -> None:
        encoder, decoder = self.encoder, self.decoder
        if decoder.layout is Layout.BERT:
            raise ValueError("a decoder in BERT's layout is missing here")
        if encoder.width != decoder.width:
            raise ValueError(f"the encoder is {encoder.width} wide, the decoder {decoder.width}")
        if not 0 <= self.shared_layers <= encoder.layers:
            raise ValueError(f"shared_layers {self.shared_layers} of {encoder.layers} layers")
        if self.tied_tables and encoder.vocab_size != decoder.vocab_size:
            raise ValueError("tied tables need one vocabulary")
        if not self.pairs:
            raise ValueError("pairs: a translation model has at least one")
        if missing := [target for _, target in self.pairs if target not in self.begin_ids]:
            raise ValueError(f"begin_ids has no token for {missing[0]!r}")
        for index in (self.end_id, *self.begin_ids.values()):
            if not 0 <= index < decoder.vocab_size:
                raise ValueError(f"token {index} is outside the vocabulary of {decoder.vocab_size}")
        self._check_alignment()

    def _check_alignment(self) -> None:
        layer, heads = self.alignment.layer, self.alignment.heads
        if not -self.decoder.layers <= layer < self.decoder.layers:
            raise ValueError(f"alignment layer {layer} of {self.decoder.layers} layers")
        if outside := [head for head in heads if not 0 <= head < self.decoder.heads]:
            raise ValueError(f"alignment head {outside[0]} of {self.decoder.heads} heads")

    def is_shared(self, name: str) -> bool:
        """Whether the model around it owns a weight, by its name inside `translator.Translator`."""
        if self.tied_tables and name == "decoder.embeddings.word.weight":
            return True  # the encoder's, whoever owns that
        if not self.shared_layers or not name.startswith("encoder."):
            return False
        part = name.removeprefix("encoder.")
        if part.startswith("embeddings."):
            return True
        if part.startswith("final_norm."):
            return self.shared_layers == self.encoder.layers
        return int(part.split(".")[1]) < self.shared_layers


def read_translation_config(directory: Path) -> TranslationConfig:
    """Read `config.json` of a `translation/` folder. Raises ModelNotFound, ModelDamaged."""
    file = directory / CONFIG_NAME
    if not file.is_file():
        raise ModelNotFound(f"{directory} has no {CONFIG_NAME}: it holds no translation model")
    try:
        return _from_json(json.loads(file.read_text("utf-8")))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelDamaged(file, f"makes no sense: {error}") from None


def write_translation_config(directory: Path, config: TranslationConfig) -> None:
    """Write `config.json` into a `translation/` folder."""
    content = {"format": FORMAT, **asdict(config)}
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    (directory / CONFIG_NAME).write_text(text, "utf-8")


def _from_json(content: dict[str, Any]) -> TranslationConfig:
    if content.pop("format") != FORMAT:
        raise ValueError(f"its format is not {FORMAT}")
    alignment = content.pop("alignment")
    return TranslationConfig(
        encoder=_shape(content.pop("encoder")),
        decoder=_shape(content.pop("decoder")),
        pairs=tuple((source, target) for source, target in content.pop("pairs")),
        alignment=AlignmentHeads(alignment["layer"], tuple(alignment["heads"])),
        **content,
    )


def _shape(content: dict[str, Any]) -> EncoderConfig:
    return EncoderConfig(**{**content, "local_layers": tuple(content["local_layers"])})
