"""What a search looks for: each query of the API with its vector, its words, its exclusions."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from encoder.runtime import Fingerprint
from encoder.tokenizer import Truncation
from encoder.words import Span, SubwordPooling
from index.collection import Collection
from index.documents import SearchMode
from index.errors import DimensionMismatch, DocumentNotFound, FingerprintMismatch
from index.fields import check_text as check_stored_text
from index.settings import StoreSettings
from index.validation import prepare_vectors
from polyseme.v1 import search_pb2
from server.documents import check_vector_fingerprint, own_vector_from
from server.embedder import Embedder, Lane, Timings, TokenCounts
from server.errors import RequestInvalid, naming
from server.limits import check_text
from server.messages import target_from
from server.recipes import embed_named, fingerprint_of, recipe_of, usable_recipe
from server.settings import Settings
from server.threads import in_thread


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
    timings: Timings = field(default_factory=Timings)


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

        Raises RequestInvalid, FingerprintMismatch, DocumentNotFound, DimensionMismatch, and what
        the embedder raises, for the first query that cannot be answered.
        """
        words = [self._lexical_text(one, mode, lexical_text) for one in asked]
        if mode is SearchMode.LEXICAL:
            ids = [_document_id(one) for one in asked]
            return [Sought(text=t, excluded=id) for t, id in zip(words, ids, strict=True)]
        found: dict[int, Sought] = {}
        found |= await self._texts(collection, _of_kind(asked, "text"), lane)
        found |= self._vectors(collection, _of_kind(asked, "vector"))
        found |= await self._documents(collection, _of_kind(asked, "document_id"))
        found |= await self._words(collection, _of_kind(asked, "word"), lane)
        return [
            found[i] if text is None else replace(found[i], text=text)
            for i, text in enumerate(words)
        ]

    def _lexical_text(self, asked: Asked, mode: SearchMode, lexical_text: str) -> str | None:
        """What the lexical side looks for; None if there is no such side."""
        kind = asked.query.WhichOneof("query")
        if kind is None:
            raise RequestInvalid(asked.field, "nothing to look for; set exactly one")
        if mode is SearchMode.DENSE:
            return None
        if lexical_text:
            text, where = lexical_text, "options.lexical_text"
        elif kind == "text":
            text, where = asked.query.text, f"{asked.field}.text"
        else:
            problem = f"a {mode} search by {kind} needs it"
            raise RequestInvalid("options.lexical_text", problem)
        check_text(where, text, self._settings)
        check_stored_text(text, where, self._limits.query_bytes_max)
        return text

    async def _texts(
        self, collection: Collection, asked: dict[int, Asked], lane: Lane
    ) -> dict[int, Sought]:
        if not asked:
            return {}
        fields = [f"{one.field}.text" for one in asked.values()]
        for one, where in zip(asked.values(), fields, strict=True):
            check_text(where, one.query.text, self._settings)
        recipe = usable_recipe(collection.spec, self._embedder)
        embedded = await embed_named(
            self._embedder,
            [one.query.text for one in asked.values()],
            recipe.for_queries(),
            lane,
            together="queries" if len(asked) > 1 else fields[0],
            each=lambda i: fields[i],
        )
        return {
            i: Sought(
                vector=vector,
                fingerprint=embedded.fingerprint,
                counts=counts,
                timings=embedded.timing,
            )
            for i, vector, counts in zip(asked, embedded.vectors, embedded.counts, strict=True)
        }

    def _vectors(self, collection: Collection, asked: dict[int, Asked]) -> dict[int, Sought]:
        spec = collection.spec
        recipe, made_by = recipe_of(spec), fingerprint_of(spec)
        also = []
        if recipe and made_by:  # vectors of queries, made with the query prompt, belong here too
            also = [replace(made_by, prompt=recipe.query_prompt).combined]
        vectors, fields = [], []
        for one in asked.values():
            given = one.query.vector
            where = f"{one.field}.vector"
            check_vector_fingerprint(given.fingerprint, f"{where}.fingerprint", spec, also)
            vectors.append(own_vector_from(given.vector, f"{where}.vector", spec))
            fields.append(f"{where}.vector")
        if vectors:
            prepare_vectors(vectors, fields, spec)  # refuses one of length 0
        return {i: Sought(vector=vector) for i, vector in zip(asked, vectors, strict=True)}

    async def _documents(
        self, collection: Collection, asked: dict[int, Asked]
    ) -> dict[int, Sought]:
        if not asked:
            return {}
        ids = [one.query.document_id for one in asked.values()]
        stored = await in_thread(self._executor, collection.get, ids, with_vectors=True)
        found = {}
        for i, id, document in zip(asked, ids, stored, strict=True):
            if document is None:
                raise DocumentNotFound(id)
            found[i] = Sought(
                vector=document.vector, excluded=id, fingerprint=fingerprint_of(collection.spec)
            )
        return found

    async def _words(
        self, collection: Collection, asked: dict[int, Asked], lane: Lane
    ) -> dict[int, Sought]:
        if not asked:
            return {}
        fields = [f"{one.field}.word" for one in asked.values()]
        words = [self._word(one, where) for one, where in zip(asked.values(), fields, strict=True)]
        with naming(lambda i: f"{fields[i]}.text"):
            embedded = await self._embedder.words(
                [(word.text, [word.span]) for word in words],
                layers=tuple(self._embedder.encoder.word_layers),
                subword_pooling=SubwordPooling.MEAN,
                normalized=True,
                truncation=Truncation.WINDOWS,
                lane=lane,
            )
        _check_word_vectors(collection, embedded.fingerprint, fields[0])
        found = {}
        for i, where, (read,), counts in zip(
            asked, fields, embedded.words, embedded.counts, strict=True
        ):
            if read is None:
                raise RequestInvalid(f"{where}.target", "the tokenizer has no token for it")
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


def _of_kind(asked: Sequence[Asked], kind: str) -> dict[int, Asked]:
    return {i: one for i, one in enumerate(asked) if one.query.WhichOneof("query") == kind}


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
