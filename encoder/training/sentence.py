"""Sentence vectors, learnt from a teacher's and from pairs of texts that belong together.

Four ideas in one loss: a text's vector is the teacher's (Hinton et al. 2015); a translation's
vector is that of its English (Reimers and Gurevych 2020); a text is nearer to its partner than
to the others of the batch (van den Oord et al. 2018); all of it holds for the first 256, 128 and
64 values too (Kusupati et al. 2022). Beside it the words of English texts are taught, and some
steps go on guessing hidden tokens, so that the masked-LM head stays good.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from encoder.checkpoint import load_language_model, save_directory
from encoder.config import Pooling
from encoder.evaluation.data import GradedPairs
from encoder.model import SentenceEncoder
from encoder.training.optimizers import Optimizers
from encoder.training.recipe import Optimizer, Recipe
from encoder.training.sentence_batches import SentenceBatches, TextPacker
from encoder.training.sentence_loss import sentence_loss
from encoder.training.sentence_masked import MaskedRows, StatesOf, masked_loss
from encoder.training.sentence_packing import Packed, means, seen
from encoder.training.sentence_pairs import Kind
from encoder.training.sentence_scores import score_graded, score_pairs
from encoder.training.sentence_teacher import Teacher
from encoder.training.sentence_vectors import Vectors
from encoder.training.sentence_words import WordLessons
from encoder.training.vocabulary import SPECIAL_TOKENS

SHORT_TOKENS = 256  # up to which attention on a CPU is faster as plain matrix products
TEXTS_AT_ONCE = 512  # where nothing is learnt from them
FIT_TEXTS = 4000  # to which the projection is fitted at the start
FIT_WORD_TEXTS = 500
FIT_RIDGE = 1e-3  # of the mean variance


@dataclass(frozen=True, slots=True)
class SentenceStep:
    """What one step did: its losses, its size.

    words, masked: None where no words were taught, no tokens hidden
    """

    total: float
    cosine: float
    similar: float
    contrast: float
    words: float | None
    masked: float | None
    tokens: int


class SentenceTraining:
    """A pretrained encoder that learns a teacher's sentence vectors.

    teacher: of words, where the recipe has them taught
    masked: the rows of the steps that guess hidden tokens too
    graded: pairs by language whose grades the vectors are judged by
    Raises ValueError if the teacher's vectors have another length than the recipe's, and
    KeyError if the teacher has not read all that the pairs need.
    """

    def __init__(
        self,
        recipe: Recipe,
        base: Path,
        vectors: Vectors,
        kinds: Sequence[Kind],
        *,
        device: torch.device,
        precision: torch.dtype = torch.float32,
        compiled: bool = False,
        teacher: Teacher | None = None,
        masked: MaskedRows | None = None,
        graded: Mapping[str, GradedPairs] | None = None,
    ) -> None:
        rules = recipe.sentences
        if vectors.width != rules.width:
            raise ValueError(
                f"the teacher's vectors have {vectors.width} values, not {rules.width}"
            )
        self._rules = rules
        self._vectors = vectors
        self._kinds = kinds
        self._device = device
        self._precision = precision
        self._base = base
        self._masked = masked
        self._graded = graded or {}
        self._language_model = load_language_model(base).to(device)
        config = self._language_model.encoder.config
        torch.manual_seed(recipe.seed)
        projection = nn.Linear(config.width, rules.width, bias=False)
        self.model = SentenceEncoder(self._language_model.encoder, Pooling.MEAN, projection)
        self.model.to(device).train()
        self._packer = TextPacker(base, config, rules)
        self.batches = SentenceBatches(kinds, vectors, self._packer, rules, seed=recipe.seed)
        self._states: StatesOf = self._eager_states
        if compiled:
            self._compile()
        self._lessons: WordLessons | None = None
        if rules.word_weight:
            if teacher is None:
                raise ValueError("word_weight: words need a teacher")
            self._lessons = WordLessons(teacher, config.width, device)
        parts = {"head": self._language_model, "projection": projection}
        if self._lessons:
            parts["words"] = self._lessons.projection
        self._everything = nn.ModuleDict(parts)
        named = list(self._everything.named_parameters())
        self._trained: list[Tensor] = [parameter for _, parameter in named]
        self._fit(projection)
        settings = Optimizer(
            name=rules.optimizer,
            rate=rules.rate,
            matrix_rate=rules.matrix_rate,
            weight_decay=0.01,
        )
        self._optimizers = Optimizers(settings, named, many_at_once=device.type == "cuda")
        self._average = [p.detach().clone() for p in self._trained]
        self.steps_done = 0

    @torch.no_grad()
    def _fit(self, projection: nn.Linear) -> None:
        """Begin with the linear maps that bring the vectors nearest to the teacher's.

        From random numbers the cosine with the teacher rose from 0 to 0.02 in 40 steps.
        """
        texts, target = fitting_sample(self._kinds, self._vectors)
        parts = []
        with self._autocast():
            for begin in range(0, len(texts), TEXTS_AT_ONCE):
                ids = self._packer.ids(texts[begin : begin + TEXTS_AT_ONCE])
                chunks = self._packer.pack(ids)
                states = self._states_in(chunks, self._eager_states)
                parts.append(means(states, self._owners(chunks), len(ids)))
        projection.weight.copy_(nearest_map(torch.cat(parts), target))
        if self._lessons is None:
            return
        for kind in [kind for kind in self._kinds if kind.english][:1]:
            batch, chunks = self.batches.sample(kind, FIT_WORD_TEXTS)
            targets = self._lessons.targets(batch, chunks)
            with self._autocast():
                states = self._states_in(chunks, self._eager_states)
            found = means(states, targets.owners, len(targets.vectors))
            self._lessons.projection.weight.copy_(nearest_map(found, targets.vectors))

    def train(self) -> SentenceStep:
        """Do the next step."""
        batch = self.batches.at(self.steps_done)
        target = batch.target.to(self._device, non_blocking=True)
        lessons = self._lessons
        taught = lessons.targets(batch.words, batch.chunks) if lessons and batch.words else None
        with self._autocast():
            states = self._states_in(batch.chunks, self._states)
        pooled = means(states, self._owners(batch.chunks), len(target))
        loss = sentence_loss(self._projected(pooled), target, self._rules)
        words = lessons.loss(states, taught) if lessons and taught else None
        total = loss.total if words is None else loss.total + self._rules.word_weight * words
        total.backward()  # type: ignore[no-untyped-call]  # torch has no annotation for it
        masked = self._guess()
        nn.utils.clip_grad_norm_(self._trained, 1.0)
        self._optimizers.step(self._rate_share())
        self.steps_done += 1
        self._update_average()
        parts = torch.stack([total.detach(), loss.cosine, loss.similar, loss.contrast])
        whole, cosine, similar, contrast = parts.tolist()
        apart = None if words is None else float(words.detach())
        return SentenceStep(whole, cosine, similar, contrast, apart, masked, batch.tokens)

    def _guess(self) -> float | None:
        """Add the gradients of guessing hidden tokens, in the steps that do so; their loss."""
        rows = self._masked.at(self.steps_done) if self._masked else None
        if rows is None:
            return None
        with self._autocast():
            loss = masked_loss(self._language_model, self._states, rows, self._device)
        (self._rules.masked_weight * loss).backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def _vectors_of(self, chunks: Sequence[Packed], texts: int) -> Tensor:
        """The vectors of the chunks' texts, (texts, width), of any length."""
        return self._projected(
            means(self._states_in(chunks, self._states), self._owners(chunks), texts)
        )

    def _projected(self, pooled: Tensor) -> Tensor:
        if self.model.projection is None:
            return pooled
        with torch.autocast(self._device.type, enabled=False):  # cheap, and all that it gives
            projected: Tensor = self.model.projection(pooled)
        return projected

    def _owners(self, chunks: Sequence[Packed]) -> list[Tensor]:
        return [c.owners.to(self._device, non_blocking=True) for c in chunks]

    def _states_in(self, chunks: Sequence[Packed], states_of: StatesOf) -> list[Tensor]:
        """The last states of each chunk's tokens, (rows, tokens, width)."""
        return [
            states_of(c.ids.to(self._device, non_blocking=True), owners)
            for c, owners in zip(chunks, self._owners(chunks), strict=True)
        ]

    def _eager_states(self, ids: Tensor, owners: Tensor) -> Tensor:
        """The encoder's last states, (rows, tokens, width)."""
        # As matrix products, not as one kernel: of 20 tokens, with padding, forth and back, 5,500
        # tokens/s and core for 3,000.
        short = ids.device.type == "cpu" and ids.shape[1] <= SHORT_TOKENS
        states: Tensor = self.model.encoder(ids, seen(owners), explain=short).last
        return states

    def _compile(self) -> None:
        """On a CPU the encoder as one graph; on a GPU, where that takes minutes, by layer."""
        if self._device.type == "cuda":
            for layer in self.model.encoder.layers:
                layer.compile(dynamic=False)
            return
        # Without it compiled scatters add from several threads in any order. It also fills new
        # memory, which finds bugs but costs time (mypy misses the attribute).
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        self._states = torch.compile(self._eager_states, dynamic=False)

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

    def evaluate(self) -> dict[str, Any]:
        """Scores with the averaged weights, as a line of the curves.

        pairs:  of each kind, on its held-out pairs
        sts:    by language and length of vector, Spearman times 100 on graded pairs
        masked: by language, nats on held-out text; where the run guesses hidden tokens
        """
        # Its last batches have shapes of their own, which are not worth compiling for.
        eager = torch.compiler.set_stance("force_eager")
        with self.averaged(), torch.no_grad(), self._autocast(), eager:
            kinds = [kind for kind in self._kinds if len(kind.held_out) >= 2]
            pairs = {kind.name: score_pairs(kind, self._vectors, self.embed) for kind in kinds}
            sts = {
                language: score_graded(graded, self.embed, self._rules.dimensions)
                for language, graded in self._graded.items()
            }
            held_out = self._masked.held_out if self._masked else {}
            masked = {
                language: float(masked_loss(self._language_model, self._states, rows, self._device))
                for language, rows in held_out.items()
            }
        return {"pairs": pairs, "sts": sts, "masked": masked}

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of length 1 of any texts, (texts, width)."""
        parts = []
        for begin in range(0, len(texts), TEXTS_AT_ONCE):
            ids = self._packer.ids(texts[begin : begin + TEXTS_AT_ONCE])
            vectors = self._vectors_of(self._packer.pack(ids), len(ids))
            parts.append(F.normalize(vectors, dim=-1).cpu().numpy())
        return np.concatenate(parts)

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
            "model": self._everything.state_dict(),
            "average": self._average,
            "optimizers": self._optimizers.state(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._everything.load_state_dict(state["model"])
        for own, saved in zip(self._average, state["average"], strict=True):
            own.copy_(saved)
        self._optimizers.load(state["optimizers"])
        self.steps_done = int(state["steps_done"])


def fitting_sample(kinds: Sequence[Kind], vectors: Vectors) -> tuple[list[str], Tensor]:
    """Texts spread over all kinds, with the teacher's vectors that they are to have."""
    texts: list[str] = []
    taught: list[str] = []  # the text whose vector it is
    for kind in kinds:
        for first, second in kind.pairs[:: max(1, len(kind.pairs) * 2 * len(kinds) // FIT_TEXTS)]:
            texts += [first, second]
            taught += [first, first if kind.same else second]
    return texts, torch.from_numpy(vectors.read(vectors.rows(taught)))


def nearest_map(given: Tensor, wanted: Tensor) -> Tensor:
    """The weights (wanted's width, given's) of the linear map with the least squares, a ridge
    beside."""
    x = given.double()
    normal = x.T @ x
    normal += FIT_RIDGE * normal.diagonal().mean() * torch.eye(len(normal)).to(normal)
    solution: Tensor = torch.linalg.solve(normal, x.T @ wanted.to(normal))
    return solution.T
