"""Texts to translations: sentences of all callers share batches, each batch a core."""

import asyncio
import contextvars
import time
from collections.abc import AsyncGenerator, Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TypeVar

from encoder.sentences import Splitting
from encoder.session import cores
from encoder.tokenizer import Window
from encoder.translated import (
    Assembly,
    LanguageUnknown,
    Prepared,
    Sentence,
    Translated,
    assemble,
    prepare,
)
from encoder.translation import BeamPlan, Translator, Written
from server.batcher import Batcher, Computed
from server.batching import Lane
from server.call import current_call
from server.embedded import Timings
from server.errors import LimitExceeded
from server.settings import Settings

NO_TRANSLATION = "MODEL_HAS_NO_TRANSLATION"
NO_TRANSLATION_PROBLEM = (
    "the model that is served has no translator, and no other was given: serve a model with one, "
    "or name one with --translation-model"
)

T = TypeVar("T")

PREPARING_THREADS = 2
# What a person's sentence may wait for a batch of bulk, seconds.
BULK_BATCH_S_MAX = 0.25


@dataclass(frozen=True, slots=True)
class TranslatePlan:
    """What a call wants. source: empty to detect each text's language"""

    target: str
    source: str
    beam: BeamPlan
    alignment: bool
    splitting: Splitting


@dataclass(slots=True, eq=False)
class Ticket:
    """A call's wish for its sentences; void when it is cancelled or too late."""

    deadline: float | None = None  # time.monotonic
    void: bool = field(default=False)

    @property
    def wanted(self) -> bool:
        """Whether anybody would read the translation."""
        return not self.void and (self.deadline is None or time.monotonic() < self.deadline)


@dataclass(frozen=True, slots=True)
class Work:
    """One sentence for the model."""

    window: Window
    target: str
    beams: int
    ticket: Ticket


@dataclass(frozen=True, slots=True)
class TranslatedTexts:
    """Several texts, in order, and where the time went."""

    texts: list[Translated]
    timing: Timings


