"""A translator's graphs as the search wants them: one step for many hypotheses, caches kept.

Letters in the shape comments as in `decoder_network`: S sentences, K hypotheses of each, T source
tokens, H heads, D head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoder.beam import Floats, Integers, Proposals
from encoder.session import Session, Value

# Of a single row onnxruntime computes a product in another order than of several, and a
# translation would depend on its company.
_ROWS_MIN = 2
# As a product over 7 source tokens is added up in another order than one over 8 of which one is
# padding, there are always whole vectors of them, of as many numbers as the widest have.
_TOKENS_MULTIPLE = 16


@dataclass(slots=True)
class Sources:
    """What the decoder reads of a batch of sentences.

    layers: of each layer the keys, then the values, (S, H, T, D); they belong to whoever has this
    mask:   (S, T)
    """

    layers: list[Floats]
    mask: Integers

    @classmethod
    def of(cls, layers: Sequence[Floats], mask: Integers) -> "Sources":
        """What the graph ENCODE gave for `mask`, with so much padding that none of it depends on
        the longest of the batch."""
        missing = -mask.shape[1] % _TOKENS_MULTIPLE
        wider = [np.pad(x, ((0, 0), (0, 0), (0, missing), (0, 0))) for x in layers]
        return cls(wider, np.pad(mask, ((0, 0), (0, missing))))

    def move(self, from_slot: int, to_slot: int) -> None:
        """Put one sentence into the place of another."""
        for array in self.layers:
            array[to_slot] = array[from_slot]
        self.mask[to_slot] = self.mask[from_slot]


class SessionStepper:
    """`beam.Stepper` over the graph STEP.

    Sentences have slots. One that is done leaves a gap, into which the last one moves, so that
    those left always lie at the beginning, and nothing but the moved one is copied.
    """

    def __init__(
        self, session: Session, sources: Sources, *, choices: int, attention: bool
    ) -> None:
        """choices: how many next tokens to propose for each hypothesis"""
        self._session = session
        self._sources = sources if len(sources.mask) >= _ROWS_MIN else _twice(sources)
        self._attention = attention
        self._choices = session.value(np.array([choices]))
        self._slots = np.arange(len(sources.mask))  # of each sentence of the step before
        self._hypotheses = 1  # of each sentence, at the step before
        self._given: dict[str, Value] = {}  # the sources, for as many slots as `_given_slots`
        self._given_slots = 0
        _, heads, _, head_width = sources.layers[0].shape
        empty = np.empty((len(self._sources.mask), heads, 0, head_width), np.float32)
        self._past = [session.value(empty) for _ in sources.layers]

    def step(self, tokens: Integers, parents: Integers) -> Proposals:
        """See `beam.Stepper`."""
        attention = ["attention"] if self._attention else []
        found = self.read(tokens, parents, ["proposed", "log_probabilities", *attention])
        return Proposals(found[0], found[1], found[2] if attention else None)

    def read(
        self, tokens: Integers, parents: Integers, outputs: Sequence[str]
    ) -> list[NDArray[Any]]:
        """The same, giving these outputs of the graph, (S, K, ...) each."""
        sentences, hypotheses = tokens.shape
        before, which = np.divmod(parents, self._hypotheses)
        rows = self._slots[before] * self._hypotheses + which
        self._slots = self._close_gaps(self._slots[before[:, 0]])
        slots = max(sentences, 1 if hypotheses >= _ROWS_MIN else _ROWS_MIN)
        # Slots without a sentence do what the first one does, and nobody reads it.
        ids = np.tile(tokens[:1], (slots, 1))
        ids[self._slots] = tokens
        continued = np.tile(rows[:1], (slots, 1))
        continued[self._slots] = rows
        self._hypotheses = hypotheses
        return [array[self._slots] for array in self._run(ids, continued, outputs)]

    def _run(self, ids: Integers, parents: Integers, outputs: Sequence[str]) -> list[NDArray[Any]]:
        session = self._session
        layers = range(len(self._past) // 2)
        inputs = {
            "ids": session.value(ids),
            "parents": session.value(parents),
            "choices": self._choices,
            **self._sources_of(len(ids)),
            **dict(zip(past_names("past", layers), self._past, strict=True)),
        }
        found = session.run_values(inputs, [*outputs, *past_names("now", layers)])
        self._past = found[len(outputs) :]
        return [value.numpy() for value in found[: len(outputs)]]

    def _sources_of(self, slots: int) -> dict[str, Value]:
        if slots != self._given_slots:
            arrays = self._sources.layers
            names = past_names("source", range(len(arrays) // 2))
            self._given = {
                name: self._session.value(array[:slots])
                for name, array in zip(names, arrays, strict=True)
            }
            self._given["mask"] = self._session.value(self._sources.mask[:slots])
            self._given_slots = slots
        return self._given

    def _close_gaps(self, slots: Integers) -> Integers:
        """Where the sentences at `slots` are after those beyond their number have moved down."""
        count = len(slots)
        free = iter(np.setdiff1d(np.arange(count), slots).tolist())
        moved = slots.copy()
        for position in np.flatnonzero(slots >= count):
            moved[position] = next(free)
            self._sources.move(int(slots[position]), int(moved[position]))
            self._given_slots = 0  # a GPU has a copy of its own, which is wrong now
        return moved


def past_names(kind: str, layers: Sequence[int]) -> list[str]:
    """The names of all layers' keys and values: read before, read now, or the source's."""
    return [f"{kind}_{part}_{layer}" for layer in layers for part in ("keys", "values")]


def _twice(sources: Sources) -> Sources:
    return Sources([np.repeat(x, 2, axis=0) for x in sources.layers], np.repeat(sources.mask, 2, 0))
