"""What the tests of the memory side share: small documents, small limits, a store in a tmp_path."""

import numpy as np
import pytest

from index.documents import Document
from index.settings import StoreSettings
from index.spec import CollectionSpec
from index.store import Store

WIDTH = 8

# Segments and the graph begin early, so that a few hundred vectors meet every kind of index; what
# is built depends on no clock.
SMALL = StoreSettings(
    exact_vectors_max=40,
    quiet_s=0,
    flat_vectors_max=20,
    scan_vectors_max=2_000,
    disk_free_bytes_min=0,
    min_sequence_wait_s=0.05,
)


@pytest.fixture
def settings():
    return SMALL


@pytest.fixture
def spec():
    return CollectionSpec(name="fruit", dimensions=WIDTH)


@pytest.fixture
def store(tmp_path, settings):
    with Store.open(tmp_path / "data", settings) as store:
        yield store


@pytest.fixture
def collection(store, spec):
    return store.create(spec)


@pytest.fixture
def documents():
    """documents(n, start=0, seed=0): ids d0…, texts with the number, metadata n and parity."""

    def make(count, start=0, seed=0):
        rng = np.random.default_rng([seed, start])
        vectors = rng.normal(size=(count, WIDTH)).astype(np.float32)
        return [
            Document(
                id=f"d{i}",
                text=f"number {i} is {'even' if i % 2 == 0 else 'odd'}",
                metadata={"n": i, "parity": i % 2},
                vector=vector,
            )
            for i, vector in enumerate(vectors, start=start)
        ]

    return make
