"""Guesses for masks and words."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from encoder.runtime import Graph, GraphMissing
from encoder.tokenizer import Tokenizer, Truncation
from encoder.words import Span
from polyseme.v1 import language_model_pb2, language_model_pb2_grpc
from server.batching import Lane
from server.embedder import Embedder, Timings, Tokenized, refuse_long
from server.errors import ModelLacks, RequestInvalid, naming
from server.filling import (
    Choice,
    FillQuestion,
    Guess,
    Masked,
    positions_of,
    single_token,
    with_masks,
    without_word,
)
from server.limits import check_count, check_text, check_texts
from server.messages import (
    counts_to,
    fingerprint_to,
    lane_from,
    span_to,
    target_from,
    timing_to,
    truncation_from,
)
from server.settings import Settings

DEFAULT_MARK = "[MASK]"
DEFAULT_GUESSES = 5

Request = language_model_pb2.FillMaskRequest | language_model_pb2.SubstituteRequest


@dataclass(frozen=True, slots=True)
class Filled:
    """For each text a choice for each of its masks."""

    choices: list[list[Choice]]
    tokenized: Tokenized
    timing: Timings


class LanguageModelService(language_model_pb2_grpc.LanguageModelServiceServicer):
    """What could stand in a text, said by the model's masked-LM head."""

    def __init__(self, embedder: Embedder, settings: Settings) -> None:
        self._embedder = embedder
        self._settings = settings
        self._tokenizer: Tokenizer = embedder.encoder.tokenizer
        vocab_size = embedder.encoder.vocab_size
        self._plain, self._words = vocabulary_parts(self._tokenizer, vocab_size)

    async def FillMask(
        self, request: language_model_pb2.FillMaskRequest, context: object
    ) -> language_model_pb2.FillMaskResponse:
        mask_id = self._mask_id()
        check_texts("inputs", request.inputs, self._settings)
        own = self._tokenizer.tokens([mask_id])[0]
        characters = sum(map(len, request.inputs))
        masked = await self._embedder.aside(
            partial(masked_texts, request.inputs, request.mask or DEFAULT_MARK, own), characters
        )
        masks = sum(len(text.places) for text in masked)
        check_count("inputs", masks, self._settings.masks_max, "masks together")
        filled = await self._fill(masked, request, self._plain, [None] * len(masked))
        return language_model_pb2.FillMaskResponse(
            results=[
                language_model_pb2.FillMaskResult(
                    masks=[
                        language_model_pb2.FilledMask(
                            span=span_to(span), guesses=map(self._guess, choice.guesses)
                        )
                        for span, choice in zip(text.spans, choices, strict=True)
                    ],
                    tokens=counts_to(counts),
                )
                for text, choices, counts in zip(
                    masked, filled.choices, filled.tokenized.counts, strict=True
                )
            ],
            fingerprint=fingerprint_to(self._embedder.encoder.fingerprint()),
            timing=timing_to(filled.timing),
        )

    async def Substitute(
        self, request: language_model_pb2.SubstituteRequest, context: object
    ) -> language_model_pb2.SubstituteResponse:
        mask_id = self._mask_id()
        self._check_inputs(request.inputs)
        own = self._tokenizer.tokens([mask_id])[0]
        texts = [given.text for given in request.inputs]
        spans = await self._embedder.aside(
            partial(target_spans, request.inputs), sum(map(len, texts))
        )
        masked = [without_word(text, s, own) for text, s in zip(texts, spans, strict=True)]
        words = [
            single_token(self._tokenizer, text[span.start : span.end])
            for text, span in zip(texts, spans, strict=True)
        ]
        filled = await self._fill(masked, request, self._words, words)
        return language_model_pb2.SubstituteResponse(
            results=[
                language_model_pb2.SubstituteResult(
                    span=span_to(span),
                    guesses=map(self._guess, choice.guesses),
                    word=None if choice.word is None else self._guess(choice.word),
                    tokens=counts_to(counts),
                )
                for span, (choice,), counts in zip(
                    spans, filled.choices, filled.tokenized.counts, strict=True
                )
            ],
            fingerprint=fingerprint_to(self._embedder.encoder.fingerprint()),
            timing=timing_to(filled.timing),
        )

    async def _fill(
        self,
        masked: Sequence[Masked],
        request: Request,
        allowed: NDArray[np.bool_],
        words: Sequence[int | None],
    ) -> Filled:
        """words: for each text the token that its mask hides, if it is to be scored too"""
        guesses_max = self._guesses_max(request)
        if request.candidates:
            allowed = self._candidates(request.candidates)
        truncation = truncation_from(request.truncation, "truncation")
        if truncation is Truncation.WINDOWS:
            raise RequestInvalid("truncation", "windows overlap; choose ERROR, HEAD or TAIL")
        lane = lane_from(request.priority, Lane.INTERACTIVE)
        tokenized = await self._embedder.tokenize([text.text for text in masked], truncation)
        with naming(lambda index: f"inputs[{index}]"):
            refuse_long(tokenized.texts, truncation, self._embedder.encoder.tokens_max)
        windows = [text.windows[0] for text in tokenized.texts]
        question = FillQuestion(
            positions={
                id(window): self._positions(index, tokenized, text)
                for index, (window, text) in enumerate(zip(windows, masked, strict=True))
            },
            allowed=allowed,
            guesses_max=guesses_max,
            words={id(w): word for w, word in zip(windows, words, strict=True) if word is not None},
            keep_words=bool(request.candidates),
        )
        choices, timing = await self._embedder.ask(question, tokenized, lane)
        return Filled(choices, tokenized, timing)

    def _mask_id(self) -> int:
        """Raises ModelLacks if this model cannot guess."""
        encoder = self._embedder.encoder
        if Graph.FILL not in encoder.graphs:
            raise ModelLacks("MODEL_HAS_NO_HEAD", str(GraphMissing(Graph.FILL, encoder.name)))
        if self._tokenizer.mask_id is None:
            problem = f"the tokenizer of model {encoder.name!r} has no mask token: serve another"
            raise ModelLacks("MODEL_HAS_NO_MASK", problem)
        return self._tokenizer.mask_id

    def _check_inputs(self, inputs: Sequence[language_model_pb2.SubstituteInput]) -> None:
        if not inputs:
            raise RequestInvalid("inputs", "give at least one text")
        check_count("inputs", len(inputs), self._settings.inputs_max, "texts")
        check_count("inputs", len(inputs), self._settings.masks_max, "words together")
        for index, given in enumerate(inputs):
            check_text(f"inputs[{index}].text", given.text, self._settings)

    def _guesses_max(self, request: Request) -> int:
        if request.top_k < 0:
            raise RequestInvalid("top_k", f"{request.top_k} is below 0")
        check_count("top_k", request.top_k, self._settings.k_max, "guesses")
        check_count("candidates", len(request.candidates), self._settings.k_max, "words")
        return request.top_k or len(request.candidates) or DEFAULT_GUESSES

    def _candidates(self, candidates: Sequence[str]) -> NDArray[np.bool_]:
        allowed = np.zeros_like(self._plain)
        for index, candidate in enumerate(candidates):
            field = f"candidates[{index}]"
            check_text(field, candidate, self._settings)
            token_id = single_token(self._tokenizer, candidate)
            if token_id is None:
                raise RequestInvalid(field, f"{candidate!r} is not one token of this model")
            allowed[token_id] = True
        return allowed

    def _positions(self, index: int, tokenized: Tokenized, masked: Masked) -> list[int]:
        """Raises RequestInvalid for a mask that the model does not read."""
        window = tokenized.texts[index].windows[0]
        found = positions_of(window, masked.places, self._mask_id())
        if None in found:
            span = masked.spans[found.index(None)]
            problem = f"what stands at code points {span.start} to {span.end} was cut away"
            raise RequestInvalid(f"inputs[{index}]", problem)
        return [position for position in found if position is not None]

    def _guess(self, guess: Guess) -> language_model_pb2.Guess:
        return language_model_pb2.Guess(
            text=self._tokenizer.decode([guess.token_id]).strip(),
            token_id=guess.token_id,
            token=self._tokenizer.tokens([guess.token_id])[0],
            probability=guess.probability,
            logit=guess.logit,
        )


def masked_texts(texts: Sequence[str], mark: str, own: str) -> list[Masked]:
    """Raises RequestInvalid for a text without a mask."""
    masked = [with_masks(text, mark, own) for text in texts]
    for index, text in enumerate(masked):
        if not text.places:
            problem = f"holds no mask: write {mark} where a token is to be guessed"
            raise RequestInvalid(f"inputs[{index}]", problem)
    return masked


def target_spans(inputs: Sequence[language_model_pb2.SubstituteInput]) -> list[Span]:
    """Where each input's word stands. Raises RequestInvalid."""
    return [
        target_from(given.text, given.target, f"inputs[{index}].target")
        for index, given in enumerate(inputs)
    ]


def vocabulary_parts(
    tokenizer: Tokenizer, vocab_size: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """For each row of the model's table: whether it is a token of text, and whether a word.

    A model may have more rows than its tokenizer has tokens; those are neither.
    """
    plain = np.zeros(vocab_size, dtype=np.bool_)
    plain[: tokenizer.vocab_size] = True
    plain[list(tokenizer.special_ids)] = False
    words = np.zeros(vocab_size, dtype=np.bool_)
    words[: tokenizer.vocab_size] = tokenizer.word_ids()
    return plain, words
