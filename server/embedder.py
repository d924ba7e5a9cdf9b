"""Texts and words to vectors: the tokenizer's threads, then the batcher, then finishing touches."""

import asyncio
import contextvars
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from encoder.runtime import Encoder, Fingerprint, Pooling, finish, normalize, pool
from encoder.tokenizer import InputTooLong, TokenizedText, Truncation, Window
from encoder.words import Span, SubwordPooling, word_vector
from server.batcher import Batcher, BatchReport, Computed
from server.batching import Lane
from server.call import current_call
from server.embedded import (
    Embedded,
    EmbeddedStates,
    EmbeddedWord,
    EmbeddedWords,
    EmbedPlan,
    Timings,
    TokenCounts,
    Tokenized,
)
from server.errors import DeadlinePassed, LimitExceeded, ReplyTooLarge
from server.places import Places, places_of
from server.prompts import check_prompt_room
from server.settings import Settings

# A thread costs more than tokenising so little: 0.1 ms here, 0.15 ms for two hops and the GIL.
INLINE_CHARACTERS_MAX = 600
SPAN_COST = 50  # characters that are tokenised while a span is found among tokens

TOKENIZER_THREADS = 2  # each call spreads over the cores by itself


# The whole interface, whichever module holds a part of it.
__all__ = [
    "EmbedPlan",
    "Embedded",
    "EmbeddedStates",
    "EmbeddedWord",
    "EmbeddedWords",
    "Embedder",
    "Lane",
    "Question",
    "Timings",
    "TokenCounts",
    "Tokenized",
    "refuse_long",
]

WARM_UP_TEXT = "The first call of a model is slow; this is it."

T = TypeVar("T")


Reduce = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """One window for the model. `reduce` makes of its states what the caller keeps, in the
    model's thread, so that a large call never holds all of its states at once."""

    window: Window
    reduce: Reduce | None = None


# The kind of work: the layers whose states are wanted; None for the model's own pooled vector;
# or a question of its own.
Layers = tuple[int, ...]


class Question(Protocol):
    """Something else to ask of a batch of windows than their vectors. Runs in the model's thread.

    Its answers are large, so its windows never share a batch with another call's: what a call may
    ask for is then what a batch may take. (A kind is a question itself, equal to no other.)
    """

    def answer(self, encoder: Encoder, windows: Sequence[Window]) -> Sequence[Any]:
        """One answer a window."""

    def __hash__(self) -> int: ...


