"""Guesses for masks and words."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from encoder.runtime import Graph, GraphMissing
from encoder.tokenizer import Tokenizer, Truncation, Window
from polyseme.v1 import language_model_pb2, language_model_pb2_grpc
from server.batching import Lane
from server.embedder import Embedder, Timings, Tokenized, refuse_long
from server.errors import ModelLacks, RequestInvalid, naming
from server.filling import (
    Choice,
    FillQuestion,
    Guess,
    Marked,
    Masked,
    hidden,
    masked_at,
    single_token,
    with_masks,
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
GUESS_COST = 50  # characters that can be tokenized while a guess is spelled

Request = language_model_pb2.FillMaskRequest | language_model_pb2.SubstituteRequest


@dataclass(frozen=True, slots=True)
class Filled:
    """For each text a choice for each of its masks."""

    choices: list[list[Choice]]
    tokenized: Tokenized
    timing: Timings

    @property
    def guesses(self) -> int:
        return sum(len(choice.guesses) for choices in self.choices for choice in choices)


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
        masks = sum(len(text.spans) for text in masked)
        check_count("inputs", masks, self._settings.masks_max, "masks together")
        filled = await self._fill(masked, request, self._plain, [None] * len(masked))
        reply = partial(self._filled_masks, masked, filled)
        return language_model_pb2.FillMaskResponse(
            results=await self._embedder.aside(reply, filled.guesses * GUESS_COST),
            fingerprint=fingerprint_to(self._embedder.encoder.fingerprint()),
            timing=timing_to(filled.timing),
        )

    async def Substitute(
        self, request: language_model_pb2.SubstituteRequest, context: object
    ) -> language_model_pb2.SubstituteResponse:
        mask_id = self._mask_id()
        self._check_inputs(request.inputs)
        own = self._tokenizer.tokens([mask_id])[0]
        characters = sum(len(given.text) for given in request.inputs)
        masked, words = await self._embedder.aside(
            partial(substituted, request.inputs, own, self._tokenizer), characters
        )
        filled = await self._fill(masked, request, self._words, words)
        reply = partial(self._substitutes, masked, filled)
        return language_model_pb2.SubstituteResponse(
            results=await self._embedder.aside(reply, filled.guesses * GUESS_COST),
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
            read = partial(self._candidates, request.candidates)
            allowed = await self._embedder.aside(read, sum(map(len, request.candidates)))
        truncation = truncation_from(request.truncation, "truncation")
        if truncation is Truncation.WINDOWS:
            raise RequestInvalid("truncation", "windows overlap; choose ERROR, HEAD or TAIL")
        lane = lane_from(request.priority, Lane.INTERACTIVE)
        tokenized, places = await self._hidden(masked, truncation)
        windows = [window for window, _ in places]
        question = FillQuestion(
            positions={id(window): positions for window, positions in places},
            allowed=allowed,
            guesses_max=guesses_max,
            words={id(w): word for w, word in zip(windows, words, strict=True) if word is not None},
            keep_words=bool(request.candidates),
        )
        choices, timing = await self._embedder.ask(question, windows, tokenized, lane)
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

    async def _hidden(
        self, masked: Sequence[Masked], truncation: Truncation
    ) -> tuple[Tokenized, list[tuple[Window, list[int]]]]:
        """What the model reads of each text, and where in it the masks are.

        First with words standing in for the masks; texts in which that does not work once more,
        with the mask as text. Raises RequestInvalid for a mask that was cut away.
        """
        mask_id = self._mask_id()
        every = range(len(masked))
        forms = [text.standing or text.spelled for text in masked]
        first = await self._tokenized(forms, every, truncation)
        texts, seconds = list(first.texts), first.tokenize_s
        places = [
            hidden(seen.windows[0], form.places, mask_id)
            for seen, form in zip(texts, forms, strict=True)
        ]
        if again := [index for index in every if places[index] is None]:
            spelled = [masked[index].spelled for index in again]
            second = await self._tokenized(spelled, again, truncation)
            seconds += second.tokenize_s
            for index, seen, form in zip(again, second.texts, spelled, strict=True):
                texts[index] = seen
                places[index] = hidden(seen.windows[0], form.places, mask_id)
        for index, found in enumerate(places):
            if found is None:
                raise RequestInvalid(f"inputs[{index}]", "a mask is in the part that was cut away")
        return Tokenized(texts, seconds), [found for found in places if found is not None]

    async def _tokenized(
        self, forms: Sequence[Marked], indices: Sequence[int], truncation: Truncation
    ) -> Tokenized:
        """indices: of the request's inputs that these are forms of"""
        tokenized = await self._embedder.tokenize([form.text for form in forms], truncation)
        with naming(lambda index: f"inputs[{indices[index]}]"):
            refuse_long(tokenized.texts, truncation, self._embedder.encoder.tokens_max)
        return tokenized

    def _filled_masks(
        self, masked: Sequence[Masked], filled: Filled
    ) -> list[language_model_pb2.FillMaskResult]:
        return [
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
        ]

    def _substitutes(
        self, masked: Sequence[Masked], filled: Filled
    ) -> list[language_model_pb2.SubstituteResult]:
        return [
            language_model_pb2.SubstituteResult(
                span=span_to(text.spans[0]),
                guesses=map(self._guess, choice.guesses),
                word=None if choice.word is None else self._guess(choice.word),
                tokens=counts_to(counts),
            )
            for text, (choice,), counts in zip(
                masked, filled.choices, filled.tokenized.counts, strict=True
            )
        ]

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
        if not text.spans:
            problem = f"holds no mask: write {mark} where a token is to be guessed"
            raise RequestInvalid(f"inputs[{index}]", problem)
    return masked


def substituted(
    inputs: Sequence[language_model_pb2.SubstituteInput], own: str, tokenizer: Tokenizer
) -> tuple[list[Masked], list[int | None]]:
    """Each text with a mask for its word, and the word's token if it is one.

    Raises RequestInvalid where a word does not stand in its text.
    """
    masked: list[Masked] = []
    words: list[int | None] = []
    for index, given in enumerate(inputs):
        span = target_from(given.text, given.target, f"inputs[{index}].target")
        masked.append(masked_at(given.text, [span], own))
        words.append(single_token(tokenizer, given.text[span.start : span.end]))
    return masked, words


def vocabulary_parts(
    tokenizer: Tokenizer, vocab_size: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """For each row of the model's table: whether it is a token of text, and whether a word.

    A model may have more rows than its tokenizer has tokens; those are neither.
    """
    plain, words = (np.zeros(vocab_size, dtype=np.bool_) for _ in range(2))
    for rows, tokens in ((plain, tokenizer.text_ids()), (words, tokenizer.word_ids())):
        rows[: len(tokens)] = tokens[:vocab_size]
    return plain, words
