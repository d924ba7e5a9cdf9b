"""Masked language modelling beside the sentence stage, so that the trunk keeps what it knows."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from encoder.model import MaskedLanguageModel
from encoder.training.batches import Batches, row_sources
from encoder.training.corpus import CorpusInvalid
from encoder.training.masking import Alphabet, Masked, hide
from encoder.training.recipe import Recipe
from encoder.training.rows import Rows
from encoder.training.streams import Tokenized
from encoder.training.vocabulary import BEGIN, MASK, RESERVED_IDS, token_id, word_starts

StatesOf: TypeAlias = Callable[[Tensor, Tensor], Tensor]

SEED_ROWS, SEED_MASKS = 5, 6  # of a recipe's seed; 1 to 4 are pretraining's and the pairs'


class MaskedRows:
    """Rows of the pretraining's token streams with tokens hidden, for some of the steps.

    Which steps, which rows and which tokens follow from the recipe and the step's number.
    """

    def __init__(self, recipe: Recipe, data: Tokenized) -> None:
        """Raises CorpusInvalid if the text is too short for a row."""
        self._recipe = recipe
        self._rules = recipe.sentences
        tokenizer = data.tokenizer
        self._alphabet = Alphabet(word_starts(tokenizer), RESERVED_IDS, token_id(tokenizer, MASK))
        try:
            self._rows = Rows(
                row_sources(recipe, data),
                self._rules.masked_row_tokens,
                token_id(tokenizer, BEGIN),
                (recipe.seed, SEED_ROWS),
            )
        except ValueError as error:
            raise CorpusInvalid(f"masked_share: {error}") from None
        self.held_out: Mapping[str, Masked] = Batches(recipe, data).evaluation()

    def at(self, step: int) -> Masked | None:
        """The rows of `step`; None where it has none."""
        share = self._rules.masked_share
        number = int((step + 1) * share)  # how many steps up to this one have rows
        if number == int(step * share):
            return None
        count = self._rules.masked_rows
        ids = self._rows.read((number - 1) * count, count)
        random = np.random.default_rng([self._recipe.seed, SEED_MASKS, step])
        masking = self._recipe.masking
        return hide(ids, masking.rate_last, masking, self._alphabet, random)


def masked_loss(
    model: MaskedLanguageModel, states_of: StatesOf, rows: Masked, device: torch.device
) -> Tensor:
    """The mean cross-entropy of the hidden tokens, in nats.

    states_of: ids and owners (`sentence_packing.Packed`) to states; each row has one owner
    """
    ids = _tensor(rows.inputs, device)
    owners = torch.arange(len(ids), device=device)[:, None].expand_as(ids).contiguous()
    states = states_of(ids, owners)
    places = rows.places + np.arange(len(rows.places))[:, None] * rows.inputs.shape[1]
    chosen = states.flatten(0, 1).index_select(0, _tensor(places.reshape(-1), device))
    targets = _tensor(rows.targets.reshape(-1), device)
    return F.cross_entropy(model.logits(chosen).float(), targets)


def _tensor(values: NDArray[np.int64], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(device, non_blocking=True)
