"""Which attention heads align words best, and how well, on pairs that people have aligned.

A file of such pairs has a line each: languages TAB source TAB target TAB links, as `fr-en` and
`0-0 1-2 3?4`: the numbers of a source and a target word, from 0, with `-` where it is sure and `?`
where it is possible. Words are those of `encoder.words`. Lines that begin with # are remarks.

No gold set is at hand, so SAMPLE is one that we made ourselves: 100 short sentences, en-de, de-en,
en-fr and fr-en, whose links are one person's opinion. Its numbers compare heads and models of
ours; they cannot be held against published ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import regex
import torch

from encoder.alignment import Example, Link, align, choose_heads, error_rate
from encoder.beam import Floats
from encoder.config import UnsupportedModel
from encoder.evaluation.result import Score, TaskResult
from encoder.tokenizer import Tokenizer, Truncation, Window
from encoder.translation_config import (
    FOLDER,
    AlignmentHeads,
    read_translation_config,
    write_translation_config,
)
from encoder.translation_manifest import tokenizer_paths
from encoder.translator import load_translator

SAMPLE = Path(__file__).with_name("aligned.tsv")

_LINK = regex.compile(r"(\d+)([-?])(\d+)")


@dataclass(frozen=True, slots=True)
class AlignedPair:
    """A text, its translation, and which of their words belong together, as people say.

    languages: of the source and of the target
    possible:  takes in what is sure
    """

    languages: tuple[str, str]
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
    lines = enumerate(file.read_text("utf-8").splitlines(), start=1)
    return [_pair(number, line) for number, line in lines if not line.startswith("#")]


def halves(pairs: Sequence[AlignedPair]) -> tuple[list[AlignedPair], list[AlignedPair]]:
    """Those to choose heads by, and those to score them by: they take turns."""
    return list(pairs[::2]), list(pairs[1::2])


def alignment(directory: Path, *, limit: int | None) -> TaskResult:
    """The error rate of the model's heads on the scoring half of SAMPLE, in all and by direction,
    and that of the heads which the choosing half would choose.

    In torch: the translations are given, and the served graphs write their own. Nothing is
    scored, and a note says so, for a model without a translator or without these directions.
    Raises ModelNotFound, ModelDamaged, UnsupportedModel.
    """
    if not (directory / FOLDER).is_dir():
        return TaskResult(notes=["Alignment: not scored, the model has no translator"])
    aligner = Aligner(directory)
    choosing, scoring = (aligner.known(half)[:limit] for half in halves(read_pairs(SAMPLE)))
    if not choosing or not scoring:
        return TaskResult(notes=["Alignment: not scored, the model has none of its directions"])
    best = AlignmentHeads(*choose_heads(aligner.examples(choosing)))
    examples = aligner.examples(scoring)
    by_direction: dict[str, list[Example]] = {}
    for pair, example in zip(scoring, examples, strict=True):
        by_direction.setdefault("-".join(pair.languages), []).append(example)
    own = aligner.heads
    scores = [
        _score("", examples, own),
        *(_score(direction, some, own) for direction, some in by_direction.items()),
        _score("best heads", examples, best),
    ]
    note = (
        f"Alignment: the error rate (AER, lower is better) over {len(scoring)} hand-made pairs, "
        f"torch fp32. The model's heads are {_name(own)}; the best of {len(choosing)} other pairs "
        f"are {_name(best)}, counted from 0."
    )
    return TaskResult(scores, [note])


def choose_alignment(directory: Path, development: Sequence[AlignedPair]) -> AlignmentScore:
    """The layer and heads of the translator in `directory` that align `development` best; they
    are written into its configuration, and count for graphs exported from then on.

    Raises UnsupportedModel if it has none of the directions of `development`.
    """
    aligner = Aligner(directory)
    known = aligner.known(development)
    if not known:
        every = ", ".join(sorted({"-".join(pair.languages) for pair in development}))
        raise UnsupportedModel(f"{directory} translates in none of the directions {every}")
    examples = aligner.examples(known)
    chosen = AlignmentHeads(*choose_heads(examples))
    config = read_translation_config(directory / FOLDER)
    write_translation_config(directory / FOLDER, replace(config, alignment=chosen))
    return AlignmentScore(chosen, error_rate(examples, chosen.layer, chosen.heads), len(examples))


class Aligner:
    """A translator in torch, asked where it looks while it writes a translation that is given."""

    def __init__(self, directory: Path) -> None:
        """Raises ModelNotFound, ModelDamaged, UnsupportedModel."""
        self._model = load_translator(directory)
        source, target = tokenizer_paths(directory / FOLDER)
        self._source = Tokenizer(directory / FOLDER / source)
        self._target = Tokenizer(directory / FOLDER / target)

    @property
    def heads(self) -> AlignmentHeads:
        """The heads that the model says align words."""
        return self._model.config.alignment

    def known(self, pairs: Sequence[AlignedPair]) -> list[AlignedPair]:
        """The pairs in directions that the model translates in."""
        return [pair for pair in pairs if pair.languages in self._model.config.pairs]

    def examples(self, pairs: Sequence[AlignedPair]) -> list[Example]:
        """What each head does with each pair. Raises InputTooLong."""
        return [Example(self._by_word(pair), pair.sure, pair.possible) for pair in pairs]

    @torch.inference_mode()
    def _by_word(self, pair: AlignedPair) -> list[Floats]:
        """Of each layer, each head's weights of words (heads, M, N), when the target is written."""
        config = self._model.config
        language = pair.languages[1]
        read = _window(self._source, pair.source, config.encoder.tokens_max)
        written = _window(self._target, pair.target, config.decoder.tokens_max)
        before = [config.source_ids[language]] if config.source_ids else []
        ids = torch.tensor([[*before, *read.ids.tolist()]])
        text = written.starts >= 0
        target = torch.tensor([[config.begin_ids[language], *written.ids[text].tolist()]])
        memory = self._model.encoder(ids, torch.ones_like(ids)).last
        attentions = self._model.decoder(target, memory, None, explain=True).attentions
        places = list(zip(written.starts[text].tolist(), written.ends[text].tolist(), strict=True))
        layers: list[Floats] = []
        for weights in attentions:
            # Row i is what the model looked at when it wrote token i.
            heads = weights[0, :, :-1, len(before) :].numpy()
            every = [align(pair.source, read, pair.target, places, head).weights for head in heads]
            layers.append(np.stack(every))
        return layers


