"""What each step of pretraining sees: rows, with tokens hidden; one step ahead of the model."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoder.training.masking import Alphabet, Masked, hide
from encoder.training.recipe import Masking, Recipe
from encoder.training.rows import Rows, RowSource
from encoder.training.schedule import Step, step_at
from encoder.training.streams import Tokenized
from encoder.training.vocabulary import BEGIN, MASK, RESERVED_IDS, token_id, word_starts

# Of a recipe's seed, so that no two uses draw the same numbers.
SEED_ROWS, SEED_MASKS, SEED_EVALUATION = 1, 2, 3
EVALUATION_ROW_TOKENS = 128
EVALUATION_ROWS_MAX = 96  # of each language
EVALUATION_MASKING = Masking(rate_first=0.15, rate_last=0.15)

# The copy that is rebuilt is hidden by the token, and never by anything but [MASK].
COPY_MASKING = Masking(whole_word_share=0.0, keep_share=0.0, random_share=0.0)


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one step as the encoder sees them, and as the rebuilding layer does."""

    masked: Masked
    copy: Masked | None


class Batches:
    """The batches of a run: each a pure function of recipe, text and the step's number.

    A thread makes the next one while the model is at work: a fifth of a step on a fast GPU.
    """

    def __init__(self, recipe: Recipe, data: Tokenized) -> None:
        self._recipe = recipe
        self._data = data
        tokenizer = data.tokenizer
        self._alphabet = Alphabet(word_starts(tokenizer), RESERVED_IDS, token_id(tokenizer, MASK))
        self._begin_id = token_id(tokenizer, BEGIN)
        self._rows: dict[int, Rows] = {}  # by stage; the thread's alone
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._ahead: tuple[Step, Future[Batch]] | None = None

    def at(self, step: Step, following: Step | None = None) -> Batch:
        """The batch of `step`; the following one is begun: `following`, where the clock decides
        it, else the one that the recipe names."""
        if self._ahead is not None and self._ahead[0] == step:
            future = self._ahead[1]
        else:
            future = self._thread.submit(self._make, step)
        batch = future.result()
        number = step.number + 1
        if following is None and number < self._recipe.steps:
            following = step_at(self._recipe, number)
        if following is not None:
            self._ahead = (following, self._thread.submit(self._make, following))
        return batch

    def _make(self, step: Step) -> Batch:
        ids = self._rows_of(step).read(step.first_row, step.stage.step_rows)
        random = np.random.default_rng([self._recipe.seed, SEED_MASKS, step.number])
        masked = hide(ids, step.mask_rate, self._recipe.masking, self._alphabet, random)
        return Batch(masked, self._hidden_copy(ids, random) if step.reconstructs else None)

    def _rows_of(self, step: Step) -> Rows:
        if step.stage_index not in self._rows:
            seed = (self._recipe.seed, SEED_ROWS, step.stage_index)
            sources = row_sources(self._recipe, self._data)
            rows = Rows(sources, step.stage.row_tokens, self._begin_id, seed)
            self._rows[step.stage_index] = rows
        return self._rows[step.stage_index]

    def _hidden_copy(self, ids: NDArray[np.int64], random: np.random.Generator) -> Masked:
        rules = self._recipe.reconstruction
        copy = hide(ids, rules.mask_rate, COPY_MASKING, self._alphabet, random)
        asked = max(1, round(rules.predict_rate * ids.shape[1]))
        order = random.permuted(np.tile(np.arange(copy.places.shape[1]), (len(ids), 1)), axis=1)
        picked = np.sort(order[:, :asked], axis=1)
        return Masked(
            copy.inputs,
            np.take_along_axis(copy.places, picked, axis=1),
            np.take_along_axis(copy.targets, picked, axis=1),
        )

    def evaluation(self) -> dict[str, Masked]:
        """Held-out rows by language, 15 % of them hidden: 80/10/10, half of them whole words."""
        length = min(EVALUATION_ROW_TOKENS, self._recipe.model.tokens_max) - 1
        texts: dict[str, list[NDArray[np.uint16]]] = {}
        for stream in self._data.streams:
            if not stream.pairs:
                ids = self._data.held_out_ids(stream)
                texts.setdefault(stream.language or "text", []).append(ids)
        joined = {language: np.concatenate(parts) for language, parts in texts.items()}
        return {
            language: self._hide_evaluation(self._evenly(ids, length))
            for language, ids in joined.items()
            if len(ids) >= length
        }

    def _evenly(self, ids: NDArray[np.uint16], length: int) -> NDArray[np.int64]:
        every = ids[: len(ids) // length * length].reshape(-1, length)
        chosen = every[:: max(1, -(-len(every) // EVALUATION_ROWS_MAX))].astype(np.int64)
        return np.pad(chosen, ((0, 0), (1, 0)), constant_values=self._begin_id)

    def _hide_evaluation(self, ids: NDArray[np.int64]) -> Masked:
        random = np.random.default_rng([self._recipe.seed, SEED_EVALUATION])
        return hide(ids, EVALUATION_MASKING.rate_last, EVALUATION_MASKING, self._alphabet, random)


def row_sources(recipe: Recipe, data: Tokenized) -> list[RowSource]:
    """The streams with their shares of the rows: pairs have `pair_share` in all."""
    sizes = {
        pairs: sum(s.tokens * s.weight for s in data.streams if s.pairs is pairs)
        for pairs in (False, True)
    }
    pair_share = recipe.text.pair_share if sizes[True] else 0.0
    shares = {False: 1 - pair_share, True: pair_share}
    return [
        RowSource(
            ids=data.ids(stream),
            starts=data.starts(stream) if stream.pairs else None,
            share=shares[stream.pairs] * stream.tokens * stream.weight / sizes[stream.pairs],
        )
        for stream in data.streams
        if stream.tokens
    ]
