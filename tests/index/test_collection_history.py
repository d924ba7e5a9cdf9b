"""A collection against a dict and brute force, over random histories."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from index.documents import Document, Query, SearchMode
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
            exact_vectors_max=30, flat_vectors_max=15, scan_vectors_max=60, disk_free_bytes_min=0
        )
        self.store = Store.open(self.directory / "data", self.settings)
        self.name = "c"
        self.collection = self.store.create(CollectionSpec(name="c", dimensions=WIDTH))
        self.model = {}
        self.made = 0

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
        before = self.exact_answers()

        self.store.close()
        self.store = Store.open(self.directory / "data", self.settings)
        self.collection = self.store.collection(self.name)

        assert self.exact_answers() == before

    @rule()
    def restart_without_segments(self):
        before = self.exact_answers()

        self.store.close()
        shutil.rmtree(self.collection.directory / "segments")
        self.store = Store.open(self.directory / "data", self.settings)
        self.collection = self.store.collection(self.name)

        assert self.exact_answers() == before

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

    def exact_answers(self):
        vectors = [self.document(0, seed).vector for seed in range(3)]
        queries = [
            Query(vector=vector, k=k, exact=True, with_documents=False)
            for vector in vectors
            for k in (1, 10)
        ]
        return [self.collection.search(query).hits for query in queries]


TestCollectionMachine = CollectionMachine.TestCase
TestCollectionMachine.settings = examples(max_examples=12, stateful_step_count=20, deadline=None)
