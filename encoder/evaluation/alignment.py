"""Which attention heads align words best, and how well, on pairs that people have aligned.

A file of such pairs has a line each: source TAB target TAB pairs, as `0-0 1-2 3?4`: the numbers of
a source and a target word, from 0, with `-` where it is sure and `?` where it is possible. Words
are those of `encoder.words`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import regex
import torch

from encoder.alignment import Example, Link, align, choose_heads, links_of
from encoder.beam import Floats
from encoder.tokenizer import Tokenizer, Truncation, Window
from encoder.translation_config import (
    FOLDER,
    AlignmentHeads,
    read_translation_config,
    write_translation_config,
)
from encoder.translation_manifest import tokenizer_paths
from encoder.translator import Translator, load_translator

_LINK = regex.compile(r"(\d+)([-?])(\d+)")


@dataclass(frozen=True, slots=True)
class AlignedPair:
    """A text, its translation, and which of their words belong together, as people say."""

    source: str
    target: str
    sure: frozenset[Link]
    possible: frozenset[Link]


@dataclass(frozen=True, slots=True)
class AlignmentScore:
    """heads: whose mean is taken; error_rate: AER (Och and Ney 2003), 0 is perfect"""

    heads: AlignmentHeads
    error_rate: float
    pairs: int


def read_pairs(file: Path) -> list[AlignedPair]:
    """Raises ValueError, naming the line, for one that is not as the module says."""
    return [_pair(number, line) for number, line in enumerate(file.read_text("utf-8").splitlines())]


def choose_alignment(
    directory: Path, development: Sequence[AlignedPair], language: str
) -> AlignmentScore:
    """The layer and heads of the translator in `directory` that align `development` best; they
    are written into its configuration, and count for graphs exported from then on.

    language: that the targets are in
    """
    model = load_translator(directory)
    examples = _examples(directory, model, development, language)
    layer, heads = choose_heads(examples)
    chosen = AlignmentHeads(layer, heads)
    config = read_translation_config(directory / FOLDER)
    write_translation_config(directory / FOLDER, replace(config, alignment=chosen))
    return AlignmentScore(chosen, _error_rate(examples, chosen), len(examples))


def score_alignment(
    directory: Path, held_out: Sequence[AlignedPair], language: str
) -> AlignmentScore:
    """How well the chosen heads align pairs that they were not chosen by."""
    model = load_translator(directory)
    examples = _examples(directory, model, held_out, language)
    chosen = model.config.alignment
    return AlignmentScore(chosen, _error_rate(examples, chosen), len(examples))


def _examples(
    directory: Path, model: Translator, pairs: Sequence[AlignedPair], language: str
) -> list[Example]:
    folder = directory / FOLDER
    source, target = (Tokenizer(folder / path) for path in tokenizer_paths(folder))
    found = []
    for pair in pairs:
        windows = [
            tokenizer.encode([text], tokens_max=tokens_max, truncation=Truncation.ERROR)[0]
            for tokenizer, text, tokens_max in (
                (source, pair.source, model.config.encoder.tokens_max),
                (target, pair.target, model.config.decoder.tokens_max),
            )
        ]
        read, written = (one.windows[0] for one in windows)
        attention = _by_word(model, pair, read, written, language)
        found.append(Example(attention, pair.sure, pair.possible))
    return found


@torch.inference_mode()
def _by_word(
    model: Translator, pair: AlignedPair, read: Window, written: Window, language: str
) -> list[Floats]:
    """Of each layer, each head's weights of words (heads, M, N), when `pair.target` is written."""
    config = model.config
    before = [config.source_ids[language]] if config.source_ids else []
    ids = torch.tensor([[*before, *read.ids.tolist()]])
    text = written.starts >= 0
    target = torch.tensor([[config.begin_ids[language], *written.ids[text].tolist()]])
    memory = model.encoder(ids, torch.ones_like(ids)).last
    attentions = model.decoder(target, memory, None, explain=True).attentions
    places = list(zip(written.starts[text].tolist(), written.ends[text].tolist(), strict=True))
    layers = []
    for weights in attentions:
        # Row i is what the model looked at when it wrote token i.
        heads = weights[0, :, :-1, len(before) :].numpy()
        every = [align(pair.source, read, pair.target, places, head).weights for head in heads]
        layers.append(torch.stack([torch.from_numpy(one) for one in every]).numpy())
    return layers


def _error_rate(examples: Sequence[Example], chosen: AlignmentHeads) -> float:
    right, asked = 0, 0
    for example in examples:
        weights = example.attention[chosen.layer]
        heads = list(chosen.heads) or list(range(len(weights)))
        found = set(links_of(weights[heads].mean(axis=0)))
        right += len(found & example.sure) + len(found & (example.possible | example.sure))
        asked += len(found) + len(example.sure)
    return 1 - right / asked if asked else 0.0


def _pair(number: int, line: str) -> AlignedPair:
    try:
        source, target, links = line.split("\t")
        found = [_LINK.fullmatch(link) for link in links.split()]
        parts = [match.groups() for match in found if match is not None]
        if len(parts) < len(found):
            raise ValueError(links)
    except ValueError:
        raise ValueError(
            f"line {number + 1} is not `source TAB target TAB 0-0 1?2`: {line[:60]!r}"
        ) from None
    every = {(int(a), int(b)): kind for a, kind, b in parts}
    return AlignedPair(
        source,
        target,
        frozenset(link for link, kind in every.items() if kind == "-"),
        frozenset(every),
    )