class Embedder:
    """The one door to the model. Belongs to one event loop."""

    def __init__(
        self,
        encoder: Encoder,
        settings: Settings,
        report: Callable[[BatchReport], None] = lambda report: None,
    ) -> None:
        self.encoder = encoder
        self.call_tokens_max = settings.call_tokens_max
        self._message_bytes_max = settings.message_bytes_max
        self._threads = ThreadPoolExecutor(TOKENIZER_THREADS, thread_name_prefix="tokenizer")
        cores = encoder.cores if lanes_apart(settings) else 0
        # A runtime whose calls take one core each, beside the one whose calls take all.
        self._narrow = encoder.twin(threads=1) if cores > 1 else encoder
        self.batcher: Batcher[Work, Any] = Batcher(
            partial(_compute, encoder),
            lambda work: len(work.window.ids),
            tokens_max=settings.batch_tokens_max,
            queue_max=settings.queue_texts_max,
            bulk_age_s_max=settings.bulk_age_s_max,
            bulk_batch_s_max=settings.bulk_batch_s_max,
            workers=settings.model_workers or cores or 1,
            compute_beside=partial(_compute, self._narrow) if cores else None,
            bulk_niceness=settings.bulk_niceness,
            report=report,
        )

    def warm_up(self) -> None:
        """Compute a text with each runtime before anybody waits: the first call of one opens it,
        and a thread of bulk, which yields to all others, would keep people waiting meanwhile."""
        tokenized = self.encoder.tokenizer.encode(
            [WARM_UP_TEXT], tokens_max=self.encoder.tokens_max, truncation=Truncation.HEAD
        )
        for encoder in (self.encoder, self._narrow):
            encoder.pooled(tokenized[0].windows)

    async def close(self) -> None:
        """Finish what the model is at; what waits gets Draining."""
        await self.batcher.close()
        self._threads.shutdown()

    # ---- whole texts

    async def embed(
        self, texts: Sequence[str], plan: EmbedPlan, lane: Lane, *, patient: bool = False
    ) -> Embedded:
        """One vector a text.

        patient: wait for room in the queue instead of raising QueueFull
        Raises encoder.tokenizer.InputTooLong with the text's index (see `errors.naming`).
        """
        if not patient:
            self.check_room(len(texts), lane)
        tokenized = await self.tokenize(texts, plan.truncation, plan.prompt, places=False)
        refuse_long(tokenized.texts, plan.truncation, self.encoder.tokens_max)
        return await self.embed_tokenized(tokenized, plan, lane, patient=patient)

    async def embed_tokenized(
        self, tokenized: Tokenized, plan: EmbedPlan, lane: Lane, *, patient: bool = False
    ) -> Embedded:
        """The same, for texts that were tokenized with `plan`'s prompt and truncation."""
        kind, reduce = self._pooling_path(plan.pooling)
        works = [Work(window, reduce) for text in tokenized.texts for window in text.windows]
        computed = await self._submit(works, tokenized, kind, lane, patient)
        if computed.results:
            vectors = _per_text(np.stack(computed.results), tokenized.texts)
        else:
            vectors = np.empty((0, self.encoder.width), dtype=np.float32)
        return Embedded(
            finish(vectors, plan.dimensions, plan.normalized),
            tokenized.counts,
            self.fingerprint(plan),
            _timings(tokenized, computed),
        )

    def fingerprint(self, plan: EmbedPlan) -> Fingerprint:
        """What vectors made by `plan` carry."""
        return self.encoder.fingerprint(
            pooling=plan.pooling or self.encoder.pooling,
            prompt=plan.prompt,
            dimensions=plan.dimensions,
            normalized=plan.normalized,
        )

    # ---- parts of texts

    async def words(
        self,
        inputs: Sequence[tuple[str, Sequence[Span]]],
        *,
        layers: Layers,
        subword_pooling: SubwordPooling,
        normalized: bool,
        truncation: Truncation,
        lane: Lane,
    ) -> EmbeddedWords:
        """One vector a span, from the window in which it has most context.

        None for a span that the model did not read: the policy cut it away, or the tokenizer
        has no token for it. Raises InputTooLong as `embed` does.
        """
        self.check_room(sum(1 for _, spans in inputs if spans), lane)
        tokenized = await self.tokenize([text for text, _ in inputs], truncation)
        refuse_long(tokenized.texts, truncation, self.encoder.tokens_max)
        return await self._words_of_tokenized(
            tokenized,
            [spans for _, spans in inputs],
            layers=layers,
            reduce_of=lambda runs: partial(_word_vectors, runs, subword_pooling, normalized),
            fingerprint=self._fingerprint_of(f"words by {subword_pooling}", layers, normalized),
            lane=lane,
        )

    async def sense_words(
        self,
        inputs: Sequence[tuple[str, Sequence[Span]]],
        *,
        subword_pooling: SubwordPooling,
        truncation: Truncation,
        lane: Lane,
    ) -> EmbeddedWords:
        """As `words`, in the model's sense space."""
        self.check_room(sum(1 for _, spans in inputs if spans), lane)
        tokenized = await self.tokenize_for_senses([text for text, _ in inputs], truncation)
        refuse_long(tokenized.texts, truncation, self.encoder.tokens_max)
        spans = [spans for _, spans in inputs]
        return await self.sense_words_tokenized(
            tokenized, spans, subword_pooling=subword_pooling, lane=lane
        )

    async def tokenize_for_senses(self, texts: Sequence[str], truncation: Truncation) -> Tokenized:
        """As `tokenize`, of `texts` as the sense space has them read; places stay the same."""
        space = self.encoder.sense_space
        return await self.tokenize([space.as_read(text) for text in texts], truncation)

    async def sense_words_tokenized(
        self,
        tokenized: Tokenized,
        spans: Sequence[Sequence[Span]],
        *,
        subword_pooling: SubwordPooling = SubwordPooling.MEAN,
        lane: Lane,
    ) -> EmbeddedWords:
        """The same for texts that were tokenized, with the spans wanted from each."""
        space, pooling = self.encoder.sense_space, self.encoder.pooling
        embedded = await self._words_of_tokenized(
            tokenized,
            spans,
            layers=space.states_needed,
            reduce_of=lambda runs: partial(
                space.vectors, words=runs, subword_pooling=subword_pooling, pooling=pooling
            ),
            fingerprint=self.encoder.sense_fingerprint(subword_pooling),
            lane=lane,
        )
        return replace(embedded, layers=space.layers)

    async def _words_of_tokenized(
        self,
        tokenized: Tokenized,
        wanted: Sequence[Sequence[Span]],
        *,
        layers: Layers,
        reduce_of: Callable[[Sequence[slice]], Reduce],
        fingerprint: Fingerprint,
        lane: Lane,
    ) -> EmbeddedWords:
        """reduce_of: what makes of a window's states the vectors of the words at these tokens"""
        each = list(zip(tokenized.texts, wanted, strict=True))
        places = await self.aside(
            lambda: [places_of(text, spans) for text, spans in each],
            SPAN_COST * sum(map(len, wanted)),
        )
        works = [
            Work(text.windows[window], reduce_of(runs))
            for (text, _), found in zip(each, places, strict=True)
            for window, runs in found.slices.items()
        ]
        computed = await self._submit(works, tokenized, layers, lane)
        results = iter(computed.results)
        return EmbeddedWords(
            [_words_of(found, spans, results) for found, spans in zip(places, wanted, strict=True)],
            tokenized.counts,
            layers,
            fingerprint,
            _timings(tokenized, computed),
        )

    async def states(
        self,
        texts: Sequence[str],
        *,
        layers: Layers,
        normalized: bool,
        truncation: Truncation,
        lane: Lane,
    ) -> EmbeddedStates:
        """The vectors of all tokens. Raises ValueError under WINDOWS: a text has one window here.

        Raises InputTooLong as `embed` does, and ReplyTooLarge before any work if the vectors
        would not fit into one message.
        """
        if truncation is Truncation.WINDOWS:
            raise ValueError("the windows of a text overlap: its tokens have no one vector")
        self.check_room(len(texts), lane)
        tokenized = await self.tokenize(texts, truncation)
        refuse_long(tokenized.texts, truncation, self.encoder.tokens_max)
        windows = [text.windows[0] for text in tokenized.texts]
        reply_bytes = sum(len(w.ids) for w in windows) * self.encoder.states_width * 4
        if reply_bytes > self._message_bytes_max:
            raise ReplyTooLarge(reply_bytes, self._message_bytes_max)
        works = [Work(window, partial(_token_vectors, normalized)) for window in windows]
        computed = await self._submit(works, tokenized, layers, lane)
        fingerprint = self._fingerprint_of("tokens", layers, normalized)
        timing = _timings(tokenized, computed)
        return EmbeddedStates(windows, computed.results, tokenized.counts, fingerprint, timing)

    # ---- other questions

    async def ask(
        self, question: Question, windows: Sequence[Window], tokenized: Tokenized, lane: Lane
    ) -> tuple[list[Any], Timings]:
        """The answer to each of `windows`, which were made of `tokenized`, in order, and where
        the time went."""
        works = [Work(window) for window in windows]
        computed = await self._submit(works, tokenized, question, lane)
        return computed.results, _timings(tokenized, computed)

    def _fingerprint_of(self, parts: str, layers: Layers, normalized: bool) -> Fingerprint:
        fingerprint = self.encoder.fingerprint(
            pooling=self.encoder.pooling,
            prompt="",
            dimensions=self.encoder.states_width,
            normalized=normalized,
        )
        return replace(fingerprint, pooling=f"{parts}, layers {','.join(map(str, layers))}")

    # ---- the way there

    def check_room(self, texts: int, lane: Lane) -> None:
        """Raises QueueFull for texts that would be refused after they were tokenized: under
        overload even that would take time from those who are answered."""
        call = current_call()
        self.batcher.check(texts, lane, call.deadline if call else None)

    async def tokenize(
        self,
        texts: Sequence[str],
        truncation: Truncation,
        prompt: str = "",
        *,
        tokens_max: int | None = None,
        places: bool = True,
    ) -> Tokenized:
        """What the model will read of `texts`. Under ERROR a long text is cut as under HEAD and
        marked as truncated: `refuse_long` refuses it, or the caller answers it by itself.

        tokens_max: of one window, special tokens included; None for the model's
        places: False where nobody asks where in the text a token stands
        Raises LimitExceeded when all of them together have more tokens than a call may,
        RateExceeded when they are more than the caller's key has left, and RequestInvalid for a
        prompt that leaves no room.
        """
        started = time.monotonic()
        if prompt:
            check_prompt_room(prompt, "options.prompt", self.encoder)
        encode = partial(
            self._encode,
            texts,
            tokens_max=tokens_max or self.encoder.tokens_max,
            truncation=Truncation.HEAD if truncation is Truncation.ERROR else truncation,
            prompt=prompt,
            places=places,
        )
        characters = sum(map(len, texts)) + len(prompt) * len(texts)
        tokenized = await self.aside(encode, characters)
        if (call := current_call()) is not None:
            call.charge(sum(text.tokens_used for text in tokenized))
        return Tokenized(tokenized, time.monotonic() - started)

    def _encode(self, texts: Sequence[str], **how: Any) -> list[TokenizedText]:
        """Stops at the text that is too much, so that a call costs no more than it may."""
        tokenized, tokens = [], 0
        for text in self.encoder.tokenizer.each(texts, **how):
            tokenized.append(text)
            tokens += text.tokens_used
            if tokens > self.call_tokens_max:
                unit = "tokens together, at least"
                raise LimitExceeded("inputs", tokens, self.call_tokens_max, unit)
        return tokenized

    async def aside(self, work: Callable[[], T], characters: int) -> T:
        """What `work` returns, computed off the event loop unless it has little to chew on.

        characters: that it reads, each as often as it does; of other work, steps as small
        """
        if characters <= INLINE_CHARACTERS_MAX:
            return work()
        # The copied context tells `work` which call it is for.
        run = partial(contextvars.copy_context().run, work)
        return await asyncio.get_running_loop().run_in_executor(self._threads, run)

    async def _submit(
        self,
        works: Sequence[Work],
        tokenized: Tokenized,
        kind: Layers | Question | None,
        lane: Lane,
        patient: bool = False,
    ) -> Computed[Any]:
        call = current_call()
        try:
            return await self.batcher.submit(
                works,
                kind=kind,
                lane=lane,
                deadline=call.deadline if call else None,
                patient=patient,
            )
        except DeadlinePassed as error:
            raise DeadlinePassed({"tokenize": tokenized.tokenize_s, **error.spent_s}) from None

    def _pooling_path(self, pooling: Pooling | None) -> tuple[Layers | None, Reduce | None]:
        """The model pools by itself only as it was trained to; other poolings take its states."""
        if pooling is None or pooling is self.encoder.pooling:
            return None, None
        return (self.encoder.layers,), lambda states: pool(states[0], pooling)


