"""What a search looks for: each query of the API with its vector, its words, its exclusions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from encoder.runtime import Fingerprint
from encoder.tokenizer import Truncation
from encoder.words import Span, SubwordPooling
from index.collection import Collection
from index.documents import SearchMode
from index.errors import DimensionMismatch, DocumentNotFound, FingerprintMismatch, InvalidInput
from index.fields import check_text as check_stored_text
from index.settings import StoreSettings
from index.validation import check_id, prepare_vectors
from polyseme.v1 import search_pb2
from server.documents import check_vector_fingerprint, own_vector_from
from server.embedder import Embedded, Embedder, EmbedPlan, Lane, Timings, TokenCounts
from server.errors import RequestInvalid, naming
from server.limits import check_text
from server.messages import plain_vectors_from, target_from
from server.partial import embed_each
from server.recipes import embed_named, fingerprint_of, recipe_of, usable_recipe
from server.refusals import Refusal, Refusals
from server.settings import Settings
from server.threads import in_thread

_NO_TIME = Timings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """A query of which everything is known that the index needs.

    vector:      None for LEXICAL
    text:        the lexical side's; None for DENSE
    excluded:    the id of the document that is the query
    fingerprint: what made the vector, where the server knows
    """

    vector: NDArray[np.float32] | None = None
    text: str | None = None
    excluded: str | None = None
    fingerprint: Fingerprint | None = None
    counts: TokenCounts | None = None
    timings: Timings = _NO_TIME


@dataclass(frozen=True, slots=True)
class Asked:
    """A query as it came, and its place in the request."""

    query: search_pb2.SearchQuery
    field: str


@dataclass(frozen=True, slots=True)
class Word:
    """A word in its sentence."""

    text: str
    span: Span


@dataclass(frozen=True, slots=True)
class _Side:
    """Which sides a search has, and the lexical one's text where the options give it."""

    mode: SearchMode
    text: str


