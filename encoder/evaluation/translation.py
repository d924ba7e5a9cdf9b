"""Translation of Multi30k's test set of 2016: captions of pictures, in every direction we can."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from encoder.evaluation.bleu import TranslationScores, score
from encoder.evaluation.data import DataMalformed, read_lines
from encoder.evaluation.result import Form, Score, TaskResult
from encoder.manifest import Precision
from encoder.tokenizer import Tokenizer, Truncation, Window
from encoder.translation import LENGTH_EXTRA_TOKENS, LENGTH_RATIO_MAX, BeamPlan
from encoder.translation import Translator as Runtime
from encoder.translation_config import FOLDER, TranslationConfig, read_translation_config
from encoder.translation_manifest import tokenizer_paths
from encoder.translator import greedy, load_translator

LANGUAGES = ("en", "de", "fr")
SET = "test_2016_flickr"
BATCH_TEXTS = 32  # of like lengths
PLAN = BeamPlan(beams=4)
SAMPLES = 10  # translations that are kept, chosen by the seed


class Speaker(Protocol):
    """Translates windows of tokens."""

    tokenizer: Tokenizer
    tokens_max: int  # of a source

    def say(self, windows: Sequence[Window], target: str) -> list[str]:
        """A text in the target language for each window."""


class TorchSpeaker:
    """The translator of a model directory in torch fp32, greedy: the plain reference."""

    def __init__(self, directory: Path) -> None:
        """Raises ModelNotFound, ModelDamaged, UnsupportedModel."""
        self._model = load_translator(directory)
        source, target = tokenizer_paths(directory / FOLDER)
        self.tokenizer = Tokenizer(directory / FOLDER / source)
        self._target = Tokenizer(directory / FOLDER / target)
        self.tokens_max = self._model.config.encoder.tokens_max

    def say(self, windows: Sequence[Window], target: str) -> list[str]:
        """As Speaker's."""
        config = self._model.config
        before = [config.source_ids[target]] if target in config.source_ids else []
        rows = [[*before, *window.ids.tolist()] for window in windows]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [config.encoder.pad_id] * (longest - len(row)) for row in rows])
        mask = torch.arange(longest) < torch.tensor([len(row) for row in rows])[:, None]
        begins = [config.begin_ids[target]] * len(rows)
        written = greedy(self._model, ids, mask, begins, tokens_max=_limit(longest))
        return [
            self._target.decode(text.ids[: _limit(len(row))]).strip()
            for text, row in zip(written, rows, strict=True)
        ]


class RuntimeSpeaker:
    """The exported translator, as it is served, with a beam of 4."""

    def __init__(self, directory: Path, precision: Precision) -> None:
        """Raises as `translation.Translator.load`."""
        self._runtime = Runtime.load(directory, precision=precision, threads=0)
        self.tokenizer = self._runtime.tokenizer
        self.tokens_max = self._runtime.tokens_max

    def say(self, windows: Sequence[Window], target: str) -> list[str]:
        """As Speaker's."""
        found = self._runtime.translate(windows, [target] * len(windows), PLAN)
        return [best[0].text for best in found]


def captions(
    directory: Path, data: Path, form: Form, *, limit: int | None, seed: int
) -> TaskResult:
    """BLEU and chrF of every direction between the three languages that the model has.

    Nothing is scored, and a note says so, for a model without a translator. Raises DataMissing,
    DataMalformed, ScorerMissing, and as the model's form is loaded.
    """
    if not (directory / FOLDER).is_dir():
        return TaskResult(notes=["Translation: not scored, the model has no translator"])
    config = read_translation_config(directory / FOLDER)
    texts = read_captions(data, limit)
    speaker = speaker_of(directory, form)
    scores: list[Score] = []
    samples: dict[str, list[dict[str, str]]] = {}
    signatures: dict[str, None] = {}  # an ordered set: chrF's is the same for all
    for source, target in _directions(config):
        said = translate(speaker, texts[source], target)
        found = score(said, texts[target], target)
        scores += _scores(f"{source}-{target}", found)
        signatures |= dict.fromkeys(found.signatures)
        chosen = np.random.default_rng(seed).permutation(len(said))[:SAMPLES]
        samples[f"{source}-{target}"] = [
            {"source": texts[source][i], "translation": said[i], "reference": texts[target][i]}
            for i in chosen.tolist()
        ]
    search = "greedy" if form is Form.TORCH else f"a beam of {PLAN.beams}"
    notes = [f"Translation, {_name(form)}: {search}. " + "; ".join(f"`{s}`" for s in signatures)]
    return TaskResult(scores, notes, {"samples": samples})


def speaker_of(directory: Path, form: Form) -> Speaker:
    """The translator of `directory` in a form."""
    if form is Form.TORCH:
        return TorchSpeaker(directory)
    return RuntimeSpeaker(directory, Precision(form))


def translate(speaker: Speaker, texts: Sequence[str], target: str) -> list[str]:
    """Each text's translation, in order; what is longer than the model reads is cut."""
    windows = [
        tokenized.windows[0]
        for tokenized in speaker.tokenizer.encode(
            texts, tokens_max=speaker.tokens_max, truncation=Truncation.HEAD
        )
    ]
    order = sorted(range(len(windows)), key=lambda i: len(windows[i].ids))
    said = [""] * len(windows)
    for begin in range(0, len(order), BATCH_TEXTS):
        part = order[begin : begin + BATCH_TEXTS]
        for index, text in zip(part, speaker.say([windows[i] for i in part], target), strict=True):
            said[index] = text
    return said


def caption_files(data: Path) -> dict[str, Path]:
    """The test set's files by language."""
    return {
        language: data / "parallel" / "multi30k" / f"{SET}.{language}" for language in LANGUAGES
    }


def read_captions(data: Path, limit: int | None) -> dict[str, list[str]]:
    """The test set's lines by language. Raises DataMissing, DataMalformed."""
    texts = {language: read_lines(file) for language, file in caption_files(data).items()}
    count = len(texts["en"])
    for language, file in caption_files(data).items():
        if len(texts[language]) != count:
            raise DataMalformed(file, len(texts[language]), f"the English file has {count} lines")
    return {language: lines[:limit] for language, lines in texts.items()}


def _directions(config: TranslationConfig) -> list[tuple[str, str]]:
    """With English first; only what the model knows."""
    every = [(a, b) for a in LANGUAGES for b in LANGUAGES if (a, b) in config.pairs]
    return sorted(every, key=lambda pair: ("en" not in pair, pair[0] != "en"))


def _scores(direction: str, found: TranslationScores) -> list[Score]:
    what = f"Multi30k test2016 {direction}"
    key = f"translation.{direction}"
    return [
        Score(f"{key}.bleu", f"{what}, BLEU (13a, cased)", found.bleu),
        Score(f"{key}.chrf", f"{what}, chrF2", found.chrf),
        Score(f"{key}.lowered", f"{what}, BLEU (Moses, lower-cased)", found.lowered),
    ]


def _limit(source_tokens: int) -> int:
    """Of a translation, as in `encoder.translation`."""
    return LENGTH_RATIO_MAX * source_tokens + LENGTH_EXTRA_TOKENS


def _name(form: Form) -> str:
    return "torch fp32" if form is Form.TORCH else f"onnx {form}"