def lanes_apart(settings: Settings) -> bool:
    """Whether people and bulk have threads of their own: where threads have a niceness, and a
    processor computes."""
    return settings.bulk_niceness > 0 and settings.device == "cpu" and sys.platform == "linux"


def _compute(encoder: Encoder, kind: Any, works: Sequence[Work]) -> Sequence[Any]:
    windows = [work.window for work in works]
    if kind is None:
        return list(encoder.pooled(windows))
    if not isinstance(kind, tuple):
        answers: Sequence[Any] = kind.answer(encoder, windows)
        return answers
    states = encoder.states(windows, kind)
    return [
        work.reduce(layers) if work.reduce else layers
        for work, layers in zip(works, states, strict=True)
    ]


def refuse_long(texts: Sequence[TokenizedText], truncation: Truncation, tokens_max: int) -> None:
    """Raise InputTooLong for the first truncated text, if the policy is ERROR."""
    if truncation is not Truncation.ERROR:
        return
    for index, text in enumerate(texts):
        if text.truncated:
            raise InputTooLong(index, text.tokens_total, tokens_max)


def _timings(tokenized: Tokenized, computed: Computed[Any]) -> Timings:
    return Timings(computed.queue_s, tokenized.tokenize_s, computed.compute_s)


def _per_text(vectors: NDArray[np.float32], texts: Sequence[TokenizedText]) -> NDArray[np.float32]:
    """The mean of each text's window vectors: (windows, width) to (texts, width)."""
    if len(vectors) == len(texts):
        return vectors
    sizes = [len(text.windows) for text in texts]
    parts = np.split(vectors, np.cumsum(sizes)[:-1])
    return np.stack([part.mean(axis=0) for part in parts])


def _word_vectors(
    slices: Sequence[slice],
    pooling: SubwordPooling,
    normalized: bool,
    states: NDArray[np.float32],
) -> NDArray[np.float32]:
    """(words, width), a row for each of `slices`, of states (layers, tokens, width)."""
    vectors = np.stack([word_vector(states, tokens, pooling) for tokens in slices])
    return normalize(vectors) if normalized else vectors


def _token_vectors(normalized: bool, states: NDArray[np.float32]) -> NDArray[np.float32]:
    """(tokens, width), the mean of states (layers, tokens, width)."""
    vectors = np.ascontiguousarray(states.mean(axis=0), dtype=np.float32)
    return normalize(vectors) if normalized else vectors


def _words_of(
    found: Places, spans: Sequence[Span], results: Iterator[NDArray[np.float32]]
) -> list[EmbeddedWord | None]:
    by_window = {window: next(results) for window in found.slices}
    return [
        EmbeddedWord(span, by_window[place.window][place.row], place.tokens) if place else None
        for place, span in zip(found.places, spans, strict=True)
    ]
