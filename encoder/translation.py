"""A translator in use: windows of source tokens to translations, on onnxruntime, without torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from encoder.beam import BeamPlan, Floats, Hypothesis, search
from encoder.decoding import SessionStepper, Sources, past_names
from encoder.manifest import ModelDamaged, ModelNotFound, Precision, verify_files
from encoder.runtime import Fingerprint, PrecisionMissing, padded
from encoder.session import Device, Session
from encoder.tokenizer import Tokenizer, Window
from encoder.translation_config import FOLDER, TranslationConfig, read_translation_config
from encoder.translation_manifest import (
    TranslationGraph,
    TranslationManifest,
    read_translation_manifest,
    tokenizer_paths,
    translation_graph_path,
    translation_weights_path,
)

__all__ = [
    "BeamPlan",
    "ModelDamaged",
    "ModelNotFound",
    "PairMissing",
    "Translator",
    "Written",
]

# The longest translation, by its source: what is longer has lost its way. Of the training pairs
# of English, German and French, hardly one has twice as many tokens on one side.
LENGTH_RATIO_MAX = 2
LENGTH_EXTRA_TOKENS = 16  # a short source may have a long translation


class PairMissing(ValueError):
    """The model does not translate this language, or not into that one."""


@dataclass(frozen=True, slots=True)
class Written:
    """One translation of a window.

    text:      without what stands around a window; may be empty
    ids:       (tokens,) the target tokens without begin and end
    finished:  False where the longest length cut it
    attention: (tokens, source tokens) how much of each source token each target token comes from;
               None if nobody asked
    """

    text: str
    ids: tuple[int, ...]
    score: float
    log_probability: float
    finished: bool
    attention: Floats | None

    @property
    def tokens(self) -> int:
        """Tokens written, the end included."""
        return len(self.ids) + self.finished


class Translator:
    """A loaded translation model. Thread-safe; the GIL is released while the model runs.

    A window's translation does not depend on its neighbours in a batch.
    """

    def __init__(
        self,
        folder: Path,
        config: TranslationConfig,
        manifest: TranslationManifest,
        *,
        precision: Precision,
        threads: int,
        device: Device,
    ) -> None:
        """Use `Translator.load`, which also checks the files."""
        self.name = manifest.name
        self.pairs = config.pairs
        self.precision = precision
        self.weights_sha256 = manifest.files[translation_weights_path(precision)].sha256
        source, target = tokenizer_paths(folder)
        self.tokenizer = Tokenizer(folder / source)
        self.target_tokenizer = Tokenizer(folder / target)
        # A token in front tells some models which language is wanted.
        self.tokens_max = config.encoder.tokens_max - bool(config.source_ids)
        # What is longer than anything it learnt from, a translator had better read in parts.
        self.fluent_tokens_max = config.learnt_tokens or self.tokens_max
        self._config = config
        self._encode, self._step = (
            Session(
                folder / translation_graph_path(precision, graph),
                threads=threads,
                device=device,
                shapes_recur=False,
            )
            for graph in TranslationGraph
        )

    @classmethod
    def load(
        cls,
        directory: Path,
        *,
        precision: Precision = Precision.INT8,
        threads: int = 1,
        device: Device = "cpu",
    ) -> "Translator":
        """Check the files' SHA-256, then load the translator of a model directory.

        threads: cores for one call; a step is many small products, so that several calls side by
                 side on one core each do more than one call on all of them
        Raises ModelNotFound, ModelDamaged (names the file), PrecisionMissing, DeviceMissing.
        """
        folder = directory / FOLDER
        manifest = read_translation_manifest(folder)
        if precision not in manifest.precisions:
            present = ", ".join(manifest.precisions) or "none"
            raise PrecisionMissing(
                f"{folder} has no {precision} graphs (it has: {present}); write them with: "
                f"polyseme-model export {directory}"
            )
        verify_files(folder, manifest.files)
        config = read_translation_config(folder)
        return cls(folder, config, manifest, precision=precision, threads=threads, device=device)

    @property
    def sources(self) -> tuple[str, ...]:
        """The languages that can be translated."""
        return tuple(sorted({source for source, _ in self.pairs}))

    @property
    def targets(self) -> tuple[str, ...]:
        """The languages that can be translated into."""
        return tuple(sorted({target for _, target in self.pairs}))

    def fingerprint(self) -> Fingerprint:
        """The identity of what is translated by this model in this arithmetic."""
        return Fingerprint(
            model=self.name,
            weights_sha256=self.weights_sha256,
            tokenizer_sha256=self.tokenizer.sha256,
            pooling="",
            prompt="",
            dimensions=0,
            normalized=False,
            numeric_class=str(self.precision),
        )

    def translate(
        self,
        windows: Sequence[Window],
        targets: Sequence[str],
        plan: BeamPlan,
        *,
        attention: bool = False,
        wanted: Callable[[int], bool] = lambda window: True,
    ) -> list[list[Written]]:
        """For each window its best translations, best first, all in one batch.

        targets: the language that each is translated into
        wanted:  asked before each token for each window: when it says no, the window leaves the
                 batch, without translations
        Raises PairMissing for a target that the model does not know, ValueError for a window
        longer than `tokens_max`.
        """
        if unknown := sorted(set(targets) - set(self.targets)):
            known = ", ".join(self.targets)
            raise PairMissing(f"{self.name} does not translate into {unknown[0]!r}, but {known}")
        if not windows:
            return []
        found = search(
            SessionStepper(
                self._step,
                self._read(windows, targets),
                choices=2 * plan.beams,
                attention=attention,
            ),
            [self._config.begin_ids[target] for target in targets],
            end_id=self._config.end_id,
            tokens_max=[self._longest(len(window.ids)) for window in windows],
            plan=plan,
            wanted=wanted,
        )
        return [
            [self._written(hypothesis, len(window.ids)) for hypothesis in of_window]
            for window, of_window in zip(windows, found, strict=True)
        ]

    def _read(self, windows: Sequence[Window], targets: Sequence[str]) -> Sources:
        longest = max(len(window.ids) for window in windows)
        if longest > self.tokens_max:
            raise ValueError(f"a window has {longest} tokens; this model reads {self.tokens_max}")
        inputs = padded(windows, self._config.encoder.pad_id)
        if self._config.source_ids:
            column = np.array([[self._config.source_ids[target]] for target in targets])
            inputs["ids"] = np.concatenate([column, inputs["ids"]], axis=1)
            inputs["mask"] = np.concatenate([np.ones_like(column), inputs["mask"]], axis=1)
        names = past_names("source", range(self._config.decoder.layers))
        return Sources.of(self._encode.run(inputs, names), inputs["mask"])

    def _longest(self, source_tokens: int) -> int:
        longest = LENGTH_RATIO_MAX * source_tokens + LENGTH_EXTRA_TOKENS
        return min(longest, self._config.decoder.tokens_max)

    def _written(self, hypothesis: Hypothesis, source_tokens: int) -> Written:
        looked = hypothesis.attention
        if looked is not None:
            before = 1 if self._config.source_ids else 0
            looked = looked[: len(hypothesis.tokens), before : before + source_tokens]
        return Written(
            text=self.target_tokenizer.decode(hypothesis.tokens).strip(),
            ids=hypothesis.tokens,
            score=hypothesis.score,
            log_probability=hypothesis.log_probability,
            finished=hypothesis.finished,
            attention=looked,
        )
