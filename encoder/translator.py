"""The translator in torch: an encoder, a decoder, and the folder that they are kept in."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from encoder.checkpoint import halved, load_sentence_encoder
from encoder.config import UnsupportedModel
from encoder.decoder import Decoder
from encoder.manifest import ModelDamaged, ModelNotFound
from encoder.model import Encoder
from encoder.translation_config import (
    FOLDER,
    WEIGHTS_NAME,
    TranslationConfig,
    read_translation_config,
    write_translation_config,
)


class Translator(nn.Module):
    """An encoder for the source and a decoder for the target."""

    def __init__(self, config: TranslationConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder)
        self.decoder = Decoder(config.decoder)
        if config.tied_tables:
            self.decoder.embeddings.word = self.encoder.embeddings.word

    def forward(self, source: Tensor, mask: Tensor, target: Tensor) -> Tensor:
        """Logits (B, U, V) of the token after each of the target's.

        source: (B, T) ids; mask: (B, T), true where there is a token
        target: (B, U) ids, beginning with the language's token
        """
        memory = self.encoder(source, mask).last
        return self.decoder.logits(self.decoder(target, memory, mask).states)


@dataclass(frozen=True, slots=True)
class Written:
    """One greedy translation, without its begin and end tokens."""

    ids: list[int]
    log_probability: float  # of all its tokens, the end token among them
    finished: bool  # False where the length limit cut it


@torch.inference_mode()
def greedy(
    model: Translator,
    source: Tensor,
    mask: Tensor,
    begin_ids: Sequence[int],
    *,
    tokens_max: int,
) -> list[Written]:
    """Write each source's translation, the likeliest token first, one at a time.

    begin_ids:  of each text, the token of its target language
    tokens_max: of a translation, its end token counted
    The padding token is never written. Finished texts stay in the batch: this is the plain
    reference that faster decoders are compared with.
    """
    config = model.config
    keys_values = model.decoder.keys_values(model.encoder(source, mask).last)
    last = torch.tensor(begin_ids, device=source.device)[:, None]
    past: Sequence[tuple[Tensor, Tensor]] = ()
    written: list[Tensor] = []
    total = torch.zeros(len(begin_ids), device=source.device)
    done = torch.zeros(len(begin_ids), dtype=torch.bool, device=source.device)
    for _ in range(min(tokens_max, config.decoder.tokens_max)):
        decoded = model.decoder.step(last, keys_values, mask, past)
        logits = model.decoder.logits(decoded.states[:, -1]).float()
        logits[:, config.decoder.pad_id] = -torch.inf
        best, token = logits.log_softmax(dim=-1).max(dim=-1)
        total += best.masked_fill(done, 0.0)
        written.append(token.masked_fill(done, config.end_id))
        done = done | (token == config.end_id)
        if bool(done.all()):
            break
        past, last = decoded.past, token[:, None]
    rows = torch.stack(written, dim=1).tolist()
    return [
        Written(row[: row.index(config.end_id)] if ended else row, score, ended)
        for row, score, ended in zip(rows, total.tolist(), done.tolist(), strict=True)
    ]


def load_translator(directory: Path) -> Translator:
    """The translator in `directory`/translation, in fp32, ready to answer (dropout off).

    What it shares with the sentence encoder in `directory` is copied from there. Raises
    ModelNotFound, ModelDamaged, UnsupportedModel.
    """
    folder = directory / FOLDER
    config = read_translation_config(folder)
    file = folder / WEIGHTS_NAME
    if not file.is_file():
        raise ModelNotFound(f"{folder} has no {WEIGHTS_NAME}")
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ModelDamaged(file, f"cannot be read: {error}") from None
    if config.shared_layers:
        shared = load_sentence_encoder(directory).encoder.state_dict()
        for name, value in shared.items():
            if config.is_shared(f"encoder.{name}"):
                tensors[f"encoder.{name}"] = value
    if config.tied_tables:
        tensors["decoder.embeddings.word.weight"] = tensors["encoder.embeddings.word.weight"]
    return filled(config, tensors)


def begin_translator(config: TranslationConfig, directory: Path) -> Translator:
    """A translator whose encoder is that of the model in `directory`, with a decoder to train.

    The decoder's word table begins as a copy of the encoder's, where they are not one.
    """
    model = Translator(config)
    source = load_sentence_encoder(directory).encoder
    model.encoder.load_state_dict(copy.deepcopy(source.state_dict()))
    if config.encoder.vocab_size == config.decoder.vocab_size:
        with torch.no_grad():
            model.decoder.embeddings.word.weight.copy_(model.encoder.embeddings.word.weight)
    return model


def save_translator(directory: Path, model: Translator, *, half: bool = False) -> None:
    """Write `directory`/translation with what the model around it does not have.

    half: in fp16; it is computed with in fp32 all the same
    Raises FileExistsError if there is a translator: a model is never overwritten.
    """
    folder = directory / FOLDER
    if (folder / WEIGHTS_NAME).exists():
        raise FileExistsError(f"{folder} holds a translator; it is never overwritten")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: value.detach().float().cpu().contiguous().clone()
        for name, value in model.state_dict().items()
        if not model.config.is_shared(name)
    }
    save_file(
        halved(tensors) if half else tensors, folder / WEIGHTS_NAME, metadata={"format": "pt"}
    )
    write_translation_config(folder, model.config)


def filled(config: TranslationConfig, tensors: dict[str, Tensor]) -> Translator:
    """A translator of these weights, in fp32, dropout off. Raises UnsupportedModel."""
    with torch.device("meta"):  # no memory and no random numbers for what is filled next
        model = Translator(config)
    for name, value in model.state_dict().items():
        if name in tensors and tensors[name].shape != value.shape:
            raise UnsupportedModel(
                f"weight {name} has shape {tuple(tensors[name].shape)}; "
                f"config.json promises {tuple(value.shape)}"
            )
    if missing := [name for name in model.state_dict() if name not in tensors]:
        raise UnsupportedModel(f"the translator has no weight {missing[0]!r}")
    model.load_state_dict({k: v.float() for k, v in tensors.items()}, strict=True, assign=True)
    return model.eval()