def _window(tokenizer: Tokenizer, text: str, tokens_max: int) -> Window:
    (found,) = tokenizer.encode([text], tokens_max=tokens_max, truncation=Truncation.ERROR)
    return found.windows[0]


def _score(of: str, examples: Sequence[Example], heads: AlignmentHeads) -> Score:
    key = f"alignment.{of.replace(' ', '_')}" if of else "alignment.all"
    label = f"Word alignment, hand-made pairs{f', {of}' if of else ''}, AER"
    return Score(key, label, 100 * error_rate(examples, heads.layer, heads.heads))


def _name(heads: AlignmentHeads) -> str:
    layer = "the last layer" if heads.layer == -1 else f"layer {heads.layer}"
    return f"{', '.join(map(str, heads.heads)) or 'all'} of {layer}"


def _pair(number: int, line: str) -> AlignedPair:
    try:
        languages, source, target, links = line.split("\t")
        of, into = languages.split("-")
        found = [_LINK.fullmatch(link) for link in links.split()]
        parts = [match.groups() for match in found if match is not None]
        if len(parts) < len(found):
            raise ValueError(links)
    except ValueError:
        raise ValueError(
            f"line {number} is not `fr-en TAB source TAB target TAB 0-0 1?2`: {line[:60]!r}"
        ) from None
    every = {(int(a), int(b)): kind for a, kind, b in parts}
    return AlignedPair(
        (of, into),
        source,
        target,
        frozenset(link for link, kind in every.items() if kind == "-"),
        frozenset(every),
    )