class Resolver:
    """Turns queries into what the index can look for. All texts of a call are embedded together."""

    def __init__(
        self, embedder: Embedder, settings: Settings, limits: StoreSettings, executor: Executor
    ) -> None:
        self._embedder = embedder
        self._settings = settings
        self._limits = limits
        self._executor = executor

    async def resolve(
        self,
        collection: Collection,
        asked: Sequence[Asked],
        mode: SearchMode,
        lexical_text: str,
        lane: Lane,
    ) -> list[Sought]:
        """In the order of `asked`.

        Raises a Refusal for a query that cannot be answered, and what the embedder raises.
        """
        refused = Refusals(partial=False)
        found = await self._resolved(collection, asked, _Side(mode, lexical_text), lane, refused)
        return [found[i] for i in range(len(asked))]

    async def resolve_each(
        self,
        collection: Collection,
        asked: Sequence[Asked],
        mode: SearchMode,
        lexical_text: str,
        lane: Lane,
    ) -> list[Sought | Refusal]:
        """The same, with what is wrong with a query in its place."""
        refused = Refusals(partial=True)
        found = await self._resolved(collection, asked, _Side(mode, lexical_text), lane, refused)
        return [refused[i] if i in refused else found[i] for i in range(len(asked))]

    async def _resolved(
        self,
        collection: Collection,
        asked: Sequence[Asked],
        side: _Side,
        lane: Lane,
        refused: Refusals,
    ) -> dict[int, Sought]:
        """Those that are not refused, by their index."""
        words: dict[int, str | None] = {}
        for i, one in enumerate(asked):
            with refused.of(i):
                words[i] = self._lexical_text(one, side)
        good = {i: asked[i] for i in words}
        if side.mode is SearchMode.LEXICAL:
            return {i: Sought(text=words[i], excluded=_document_id(good[i])) for i in good}
        kinds = _by_kind(good)
        found: dict[int, Sought] = {}
        found |= await self._texts(collection, kinds["text"], lane, refused)
        found |= self._vectors(collection, kinds["vector"], refused)
        found |= await self._documents(collection, kinds["document_id"], refused)
        found |= await self._words(collection, kinds["word"], lane, refused)
        if side.mode is SearchMode.DENSE:
            return found
        return {
            i: one if words[i] is None else replace(one, text=words[i]) for i, one in found.items()
        }

    def _lexical_text(self, asked: Asked, side: _Side) -> str | None:
        """What the lexical side looks for; None if there is no such side."""
        kind = asked.query.WhichOneof("query")
        if kind is None:
            raise RequestInvalid(asked.field, "nothing to look for; set exactly one")
        if kind == "document_id":
            check_id(asked.query.document_id, f"{asked.field}.document_id", self._limits)
        if side.mode is SearchMode.DENSE:
            return None
        if side.text:
            text, where = side.text, "options.lexical_text"
        elif kind == "text":
            text, where = asked.query.text, f"{asked.field}.text"
        else:
            problem = f"a {side.mode} search by {kind} needs it"
            raise RequestInvalid("options.lexical_text", problem)
        check_text(where, text, self._settings)
        check_stored_text(text, where, self._limits.query_bytes_max)
        return text

    async def _texts(
        self, collection: Collection, asked: dict[int, Asked], lane: Lane, refused: Refusals
    ) -> dict[int, Sought]:
        for i, one in asked.items():
            with refused.of(i):
                check_text(f"{one.field}.text", one.query.text, self._settings)
        good = _without(asked, refused)
        with refused.of(*good):
            plan = None
            if good:
                plan = usable_recipe(collection.spec, self._embedder).for_queries()
        if plan is None:
            return {}
        embedded = await self._embedded(good, plan, lane, refused)
        good = _without(good, refused)
        return {
            i: Sought(
                vector=vector,
                fingerprint=embedded.fingerprint,
                counts=counts,
                timings=embedded.timing,
            )
            for i, vector, counts in zip(good, embedded.vectors, embedded.counts, strict=True)
        }

    async def _embedded(
        self, asked: dict[int, Asked], plan: EmbedPlan, lane: Lane, refused: Refusals
    ) -> Embedded:
        """The vectors of the texts that are not refused: all are tokenized together, so that
        the limit of a call is one whether its queries are answered each by itself or not."""
        indices = list(asked)
        texts = [one.query.text for one in asked.values()]
        fields = [f"{one.field}.text" for one in asked.values()]
        together = "queries" if len(asked) > 1 else fields[0]
        if not refused.partial:
            return await embed_named(
                self._embedder, texts, plan, lane, together=together, each=fields.__getitem__
            )
        with naming(fields.__getitem__, together):
            each = await embed_each(
                self._embedder, texts, plan, lane, self._settings, field_of=fields.__getitem__
            )
        refused.update({indices[place]: error for place, error in each.errors.items()})
        return each.embedded

    def _vectors(
        self, collection: Collection, asked: dict[int, Asked], refused: Refusals
    ) -> dict[int, Sought]:
        spec = collection.spec
        recipe, made_by = recipe_of(spec), fingerprint_of(spec)
        also = []
        if recipe and made_by:  # vectors of queries, made with the query prompt, belong here too
            also = [replace(made_by, prompt=recipe.query_prompt).combined]
        found: dict[int, NDArray[np.float32]] = {}
        fields = {i: f"{one.field}.vector" for i, one in asked.items()}
        given = [one.query.vector for one in asked.values()]
        plain = plain_vectors_from([one.vector for one in given], spec.dimensions)
        for place, (i, field) in enumerate(fields.items()):
            one = given[place]
            with refused.of(i):
                check_vector_fingerprint(one.fingerprint, f"{field}.fingerprint", spec, also)
                if plain is None:
                    found[i] = own_vector_from(one.vector, f"{field}.vector", spec)
                else:
                    found[i] = plain[place]
        try:  # as one matrix: a vector alone takes 23 µs, for 2 beside others
            prepare_vectors(list(found.values()), [f"{fields[i]}.vector" for i in found], spec)
        except InvalidInput:  # of length 0; each by itself, to say which
            for i, vector in found.items():
                with refused.of(i):
                    prepare_vectors([vector], [f"{fields[i]}.vector"], spec)
        return {i: Sought(vector=vector) for i, vector in found.items() if i not in refused}

    async def _documents(
        self, collection: Collection, asked: dict[int, Asked], refused: Refusals
    ) -> dict[int, Sought]:
        ids = [one.query.document_id for one in asked.values()]
        vectors: list[NDArray[np.float32] | None] = []
        for start in range(0, len(ids), self._limits.batch_documents_max):
            chunk = ids[start : start + self._limits.batch_documents_max]
            vectors += await in_thread(self._executor, collection.vectors, chunk)
        made_by = fingerprint_of(collection.spec)
        found = {}
        for i, id, vector in zip(asked, ids, vectors, strict=True):
            with refused.of(i):
                if vector is None:
                    raise DocumentNotFound(id)
                found[i] = Sought(vector=vector, excluded=id, fingerprint=made_by)
        return found

    async def _words(
        self, collection: Collection, asked: dict[int, Asked], lane: Lane, refused: Refusals
    ) -> dict[int, Sought]:
        if not asked:
            return {}

        def located() -> dict[int, Word]:
            words = {}
            for i, one in asked.items():
                with refused.of(i):
                    words[i] = self._word(one, f"{one.field}.word")
            return words

        words = await self._embedder.aside(
            located, sum(len(one.query.word.text) for one in asked.values())
        )
        if not words:
            return {}
        fields = {i: f"{asked[i].field}.word" for i in words}
        indices = list(words)
        together = "queries" if len(words) > 1 else f"{fields[indices[0]]}.text"
        with naming(lambda place: f"{fields[indices[place]]}.text", together):
            embedded = await self._embedder.words(
                [(word.text, [word.span]) for word in words.values()],
                layers=tuple(self._embedder.encoder.word_layers),
                subword_pooling=SubwordPooling.MEAN,
                normalized=True,
                truncation=Truncation.WINDOWS,
                lane=lane,
            )
        found = {}
        for i, (read,), counts in zip(words, embedded.words, embedded.counts, strict=True):
            with refused.of(i):
                _check_word_vectors(collection, embedded.fingerprint, fields[i])
                if read is None:
                    raise RequestInvalid(f"{fields[i]}.target", "the tokenizer has no token for it")
                found[i] = Sought(
                    vector=read.vector,
                    fingerprint=embedded.fingerprint,
                    counts=counts,
                    timings=embedded.timing,
                )
        return found

    def _word(self, asked: Asked, where: str) -> Word:
        word = asked.query.word
        check_text(f"{where}.text", word.text, self._settings)
        return Word(word.text, target_from(word.text, word.target, f"{where}.target"))


def _by_kind(asked: Mapping[int, Asked]) -> dict[str, dict[int, Asked]]:
    kinds: dict[str, dict[int, Asked]] = {
        kind: {} for kind in ("text", "vector", "document_id", "word")
    }
    for i, one in asked.items():
        kinds[one.query.WhichOneof("query") or ""][i] = one
    return kinds


def _without(asked: Mapping[int, Asked], refused: Refusals) -> dict[int, Asked]:
    return {i: one for i, one in asked.items() if i not in refused}


def _document_id(asked: Asked) -> str | None:
    return asked.query.document_id if asked.query.HasField("document_id") else None


def _check_word_vectors(collection: Collection, made_by: Fingerprint, field: str) -> None:
    """Raises unless the collection may hold word vectors of this model."""
    spec = collection.spec
    if spec.fingerprint_hash not in ("", made_by.combined):
        expected = fingerprint_of(spec)
        differences = made_by.differences(expected) if expected else ()
        raise FingerprintMismatch(spec.name, made_by.combined, spec.fingerprint_hash, differences)
    if spec.dimensions != made_by.dimensions:
        raise DimensionMismatch(field, made_by.dimensions, spec.dimensions)
