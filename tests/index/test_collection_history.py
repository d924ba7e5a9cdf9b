"""A collection against a dict and brute force, over random histories."""

import dataclasses
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from index.documents import Document, Query, SearchMode, WriteMode
from index.errors import DocumentExists, DocumentNotFound
from index.filter import Equal, Range
from index.settings import StoreSettings
from index.spec import CollectionSpec
from index.store import Store

WIDTH = 8


def brute_force(model, query, k, keep=lambda document: True):
    """(id, score) of the k nearest, best first, ties by id."""
    query = query / np.linalg.norm(query.astype(np.float64))
    scores = []
    for id, document in model.items():
        vector = document.vector.astype(np.float64)
        if keep(document):
            scores.append((-float(vector @ query / np.linalg.norm(vector)), id))
    return [(id, -score) for score, id in sorted(scores)[:k]]


def assert_same_hits(hits, expected):
    np.testing.assert_allclose(
        [hit.score for hit in hits], [score for _, score in expected], atol=1e-6
    )
    # Scores that differ by rounding alone may stand in either order.
    assert len({hit.id for hit in hits}) == len(expected)


class CollectionMachine(RuleBasedStateMachine):
    """Random histories, with restarts, merges and snapshots among them."""

    @initialize()
    def open(self):
        self.directory = Path(tempfile.mkdtemp())
        self.settings = StoreSettings(
            exact_vectors_max=30,
            quiet_s=0,
            flat_vectors_max=15,
            scan_vectors_max=60,
            disk_free_bytes_min=0,
        )
        self.data = self.directory / "data"
        self.store = Store.open(self.data, self.settings)
        self.name = "c"
        self.collection = self.store.create(CollectionSpec(name="c", dimensions=WIDTH))
        self.model = {}
        self.made = 0
        self.requests = []
        self.saved = []

    def teardown(self):
        self.store.close()
        shutil.rmtree(self.directory)

    def document(self, number, seed):
        vector = np.random.default_rng(seed).integers(-3, 4, WIDTH).astype(np.float32)
        vector[0] += 5  # never of length 0; whole numbers, so that ties happen
        metadata = {"n": number, "s": seed % 5}
        text = f"word{seed % 7} word{number % 3}"
        return Document(id=f"d{number}", text=text, metadata=metadata, vector=vector)

    @rule(numbers=st.sets(st.integers(0, 99), min_size=1, max_size=40), seed=st.integers(0, 999))
    def upsert(self, numbers, seed):
        documents = [self.document(number, seed + number) for number in sorted(numbers)]

        written = self.collection.upsert(documents)

        new = {document.id: document for document in documents}
        assert written.updated == len(new.keys() & self.model.keys())
        assert written.inserted == len(new) - written.updated
        self.model |= new

    @rule(numbers=st.sets(st.integers(0, 99), min_size=1, max_size=40), seed=st.integers(0, 999))
    def upsert_with_request_id(self, numbers, seed):
        documents = [self.document(number, seed + number) for number in sorted(numbers)]
        request_id = f"r{len(self.requests)}"

        written = self.collection.upsert(documents, request_id=request_id)

        assert not written.replayed
        self.requests.append((documents, request_id, written))
        self.model |= {document.id: document for document in documents}

    @precondition(lambda self: self.requests)
    @rule(which=st.integers(0, 99))
    def ask_again(self, which):
        """Whatever came in between: a retry changes nothing and gets the first answer."""
        documents, request_id, first = self.requests[which % len(self.requests)]

        again = self.collection.upsert(documents, request_id=request_id)

        assert again == dataclasses.replace(first, replayed=True)

    @rule(number=st.integers(0, 99), seed=st.integers(0, 999), mode=st.sampled_from(WriteMode))
    def write_by_mode(self, number, seed, mode):
        document = self.document(number, seed)
        exists = document.id in self.model
        refused = {WriteMode.INSERT: exists, WriteMode.UPDATE: not exists}.get(mode, False)
        if refused:
            with pytest.raises((DocumentExists, DocumentNotFound)):
                self.collection.upsert([document], mode=mode)
            return

        written = self.collection.upsert([document], mode=mode)

        self.model[document.id] = document
        found = self.collection.search(
            Query(vector=document.vector, k=100, exact=True, min_sequence=written.sequence)
        )
        assert found.sequence >= written.sequence
        assert document.id in {hit.id for hit in found.hits}

    @rule(numbers=st.sets(st.integers(0, 99), min_size=1, max_size=20))
    def delete(self, numbers):
        ids = [f"d{number}" for number in numbers]

        written = self.collection.delete(ids)

        assert written.deleted == len(self.model.keys() & set(ids))
        for id in ids:
            self.model.pop(id, None)

    @rule(low=st.integers(0, 99), limit=st.integers(1, 50))
    def purge(self, low, limit):
        gone = sorted(id for id, d in self.model.items() if d.metadata["n"] >= low)

        written = self.collection.purge(Range("n", gte=low), limit=limit)

        assert written.deleted == min(limit, len(gone))
        assert written.more == (len(gone) > limit)
        for id in gone[:limit]:
            del self.model[id]

    @rule()
    def compact(self):
        before = self.exact_answers()

        self.collection.compact()

        assert self.exact_answers() == before
        assert self.collection.statistics().tombstones == 0

    @rule()
    def wait_for_builds(self):
        self.collection.wait_for_builds()

    @rule()
    def restart(self):
        """The segments are read again, so the approximate answers are the same too."""
        self.collection.wait_for_builds()
        before, likely = self.exact_answers(), self.answers(exact=False)

        self.store.close()
        self.reopen()

        assert self.exact_answers() == before
        assert self.answers(exact=False) == likely

    @rule()
    def crash(self):
        """As after kill -9: what is on the disk is opened elsewhere, with its write-ahead log."""
        self.collection.wait_for_builds()
        before = self.exact_answers()
        self.made += 1
        copy = self.directory / f"crashed{self.made}"
        shutil.copytree(self.data, copy)

        self.store.close()
        self.data = copy
        self.reopen()

        assert self.exact_answers() == before

    @rule()
    def restart_without_segments(self):
        before = self.exact_answers()

        self.store.close()
        shutil.rmtree(self.collection.directory / "segments")
        self.reopen()

        assert self.exact_answers() == before

    def reopen(self):
        self.store = Store.open(self.data, self.settings)
        self.collection = self.store.collection(self.name)

    @rule()
    def save(self):
        self.made += 1
        snapshot = self.collection.snapshot(self.directory / f"saved{self.made}")
        self.saved.append((snapshot.path, dict(self.model), list(self.requests)))

    @precondition(lambda self: self.saved)
    @rule(which=st.integers(0, 99))
    def go_back(self, which):
        """A snapshot of any earlier moment takes the collection's place."""
        path, self.model, self.requests = self.saved[which % len(self.saved)]
        self.model, self.requests = dict(self.model), list(self.requests)
        self.made += 1

        self.store.delete(self.name)
        self.name = f"c{self.made}"
        self.collection = self.store.restore(path, self.name)

    @rule()
    def move_by_snapshot(self):
        before = self.exact_answers()
        self.made += 1
        snapshot = self.collection.snapshot(self.directory / f"snapshot{self.made}")

        self.store.delete(self.name)
        self.name = f"c{self.made}"
        self.collection = self.store.restore(snapshot.path, self.name)

        assert self.exact_answers() == before

    @rule(seed=st.integers(0, 999), k=st.integers(1, 20), exact=st.booleans())
    def search(self, seed, k, exact):
        vector = self.document(0, seed).vector

        result = self.collection.search(Query(vector=vector, k=k, exact=exact))

        assert result.exhausted == (len(self.model) < k)
        assert len(result.hits) == min(k, len(self.model))
        if exact or result.exact:
            assert_same_hits(result.hits, brute_force(self.model, vector, k))

    @rule(seed=st.integers(0, 999), k=st.integers(1, 20), s=st.integers(0, 5))
    def filtered_search(self, seed, k, s):
        vector = self.document(0, seed).vector

        result = self.collection.search(Query(vector=vector, k=k, filter=Equal("s", s)))

        expected = brute_force(self.model, vector, k, lambda d: d.metadata["s"] == s)
        assert all(hit.document.metadata["s"] == s for hit in result.hits)
        assert_same_hits(result.hits, expected)

    @rule(word=st.integers(0, 7), k=st.integers(1, 20))
    def lexical_search(self, word, k):
        result = self.collection.search(Query(mode=SearchMode.LEXICAL, text=f"WORD{word}", k=k))

        having = {id for id, d in self.model.items() if f"word{word}" in d.text.split()}
        assert {hit.id for hit in result.hits} <= having
        assert len(result.hits) == min(k, len(having))

    @rule(seed=st.integers(0, 999), k=st.integers(1, 20))
    def hybrid_search(self, seed, k):
        query = Query(
            mode=SearchMode.HYBRID, vector=self.document(0, seed).vector, text="word1", k=k
        )

        result = self.collection.search(query)

        assert len(result.hits) == min(k, len(self.model))
        scores = [hit.score for hit in result.hits]
        assert scores == sorted(scores, reverse=True)

    @invariant()
    def holds_what_the_dict_holds(self):
        assert self.collection.documents_count == len(self.model)
        documents = []
        token = ""
        while True:
            page = self.collection.list(page_size=37, page_token=token)
            documents += page.documents
            token = page.next_page_token
            if not token:
                break
        assert [d.id for d in documents] == sorted(self.model)
        for document in documents:
            expected = self.model[document.id]
            assert (document.text, document.metadata) == (expected.text, expected.metadata)

    @invariant()
    def is_sound(self):
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps % 7 == 0:  # it reads everything
            self.collection.wait_for_builds()
            assert self.collection.check() == []

    def exact_answers(self):
        return self.answers(exact=True)

    def answers(self, *, exact):
        vectors = [self.document(0, seed).vector for seed in range(3)]
        queries = [
            Query(vector=vector, k=k, exact=exact, with_documents=False)
            for vector in vectors
            for k in (1, 10)
        ]
        return [self.collection.search(query).hits for query in queries]


TestCollectionMachine = CollectionMachine.TestCase
TestCollectionMachine.settings = examples(max_examples=12, stateful_step_count=20, deadline=None)


@pytest.mark.slow
@pytest.mark.timeout(1800)
class TestLongHistories(CollectionMachine.TestCase):
    settings = examples(max_examples=100, stateful_step_count=60, deadline=None)
