"""Sentence vectors, learnt from a teacher's and from pairs of texts that belong together.

Four ideas in one loss: a text's vector is the teacher's (Hinton et al. 2015); a translation's
vector is that of its English (Reimers and Gurevych 2020); a text is nearer to its partner than
to the others of the batch (van den Oord et al. 2018); all of it holds for the first 256, 128 and
64 values too (Kusupati et al. 2022).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoder.checkpoint import load_language_model, load_sentence_encoder, save_directory
from encoder.config import Pooling
from encoder.model import SentenceEncoder
from encoder.training.optimizers import Optimizers
from encoder.training.recipe import Optimizer, Recipe, Sentences
from encoder.training.sentence_pairs import Kind, PairBatch, PairBatches
from encoder.training.vocabulary import SPECIAL_TOKENS

EVALUATION_PAIRS_MAX = 500  # of each kind
TEXTS_AT_ONCE = 128  # of an evaluation


@dataclass(frozen=True, slots=True)
class SentenceScores:
    """On held-out pairs of one kind.

    cosine: the mean of vector times teacher's vector, over second texts
    found:  the share of second texts that find their first as the nearest of all, in percent
    """

    cosine: float
    found: float


class TextReader:
    """Texts to padded ids and their mask, both (texts, tokens)."""

    def __init__(self, file: Path, tokens_max: int, pad_id: int) -> None:
        self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
        self._tokenizer.enable_truncation(tokens_max)
        self._tokenizer.enable_padding(pad_id=pad_id)

    def read(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        encodings = self._tokenizer.encode_batch_fast(list(texts))
        ids = np.array([encoding.ids for encoding in encodings], dtype=np.int64)
        mask = np.array([encoding.attention_mask for encoding in encodings], dtype=np.bool_)
        return torch.from_numpy(ids), torch.from_numpy(mask)


class Teacher:
    """A sentence encoder that is read and never trained."""

    def __init__(self, directory: Path, tokens_max: int, device: torch.device) -> None:
        self._model = load_sentence_encoder(directory).to(device)
        pad_id = self._model.encoder.config.pad_id
        self._reader = TextReader(directory / "tokenizer.json", tokens_max, pad_id)
        self._device = device

    @property
    def width(self) -> int:
        """The length of its vectors."""
        return self._model.width

    @torch.no_grad()
    def vectors(self, texts: Sequence[str]) -> Tensor:
        """(texts, width), each of length 1."""
        ids, mask = self._reader.read(texts)
        return F.normalize(self._model(ids.to(self._device), mask.to(self._device)).float(), dim=-1)


class SentenceTraining:
    """A pretrained encoder that learns a teacher's sentence vectors.

    Raises ValueError if the teacher's vectors have another length than the recipe's.
    """

    def __init__(
        self,
        recipe: Recipe,
        base: Path,
        teacher: Teacher,
        kinds: Sequence[Kind],
        *,
        device: torch.device,
        precision: torch.dtype = torch.float32,
    ) -> None:
        rules = recipe.sentences
        if teacher.width != rules.width:
            raise ValueError(
                f"the teacher's vectors have {teacher.width} values, not {rules.width}"
            )
        self._rules = rules
        self._teacher = teacher
        self._kinds = kinds
        self._batches = PairBatches(kinds, rules.step_pairs, recipe.seed)
        self._device = device
        self._precision = precision
        self._base = base
        self._language_model = load_language_model(base).to(device)
        config = self._language_model.encoder.config
        torch.manual_seed(recipe.seed)
        projection = nn.Linear(config.width, rules.width, bias=False)
        self.model = SentenceEncoder(self._language_model.encoder, Pooling.MEAN, projection)
        self.model.to(device).train()
        self._reader = TextReader(base / "tokenizer.json", rules.text_tokens_max, config.pad_id)
        settings = Optimizer(name="adamw", rate=rules.rate, weight_decay=0.01)
        self._optimizers = Optimizers(settings, self.model.named_parameters())
        self._trained: list[Tensor] = list(self.model.parameters())
        self._average = [p.detach().clone() for p in self._trained]
        self.steps_done = 0

    def train(self) -> float:
        """Do the next step; returns its loss."""
        batch = self._batches.read(self.steps_done)
        with self._autocast():
            target = self._targets(batch)
            ids, mask = self._reader.read(batch.firsts + batch.seconds)
            vectors = self.model(ids.to(self._device), mask.to(self._device)).float()
        loss = sentence_loss(vectors, target, self._rules)
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation for it
        torch.nn.utils.clip_grad_norm_(self._trained, 1.0)
        self._optimizers.step(self._rate_share())
        self.steps_done += 1
        self._update_average()
        return float(loss.detach())

    def _targets(self, batch: PairBatch) -> Tensor:
        if batch.same:
            return self._teacher.vectors(batch.firsts).repeat(2, 1)
        return self._teacher.vectors(batch.firsts + batch.seconds)

    def _autocast(self) -> torch.autocast:
        enabled = self._precision != torch.float32
        return torch.autocast(self._device.type, self._precision, enabled=enabled)

    def _rate_share(self) -> float:
        """Up, then down in a line to nothing."""
        progress = (self.steps_done + 0.5) / self._rules.steps
        warm = self._rules.warm_up_share
        return progress / warm if progress < warm else (1 - progress) / (1 - warm)

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self._rules.average_decay, (1 + self.steps_done) / (10 + self.steps_done))
        torch._foreach_lerp_(self._average, self._trained, 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[SentenceEncoder]:
        """The model with its averaged weights, for as long as the block lasts."""
        own = [p.detach().clone() for p in self._trained]
        with torch.no_grad():
            torch._foreach_copy_(self._trained, self._average)
        try:
            yield self.model
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self._trained, own)

    def evaluate(self) -> dict[str, SentenceScores]:
        """Scores of each kind on its held-out pairs, with the averaged weights."""
        with self.averaged(), torch.no_grad():
            return {
                kind.name: self._scores(kind) for kind in self._kinds if len(kind.held_out) >= 2
            }

    def _scores(self, kind: Kind) -> SentenceScores:
        pairs = kind.held_out[:: max(1, -(-len(kind.held_out) // EVALUATION_PAIRS_MAX))]
        firsts, seconds = (self._encode([pair[side] for pair in pairs]) for side in (0, 1))
        read = [pair[0] if kind.same else pair[1] for pair in pairs]
        target = torch.cat([self._teacher.vectors(part) for part in _parts(read)])
        nearest = (seconds @ firsts.T).argmax(dim=1)
        right = nearest == torch.arange(len(pairs), device=nearest.device)
        cosine = (seconds * target).sum(dim=-1).mean()
        return SentenceScores(round(float(cosine), 4), round(100 * float(right.float().mean()), 1))

    def _encode(self, texts: Sequence[str]) -> Tensor:
        vectors = []
        for part in _parts(texts):
            ids, mask = self._reader.read(part)
            vectors.append(self.model(ids.to(self._device), mask.to(self._device)).float())
        return F.normalize(torch.cat(vectors), dim=-1)

    def write_model(self, directory: Path) -> None:
        """Write the averaged model, with the masked-LM head of the one it began with."""
        with self.averaged() as model:
            save_directory(
                directory,
                model,
                tokenizer=self._base / "tokenizer.json",
                language_model=self._language_model,
                special_tokens=SPECIAL_TOKENS,
            )

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "steps_done": self.steps_done,
            "model": self.model.state_dict(),
            "average": self._average,
            "optimizers": self._optimizers.state(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.model.load_state_dict(state["model"])
        for own, saved in zip(self._average, state["average"], strict=True):
            own.copy_(saved)
        self._optimizers.load(state["optimizers"])
        self.steps_done = int(state["steps_done"])


def sentence_loss(vectors: Tensor, target: Tensor, rules: Sentences) -> Tensor:
    """The mean over the lengths a vector may be cut to, of three losses.

    vectors: (2 pairs, width), the firsts and then the seconds, of any length
    target:  (2 pairs, width), the teacher's, of length 1
    Against the teacher: 1 - cosine (at full width) and the divergence of the distributions
    over the other texts of the batch. Between the pairs: cross-entropy of finding the partner.
    """
    dimensions = sorted({min(d, vectors.shape[1]) for d in (*rules.dimensions, rules.width)})
    wanted = _others(target, rules.temperature).softmax(dim=-1)
    total = 1 - F.cosine_similarity(vectors, target).mean()
    for cut in dimensions:
        short = F.normalize(vectors[:, :cut], dim=-1)
        similar = F.kl_div(
            _others(short, rules.temperature).log_softmax(dim=-1), wanted, reduction="batchmean"
        )
        contrast = _contrast(short, rules.temperature)
        total = total + (
            rules.similarity_weight * similar + rules.contrast_weight * contrast
        ) / len(dimensions)
    return total


def _others(vectors: Tensor, temperature: float) -> Tensor:
    """Similarities (n, n - 1) of each text with the others; itself would drown them."""
    count = len(vectors)
    scores = vectors @ vectors.T / temperature
    beside = ~torch.eye(count, dtype=torch.bool, device=vectors.device)
    return scores[beside].view(count, count - 1)


def _contrast(vectors: Tensor, temperature: float) -> Tensor:
    firsts, seconds = vectors.chunk(2)
    scores = firsts @ seconds.T / temperature
    own = torch.arange(len(firsts), device=vectors.device)
    return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2


def _parts(texts: Sequence[str]) -> list[Sequence[str]]:
    return [texts[i : i + TEXTS_AT_ONCE] for i in range(0, len(texts), TEXTS_AT_ONCE)]
