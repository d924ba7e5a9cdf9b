"""Senses of words: learnt from labelled sentences, told in others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from encoder.tokenizer import Truncation
from encoder.words import SubwordPooling
from polyseme.v1 import sense_pb2, sense_pb2_grpc
from server.batching import Lane
from server.call import request_id
from server.embedder import EmbeddedWord, EmbeddedWords, Embedder, Tokenized
from server.errors import ReplyTooLarge, RequestInvalid, TextTooLong, naming, status_of
from server.limits import check_count, text_error
from server.messages import counts_to, fingerprint_to, lane_from, timing_to, truncation_from
from server.senses import (
    NOT_READ,
    Asked,
    Example,
    Inventory,
    asked_from,
    examples_from,
    fitted,
    inventory_from,
    inventory_to,
    results_to,
)
from server.settings import Settings

FIT_CHARACTERS = 10**6  # as much work as reading so many: never on the event loop


class SenseService(sense_pb2_grpc.SenseServiceServicer):
    """Keeps nothing: inventories come and go with the calls."""

    def __init__(self, embedder: Embedder, settings: Settings) -> None:
        self._embedder = embedder
        self._settings = settings

    async def FitSenses(
        self, request: sense_pb2.FitSensesRequest, context: object
    ) -> sense_pb2.FitSensesResponse:
        characters = self._check_texts("examples", [given.text for given in request.examples])
        truncation = truncation_from(request.truncation, "truncation")
        lane = lane_from(request.priority, Lane.INTERACTIVE)
        examples = await self._embedder.aside(
            partial(examples_from, request.examples, self._settings), characters
        )
        self._check_reply(examples)
        with naming(lambda index: f"examples[{index}].text", "examples"):
            embedded = await self._embedder.sense_words(
                [(example.text, [example.span]) for example in examples],
                subword_pooling=SubwordPooling.MEAN,
                truncation=truncation,
                lane=lane,
            )
        vectors = np.stack([word.vector for word in _read(embedded, "examples")])
        work = partial(fitted, examples, vectors, counted_priors=request.counted_priors)
        words = await self._embedder.aside(work, FIT_CHARACTERS)
        return sense_pb2.FitSensesResponse(
            inventory=inventory_to(words, embedded.fingerprint),
            tokens=map(counts_to, embedded.counts),
            timing=timing_to(embedded.timing),
        )

    async def ClassifySenses(
        self, request: sense_pb2.ClassifySensesRequest, context: object
    ) -> sense_pb2.ClassifySensesResponse:
        fingerprint = self._embedder.encoder.sense_fingerprint(SubwordPooling.MEAN)
        inventory = inventory_from(request.inventory, fingerprint, self._settings)
        truncation = truncation_from(request.truncation, "truncation")
        lane = lane_from(request.priority, Lane.INTERACTIVE)
        errors: dict[int, RequestInvalid] = {}
        if request.partial_success:
            check_count("inputs", len(request.inputs), self._settings.inputs_max, "sentences")
            refuse: Refuse = errors.setdefault
        else:
            self._check_texts("inputs", [given.text for given in request.inputs])
            refuse = _raise
        asked = await self._embedder.aside(
            partial(self._asked, request.inputs, inventory, refuse),
            sum(len(given.text) for given in request.inputs),
        )
        tokenized, asked = await self._tokenized(asked, truncation, refuse)
        embedded = await self._embedder.sense_words_tokenized(
            tokenized, [[one.span] for one in asked.values()], lane=lane
        )
        results = await self._embedder.aside(
            partial(_results, asked, embedded, refuse), FIT_CHARACTERS
        )
        return sense_pb2.ClassifySensesResponse(
            results=_in_order(results, errors),
            fingerprint=fingerprint_to(embedded.fingerprint),
            timing=timing_to(embedded.timing),
        )

    def _check_texts(self, field: str, texts: Sequence[str]) -> int:
        """Raises for the first bad one; gives how many characters there are."""
        if not texts:
            raise RequestInvalid(field, "give at least one sentence")
        check_count(field, len(texts), self._settings.inputs_max, "sentences")
        for index, text in enumerate(texts):
            error = text_error(f"{field}[{index}].text", text, self._settings)
            if error is not None:
                raise error
        return sum(map(len, texts))

    def _check_reply(self, examples: Sequence[Example]) -> None:
        encoder = self._embedder.encoder
        senses = len({(example.word.casefold(), example.sense) for example in examples})
        reply_bytes = senses * encoder.sense_space.dimensions(encoder.states_width) * 4
        if reply_bytes > self._settings.message_bytes_max:
            raise ReplyTooLarge(reply_bytes, self._settings.message_bytes_max)

    def _asked(
        self, inputs: Sequence[sense_pb2.SenseInput], inventory: Inventory, refuse: Refuse
    ) -> dict[int, Asked]:
        """The good inputs by their index."""
        asked = {}
        for index, given in enumerate(inputs):
            error = text_error(f"inputs[{index}].text", given.text, self._settings)
            if error is not None:
                refuse(index, error)
                continue
            try:
                asked[index] = asked_from(given, inventory, f"inputs[{index}]")
            except RequestInvalid as invalid:
                refuse(index, invalid)
        return asked

    async def _tokenized(
        self, asked: Mapping[int, Asked], truncation: Truncation, refuse: Refuse
    ) -> tuple[Tokenized, dict[int, Asked]]:
        """What the model will read, and of whom."""
        tokenized = await self._embedder.tokenize_for_senses(
            [one.text for one in asked.values()], truncation
        )
        kept, texts = {}, []
        for (index, one), seen in zip(asked.items(), tokenized.texts, strict=True):
            if seen.truncated and truncation is Truncation.ERROR:
                tokens_max = self._embedder.encoder.tokens_max
                field = f"inputs[{index}].text"
                refuse(index, TextTooLong(field, seen.tokens_total, tokens_max))
            else:
                kept[index] = one
                texts.append(seen)
        return Tokenized(texts, tokenized.tokenize_s), kept


Refuse = Callable[[int, RequestInvalid], object]  # with the index of the input


def _raise(index: int, error: RequestInvalid) -> None:
    raise error


def _read(embedded: EmbeddedWords, field: str) -> list[EmbeddedWord]:
    """The one word of each text. Raises RequestInvalid for one that the model did not read."""
    found = []
    for index, (word,) in enumerate(embedded.words):
        if word is None:
            raise RequestInvalid(f"{field}[{index}]", NOT_READ)
        found.append(word)
    return found


def _results(
    asked: Mapping[int, Asked], embedded: EmbeddedWords, refuse: Refuse
) -> dict[int, sense_pb2.SenseResult]:
    """By the index of the input; without those whose word the model did not read."""
    results = {}
    for (index, one), (word,), counts in zip(
        asked.items(), embedded.words, embedded.counts, strict=True
    ):
        if word is None:
            refuse(index, RequestInvalid(f"inputs[{index}]", NOT_READ))
        else:
            (results[index],) = results_to([one], [word], [counts])
    return results


def _in_order(
    results: Mapping[int, sense_pb2.SenseResult], errors: Mapping[int, RequestInvalid]
) -> list[sense_pb2.SenseResult]:
    return [
        results[index]
        if index in results
        else sense_pb2.SenseResult(error=status_of(errors[index], request_id()))
        for index in range(len(results) + len(errors))
    ]