class Translating:
    """The one door to the translation model. Belongs to one event loop.

    Sentences of equal search plans travel together, whoever sent them and whatever their
    languages. Between two tokens a batch loses the sentences that nobody waits for any more.
    """

    def __init__(self, translator: Translator, settings: Settings) -> None:
        self.translator = translator
        self._tokens_max = settings.translation_tokens_max
        self._threads = ThreadPoolExecutor(PREPARING_THREADS, thread_name_prefix="sentences")
        self.batcher: Batcher[Work, list[Written]] = Batcher(
            self._compute,
            lambda work: len(work.window.ids) * work.beams,
            tokens_max=settings.translation_batch_tokens_max,
            queue_max=settings.queue_texts_max,
            bulk_age_s_max=settings.bulk_age_s_max,
            bulk_batch_s_max=BULK_BATCH_S_MAX,
            workers=settings.translation_workers or cores(),
        )

    async def close(self) -> None:
        """Finish the running batches; what waits gets Draining."""
        await self.batcher.close()
        self._threads.shutdown()

    async def prepare(
        self, texts: Sequence[str], plan: TranslatePlan
    ) -> list[Prepared | LanguageUnknown]:
        """Each text cut into sentences, or why it cannot be translated. Raises
        encoder.translation.PairMissing."""
        return await self.aside(partial(_prepare_each, self.translator, texts, plan))

    async def aside(self, work: Callable[[], T]) -> T:
        """What `work` returns, computed off the event loop."""
        # The copied context tells `work` which call it is for.
        run = partial(contextvars.copy_context().run, work)
        return await asyncio.get_running_loop().run_in_executor(self._threads, run)

    def admit(self, prepared: Sequence[Prepared], plan: TranslatePlan, name: str) -> None:
        """Raises LimitExceeded for more work than one call may ask for, and what the caller's key
        raises when its tokens are used up: a token counts once for each beam."""
        tokens = sum(one.tokens for one in prepared) * plan.beam.beams
        if tokens > self._tokens_max:
            raise LimitExceeded(name, tokens, self._tokens_max, "source tokens times beams")
        call = current_call()
        if call is not None:
            call.charge(tokens)

    async def translate(
        self,
        prepared: Sequence[Prepared],
        plan: TranslatePlan,
        lane: Lane,
        *,
        patient: bool = False,
    ) -> TranslatedTexts:
        """Each text translated.

        patient: wait for room in the queue instead of raising QueueFull
        """
        with ticket() as own:
            works = [work_of(w, plan, own) for one in prepared for w in one.windows]
            computed = await self._submit(works, plan, lane, own, patient)
        started = time.monotonic()
        texts = await self._assembled(prepared, computed.results, plan)
        spent_s = time.monotonic() - started
        return TranslatedTexts(texts, Timings(computed.queue_s, spent_s, computed.compute_s))

    async def sentences(
        self, prepared: Sequence[Prepared], plan: TranslatePlan, lane: Lane
    ) -> AsyncGenerator[Sentence | Translated, None]:
        """Of each text its sentences, in order, as soon as they are done; then the whole text."""
        with ticket() as own:
            tasks = [
                [
                    asyncio.create_task(
                        self._submit([work_of(window, plan, own)], plan, lane, own, True)
                    )
                    for window in one.windows
                ]
                for one in prepared
            ]
            try:
                for one, waiting in zip(prepared, tasks, strict=True):
                    async for part in self._each(one, waiting, plan):
                        yield part
            finally:
                every = [task for of_text in tasks for task in of_text]
                for task in every:
                    task.cancel()
                await asyncio.gather(*every, return_exceptions=True)

    async def _each(
        self,
        prepared: Prepared,
        tasks: Sequence["asyncio.Task[Computed[list[Written]]]"],
        plan: TranslatePlan,
    ) -> AsyncGenerator[Sentence | Translated, None]:
        assembly = Assembly(self.translator, prepared, alignment=plan.alignment)
        waiting = iter(tasks)
        for part in prepared.parts:
            written = () if part.window is None else (await next(waiting)).results[0]
            yield assembly.add(written)
        yield assembly.translated()

    async def _submit(
        self, works: Sequence[Work], plan: TranslatePlan, lane: Lane, own: Ticket, patient: bool
    ) -> Computed[list[Written]]:
        kind = (plan.beam, plan.alignment)
        return await self.batcher.submit(
            works, kind=kind, lane=lane, deadline=own.deadline, patient=patient
        )

    async def _assembled(
        self,
        prepared: Sequence[Prepared],
        written: Sequence[list[Written]],
        plan: TranslatePlan,
    ) -> list[Translated]:
        each = iter(written)

        def work() -> list[Translated]:
            return [
                assemble(
                    self.translator,
                    one,
                    list(islice(each, len(one.windows))),
                    alignment=plan.alignment,
                )
                for one in prepared
            ]

        return await self.aside(work)

    def _compute(self, kind: Hashable, works: Sequence[Work]) -> list[list[Written]]:
        assert isinstance(kind, tuple)
        plan, attention = kind
        return self.translator.translate(
            [work.window for work in works],
            [work.target for work in works],
            plan,
            attention=attention,
            wanted=lambda number: works[number].ticket.wanted,
        )


def _prepare_each(
    translator: Translator, texts: Sequence[str], plan: TranslatePlan
) -> list[Prepared | LanguageUnknown]:
    found: list[Prepared | LanguageUnknown] = []
    for text in texts:
        try:
            found.append(
                prepare(
                    translator,
                    text,
                    source=plan.source,
                    target=plan.target,
                    splitting=plan.splitting,
                )
            )
        except LanguageUnknown as unknown:
            found.append(unknown)
    return found


def work_of(window: Window, plan: TranslatePlan, own: Ticket) -> Work:
    return Work(window, plan.target, plan.beam.beams, own)


@contextmanager
def ticket() -> Iterator[Ticket]:
    """A ticket that is void when the block is left, however it is left."""
    call = current_call()
    own = Ticket(call.deadline if call else None)
    try:
        yield own
    finally:
        own.void = True


def primary(tag: str) -> str:
    """The language of a tag as "de-AT" (BCP 47)."""
    return tag.strip().lower().replace("_", "-").partition("-")[0]
