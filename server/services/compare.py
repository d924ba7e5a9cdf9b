"""What context adds to a word's vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from encoder.tokenizer import Truncation
from encoder.words import Span, SubwordPooling, find_any_case, words
from polyseme.v1 import compare_pb2, compare_pb2_grpc
from server.batching import Lane
from server.comparison import View, view_of
from server.embedder import EmbeddedWords, Embedder, EmbedPlan, Tokenized
from server.errors import ReplyTooLarge, RequestInvalid, naming
from server.limits import check_count, check_text
from server.messages import (
    fingerprint_to,
    lane_from,
    layers_from,
    matrix_to,
    span_to,
    target_from,
    timing_to,
)
from server.places import places_of
from server.settings import Settings

MATRICES = 6  # three views, each with similarities and ranks


class CompareService(compare_pb2_grpc.CompareServiceServicer):
    """The same sentences seen by three kinds of vector."""

    def __init__(self, embedder: Embedder, settings: Settings) -> None:
        self._embedder = embedder
        self._settings = settings

    async def CompareEmbeddings(
        self, request: compare_pb2.CompareEmbeddingsRequest, context: object
    ) -> compare_pb2.CompareEmbeddingsResponse:
        self._check(request)
        encoder = self._embedder.encoder
        texts = [given.text for given in request.inputs]
        lane = lane_from(request.priority, Lane.INTERACTIVE)
        layers = layers_from(request.layers, encoder, encoder.word_layers)
        spans = await self._embedder.aside(partial(spans_of, request), sum(map(len, texts)))
        plan = EmbedPlan(
            pooling=None,
            dimensions=encoder.width,
            normalized=True,
            prompt="",
            truncation=Truncation.ERROR,
        )
        with naming(lambda index: f"inputs[{index}].text"):
            sentences = await self._embedder.embed(texts, plan, lane)
            in_context = await self._embedder.words(
                [(text, [span]) for text, span in zip(texts, spans, strict=True)],
                layers=layers,
                subword_pooling=SubwordPooling.MEAN,
                normalized=True,
                truncation=Truncation.ERROR,
                lane=lane,
            )
        kinds = {
            compare_pb2.COMPARISON_KIND_AVERAGED: await self._averaged(texts),
            compare_pb2.COMPARISON_KIND_SENTENCE: sentences.vectors,
            compare_pb2.COMPARISON_KIND_CONTEXTUAL_WORD: _only_words(in_context),
        }
        senses = [given.sense for given in request.inputs]
        pairs = len(texts) * len(texts)
        return compare_pb2.CompareEmbeddingsResponse(
            views=await self._embedder.aside(partial(views_of, kinds, senses), pairs),
            spans=[span_to(span) for span in spans],
            layers=layers,
            fingerprint=fingerprint_to(in_context.fingerprint),
            timing=timing_to(sentences.timing + in_context.timing),
        )

    def _check(self, request: compare_pb2.CompareEmbeddingsRequest) -> None:
        count = len(request.inputs)
        if count < 2:
            raise RequestInvalid("inputs", "give two sentences or more")
        check_count("inputs", count, self._settings.inputs_max, "sentences")
        reply_bytes = MATRICES * count * count * 4
        if reply_bytes > self._settings.message_bytes_max:
            raise ReplyTooLarge(reply_bytes, self._settings.message_bytes_max)
        for index, given in enumerate(request.inputs):
            check_text(f"inputs[{index}].text", given.text, self._settings)

    async def _averaged(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(texts, width): the mean of the table's vectors of the tokens of a text's words."""
        tokenized = await self._embedder.tokenize(texts, Truncation.ERROR)
        average = partial(self._table_means, texts, tokenized)
        return await self._embedder.aside(average, sum(map(len, texts)))

    def _table_means(self, texts: Sequence[str], tokenized: Tokenized) -> NDArray[np.float32]:
        means = []
        for index, (text, seen) in enumerate(zip(texts, tokenized.texts, strict=True)):
            window = seen.windows[0]
            runs = places_of(seen, words(text)).slices.get(0, [])
            if not runs:
                problem = "holds no word that the model reads, and the average is of words"
                raise RequestInvalid(f"inputs[{index}].text", problem)
            ids = np.concatenate([window.ids[run] for run in runs])
            means.append(self._embedder.encoder.static(ids).mean(axis=0))
        return np.stack(means)


def spans_of(request: compare_pb2.CompareEmbeddingsRequest) -> list[Span]:
    """Where the word stands in each sentence. Raises RequestInvalid where it does not."""
    spans = []
    for index, given in enumerate(request.inputs):
        if given.HasField("target"):
            spans.append(target_from(given.text, given.target, f"inputs[{index}].target"))
            continue
        if not request.word:
            raise RequestInvalid("word", f"give the word, or a target in inputs[{index}]")
        span = find_any_case(given.text, [request.word])
        if span is None:
            problem = f"does not hold the word {request.word!r}"
            raise RequestInvalid(f"inputs[{index}].text", problem)
        spans.append(span)
    return spans


def views_of(
    kinds: Mapping[compare_pb2.ComparisonKind.ValueType, NDArray[np.float32]],
    senses: Sequence[str],
) -> list[compare_pb2.ComparisonView]:
    """kinds: the vectors of each, (sentences, width)"""
    return [view_to(kind, view_of(vectors, senses)) for kind, vectors in kinds.items()]


def view_to(kind: compare_pb2.ComparisonKind.ValueType, view: View) -> compare_pb2.ComparisonView:
    return compare_pb2.ComparisonView(
        kind=kind,
        similarities=matrix_to(view.similarities),
        ranks=matrix_to(view.ranks),
        same_sense_mean=view.same_sense_mean,
        other_sense_mean=view.other_sense_mean,
        margin=view.margin,
        nearest_same_sense=view.nearest_same_sense,
    )


def _only_words(embedded: EmbeddedWords) -> NDArray[np.float32]:
    """(texts, width): the one word asked for in each text."""
    vectors = []
    for index, (word,) in enumerate(embedded.words):
        if word is None:
            raise RequestInvalid(f"inputs[{index}].text", "the tokenizer has no token for the word")
        vectors.append(word.vector)
    return np.stack(vectors)
