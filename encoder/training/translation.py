"""A translator in training: its state, and one step of it.

As in pretraining, all that a step does follows from the recipe and the step's number, so a run
that was killed ends with the same bits, on a CPU with the same number of threads.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from torch import Tensor, nn

from encoder.checkpoint import load_head, read_config
from encoder.config import EncoderConfig
from encoder.training.merges import segmenter
from encoder.training.optimizers import Optimizers
from encoder.training.recipe import Optimizer, Recipe, RecipeInvalid, Translation, TranslationStage
from encoder.training.smoothed_loss import Smoothing, smoothed_cross_entropy
from encoder.training.translation_batches import (
    IGNORED,
    IdBatch,
    Marks,
    Plan,
    Sentences,
    TranslationBatches,
    cut_to_size,
    ids_of,
    parts_of,
    place_of,
    readable,
)
from encoder.training.translation_pairs import PairFile, held_out
from encoder.training.vocabulary import BEGIN, END, PAD, token_id
from encoder.translation_config import FOLDER as TRANSLATION_FOLDER
from encoder.translation_config import TranslationConfig
from encoder.translator import Translator, begin_translator, load_translator

AVERAGED_CHECKPOINTS = 10  # whose mean is the result
ROPE_THETA = 10_000.0
SHORT_TOKENS = 256  # up to which attention is faster as plain matrix products, on a CPU
# Of a layer's code: frozen or learning, the first or another, and a few for lengths that are not
# like all others (a batch of one).
COMPILED_GRAPHS_MAX = 32


@dataclass(frozen=True, slots=True)
class TranslationStep:
    """What a step found. Losses in nats per target token."""

    loss: float  # with smoothed labels
    surprise: float  # without
    tokens: int  # of sources and targets, without padding


class TranslationTraining:
    """A translator that begins with the encoder of a model directory, or goes on from the
    directory's own translator."""

    def __init__(
        self,
        recipe: Recipe,
        base: Path,
        files: Sequence[PairFile],
        tokenizer: tokenizers.Tokenizer,
        *,
        device: torch.device,
        precision: torch.dtype = torch.float32,
        compiled: bool = False,
    ) -> None:
        """Raises RecipeInvalid for what the base cannot do, and as `load_sentence_encoder`."""
        self.recipe = recipe
        self.rules = recipe.translation
        self._device = device
        self._precision = precision
        languages = sorted({language for file in files for language in file.languages})
        marks = marks_of(tokenizer, languages)
        config = config_of(self.rules, read_config(base), files, marks)
        torch.manual_seed(recipe.seed)
        self.model = begin_translator(config, base)
        if (base / TRANSLATION_FOLDER).exists():
            self._go_on(base)
        else:
            self._begin_bias(base)
        self.model.to(device)
        if compiled:
            self._compile()
        self._marks = marks
        self._plain = segmenter(tokenizer, 0.0, recipe.seed)
        encode = segmenter(tokenizer, self.rules.merge_dropout, recipe.seed)
        plan = Plan(files, self.rules, recipe.seed)
        for index in range(len(self.rules.stages)):
            plan.shares(index)  # refuses a stage without pairs before anything is trained
        self._batches = TranslationBatches(plan, self.rules, encode, marks, recipe.seed)
        self._held_out = held_out(files)
        self._own = [
            (name, p) for name, p in self.model.named_parameters() if not config.is_shared(name)
        ]
        self._average = [torch.zeros_like(p) for _, p in self._own]
        self._averaged = 0
        self.steps_done = 0
        self._begin_stage(0)

    def _compile(self) -> None:
        """Each layer as one graph, for batches of any shape: what lies between its matrix products
        (norms, rotations, gates, dropout) is then done in few passes over memory."""
        torch._dynamo.config.recompile_limit = COMPILED_GRAPHS_MAX
        for layer in (*self.model.encoder.layers, *self.model.decoder.layers):
            layer.compile(dynamic=True)

    def train(self) -> TranslationStep:
        """Do the next step."""
        place = place_of(self.rules, self.steps_done)
        if place.in_stage == 0:
            self._begin_stage(place.stage_index)
        torch.manual_seed(self.recipe.seed * 1_000_003 + place.number)  # of dropout
        stage = self.rules.stages[place.stage_index]
        batch = self._batches.at(place.number)
        losses = self._gradients(batch)
        trained = [p for _, p in self._own if p.grad is not None]
        torch.nn.utils.clip_grad_norm_(trained, self.rules.clip_norm)
        for optimizers in self._optimizers:
            optimizers.step(rate_share(stage, place.in_stage))
        self.steps_done += 1
        self._update_average()
        count = int((batch.wanted != IGNORED).sum())
        loss, surprise = (losses / count).tolist()
        return TranslationStep(loss, surprise, batch.tokens)

    def _gradients(self, batch: IdBatch) -> Tensor:
        """Leave the step's gradients in the parameters; returns the summed losses (2,)."""
        count = int((batch.wanted != IGNORED).sum())
        total = torch.zeros(2, device=self._device)
        for part in parts_of(batch, self.rules.micro_tokens):
            losses = self._losses(part, self.rules.label_smoothing)
            (losses[0] / count).backward()  # type: ignore[no-untyped-call]  # torch leaves it so
            total += losses.detach()
        return total

    def _losses(self, batch: IdBatch, smoothing: float) -> Tensor:
        source, mask, given, wanted = (
            torch.from_numpy(a).to(self._device, non_blocking=True)
            for a in (batch.source, batch.mask, batch.given, batch.wanted)
        )
        low = self._precision != torch.float32
        short = self._device.type == "cpu" and max(source.shape[1], given.shape[1]) <= SHORT_TOKENS
        decoder = self.model.decoder
        with torch.autocast(self._device.type, self._precision, enabled=low):
            memory = self.model.encoder(source, mask, explain=short).last
            states = decoder(given, memory, mask, explain=short).states
        places = (wanted.flatten() != IGNORED).nonzero().squeeze(1)
        return smoothed_cross_entropy(
            states.flatten(0, 1).index_select(0, places).float(),
            decoder.embeddings.word.weight,
            decoder.bias,
            wanted.flatten().index_select(0, places),
            Smoothing(smoothing, self._precision),
        )

    def _begin_stage(self, index: int) -> None:
        """Freeze what the stage freezes; its optimisers begin without memory."""
        stage = self.rules.stages[index]
        frozen = stage.encoder_share == 0
        for name, parameter in self.model.named_parameters():
            shared = self.model.config.is_shared(name)
            parameter.requires_grad_(not shared and not (frozen and name.startswith("encoder.")))
        self._modes(frozen=frozen)
        learning = [(name, p) for name, p in self._own if p.requires_grad]
        groups = (
            (1.0, [(n, p) for n, p in learning if not n.startswith("encoder.")]),
            (stage.encoder_share, [(n, p) for n, p in learning if n.startswith("encoder.")]),
        )
        many_at_once = self._device.type == "cuda"
        self._optimizers = [
            Optimizers(self._settings(stage, share), named, many_at_once=many_at_once)
            for share, named in groups
            if named
        ]

    def _modes(self, *, frozen: bool) -> None:
        """Dropout in what learns, and nowhere else."""
        config = self.model.config
        self.model.train()
        encoder = self.model.encoder
        if frozen or config.shared_layers:
            encoder.embeddings.eval()
        still = config.encoder.layers if frozen else config.shared_layers
        for layer in encoder.layers[:still]:
            layer.eval()

    def _settings(self, stage: TranslationStage, share: float) -> Optimizer:
        rules = self.rules
        return Optimizer(
            name=rules.optimizer,
            rate=stage.rate * share,
            matrix_rate=stage.matrix_rate * share,
            weight_decay=rules.weight_decay,
        )

    @torch.no_grad()
    def _update_average(self) -> None:
        """The mean of the last stage's last checkpoints, each counted once."""
        steps = self.rules.stages[-1].steps
        last = max(1, round(steps * self.rules.average_share))
        every = max(1, last // AVERAGED_CHECKPOINTS)
        left = self.rules.steps - self.steps_done
        if left < last and left % every == 0:
            self._averaged += 1
            for mean, (_, parameter) in zip(self._average, self._own, strict=True):
                mean.lerp_(parameter, 1 / self._averaged)

    @contextmanager
    def finished(self) -> Iterator[Translator]:
        """The model to be used: averaged weights once there are such, dropout off."""
        own = [p.detach().clone() for _, p in self._own]
        self.model.eval()
        with torch.no_grad():
            if self._averaged:
                for (_, parameter), mean in zip(self._own, self._average, strict=True):
                    parameter.copy_(mean)
            try:
                yield self.model
            finally:
                for (_, parameter), value in zip(self._own, own, strict=True):
                    parameter.copy_(value)
        stage = self.rules.stages[place_of(self.rules, max(0, self.steps_done - 1)).stage_index]
        self._modes(frozen=stage.encoder_share == 0)

    def evaluate(self) -> dict[str, float]:
        """Loss on held-out pairs by direction ("en-de"), in nats per target token."""
        found = {}
        # Few batches, without gradients: they are not worth compiling for.
        with self.finished(), torch.compiler.set_stance("force_eager"):
            for (source, target), pairs in self._held_out.items():
                languages = [target] * len(pairs)
                sentences = Sentences([a for a, _ in pairs], [b for _, b in pairs], languages)
                loss = self._held_out_loss(sentences)
                if loss is not None:
                    found[f"{source}-{target}"] = loss
        return found

    def _held_out_loss(self, sentences: Sentences) -> float | None:
        """Of a target token; None where no pair is short enough to be read."""
        draws = np.random.default_rng(0)
        pairs = ids_of(sentences, self._plain, self._marks, draws)
        pairs = readable(pairs, self.model.config)
        if not pairs.sources:
            return None
        # By length: one long text beside short ones would be nearly all padding.
        every = np.arange(len(pairs.sources), dtype=np.int64)
        total, count = 0.0, 0
        for rows in cut_to_size(every, pairs.lengths, self.rules.micro_tokens, draws):
            batch = pairs.batch(rows.tolist(), self._marks.pad)
            total += float(self._losses(batch, 0.0)[1])
            count += int((batch.wanted != IGNORED).sum())
        return total / count

    def state(self) -> dict[str, Any]:
        """Everything that a checkpoint must hold, beside what it belongs to."""
        return {
            "steps_done": self.steps_done,
            "own": {name: p.detach() for name, p in self._own},
            "average": self._average,
            "averaged": self._averaged,
            "optimizers": [optimizers.state() for optimizers in self._optimizers],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.steps_done = int(state["steps_done"])
        self._begin_stage(place_of(self.rules, max(0, self.steps_done - 1)).stage_index)
        with torch.no_grad():
            for name, parameter in self._own:
                parameter.copy_(state["own"][name])
            for mean, saved in zip(self._average, state["average"], strict=True):
                mean.copy_(saved)
        self._averaged = int(state["averaged"])
        for optimizers, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizers.load(saved)

    def _go_on(self, base: Path) -> None:
        """Take over the weights of the translator that the base has already."""
        try:
            self.model.load_state_dict(load_translator(base).state_dict())
        except RuntimeError:  # torch's, of names and shapes
            raise RecipeInvalid(
                f"the translator in {base} has another shape than the recipe's: go on with its "
                "own layers, widths and own_table, or begin with a model without a translator"
            ) from None

    @torch.no_grad()
    def _begin_bias(self, base: Path) -> None:
        """How frequent each token is, as the masked-LM head learnt it, where there is one."""
        head = load_head(base, self.model.encoder)
        if head is not None:
            self.model.decoder.bias.copy_(head.bias)


def rate_share(stage: TranslationStage, step: int) -> float:
    """Warm-up, plateau, and a straight fall to the stage's last share."""
    progress = (step + 0.5) / stage.steps
    if progress < stage.warm_up_share:
        return progress / stage.warm_up_share
    begin = 1 - stage.decay_share
    if progress <= begin:
        return 1.0
    return 1 + (stage.rate_last - 1) * (progress - begin) / stage.decay_share


def marks_of(tokenizer: tokenizers.Tokenizer, languages: Sequence[str]) -> Marks:
    """The ids around texts. Raises RecipeInvalid for a language without a token `<2xx>`."""
    try:
        named = {language: token_id(tokenizer, f"<2{language}>") for language in languages}
        begin, end, pad = (token_id(tokenizer, token) for token in (BEGIN, END, PAD))
    except ValueError as error:
        raise RecipeInvalid(f"{error}, which a translator needs") from None
    return Marks(begin, end, pad, named)


def config_of(
    rules: Translation, encoder: EncoderConfig, files: Sequence[PairFile], marks: Marks
) -> TranslationConfig:
    """The shape of the translator. Raises RecipeInvalid."""
    if rules.own_layers > encoder.layers:
        raise RecipeInvalid(f"own_layers {rules.own_layers} of an encoder of {encoder.layers}")
    pairs = {file.languages for file in files} | {file.languages[::-1] for file in files}
    decoder = EncoderConfig(
        vocab_size=encoder.vocab_size,
        width=encoder.width,
        layers=rules.layers,
        heads=rules.heads,
        inner_width=rules.inner_width,
        tokens_max=rules.decoder_tokens_max,
        pad_id=encoder.pad_id,
        dropout=rules.dropout,
        rope_theta_global=ROPE_THETA,
    )
    return TranslationConfig(
        encoder=replace(encoder, dropout=rules.dropout),
        decoder=decoder,
        shared_layers=encoder.layers - rules.own_layers,
        tied_tables=not rules.own_table,
        begin_ids=marks.languages,
        end_id=marks.end,
        pairs=tuple(sorted((one, two) for one, two in pairs)),
        learnt_tokens=rules.tokens_max,
    )


def parameters_of(model: nn.Module) -> int:
    """How many numbers are learnt."""
    return sum(p.numel() for p in model.parameters())
