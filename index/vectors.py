"""FAISS, and nothing else of the project: an approximate index over an immutable set of vectors.

Up to `scan_vectors_max` vectors a FastScan over product-quantised codes (4 bits for every 4
values) beats every graph at recall .99; above it HNSW over 8-bit codes. Both only propose
candidates, which the caller scores again with the full vectors, so their codes cost no precision.
Measured in bench/; the FAISS wiki's "Fast accumulation of PQ and AQ codes" has the method.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import faiss as stubbed_faiss
import numpy as np
from numpy.typing import NDArray

from index.errors import Closed
from index.settings import StoreSettings

# faiss's own stubs contradict its Python wrappers (they declare a bitmap to be an int).
faiss: Any = stubbed_faiss

# Length-1 vectors make inner product cosine, so one metric serves both of a collection's metrics.
METRIC = faiss.METRIC_INNER_PRODUCT

SCAN_TRAINING_VECTORS = 50_000  # k-means of 16 centroids needs few; more only takes longer
COARSE_WIDTH_MIN = 256  # short vectors have less to spare
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
ADD_VECTORS = 20_000  # a pause between additions, in which the builder can notice a stop


class VectorIndex:
    """An immutable FAISS index; position i is the i-th vector it was built from. Thread-safe."""

    def __init__(self, index: Any, settings: StoreSettings) -> None:
        self._index = index
        self._settings = settings
        self.kind = "graph" if isinstance(index, faiss.IndexHNSW) else "scan"
        self.count: int = index.ntotal

    def candidates(
        self, queries: NDArray[np.float32], count: int, alive: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """(n, width) → (n, count) scores by the compressed vectors, best first, and positions of
        likely nearest vectors; -1 where there is none.

        alive: (self.count,), the positions that may be found, or None for all. A scan cannot
        honour it (FAISS refuses), so the caller drops positions and asks for more.
        """
        # OpenMP keeps its number of threads per calling thread.
        faiss.omp_set_num_threads(threads_for(len(queries), self._settings))
        count = min(count, self.count)
        if self.kind == "scan":
            return self._index.search(queries, count)  # type: ignore[no-any-return]
        parameters = faiss.SearchParametersHNSW(
            efSearch=max(self._settings.graph_search_depth, count)
        )
        if alive is not None:
            # The selector only points at the bits: they live as long as this call.
            bits = np.packbits(alive, bitorder="little")
            parameters.sel = faiss.IDSelectorBitmap(bits)
        return self._index.search(queries, count, params=parameters)  # type: ignore[no-any-return]

    def to_bytes(self) -> NDArray[np.uint8]:
        return faiss.serialize_index(self._index)  # type: ignore[no-any-return]

    @classmethod
    def from_bytes(cls, data: NDArray[np.uint8], settings: StoreSettings) -> VectorIndex:
        """Only for bytes whose checksum is right: FAISS's reader trusts what it reads."""
        return cls(faiss.deserialize_index(data), settings)


def threads_for(queries: int, settings: StoreSettings) -> int:
    """One query is answered quickest by the thread that has it; many share the cores."""
    if queries < settings.parallel_queries_min:
        return settings.search_threads
    return settings.batch_threads or CORES


def inner_products(vectors: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, width) contiguous and (width,) → (n,), in the calling thread alone.

    FAISS's kernel, because numpy's BLAS takes threads of its own, and more than we allowed.
    """
    count, width = vectors.shape
    result = np.empty(count, np.float32)
    pointers = (faiss.swig_ptr(array) for array in (result, _contiguous(query), vectors))
    faiss.fvec_inner_products_ny(*pointers, width, count)
    return result


def inner_products_at(
    vectors: NDArray[np.float32], query: NDArray[np.float32], positions: NDArray[np.int64]
) -> NDArray[np.float32]:
    """As `inner_products`, of the vectors at `positions` alone."""
    faiss.omp_set_num_threads(1)
    result = np.empty(len(positions), np.float32)
    arrays = (result, _contiguous(query), vectors, _contiguous(positions))
    pointers = (faiss.swig_ptr(array) for array in arrays)
    faiss.fvec_inner_products_by_idx(*pointers, vectors.shape[1], 1, len(positions))
    return result


def inner_products_of_each(
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    positions: NDArray[np.int64],
    threads: int,
) -> NDArray[np.float32]:
    """(n, count): of each of (n, width) queries with the vectors at its own (n, count) positions.

    A position of -1 gives minus infinity. Threads share the queries: the bits are the same.
    """
    faiss.omp_set_num_threads(threads)
    result = np.empty(positions.shape, np.float32)
    arrays = (result, _contiguous(queries), vectors, _contiguous(positions))
    pointers = (faiss.swig_ptr(array) for array in arrays)
    faiss.fvec_inner_products_by_idx(*pointers, vectors.shape[1], *positions.shape)
    return result


def _contiguous(array: NDArray[Any]) -> NDArray[Any]:
    """FAISS takes pointers: rows of a C-contiguous matrix are contiguous already."""
    assert array.flags.c_contiguous
    return array


def values_per_code(width: int) -> int:
    """How many values of a vector of even width share a 4-bit code of a scan.

    Four: half of the time and memory of two. What precision that costs, more candidates give
    back. On 100,000 vectors of MiniLM: 200 candidates of such codes have .997 of the 10 true
    nearest in 14 ms a batch of 64, 50 of the finer ones the same in 28 ms.
    """
    return 4 if width % 4 == 0 and width >= COARSE_WIDTH_MIN else 2


def build(
    vectors: NDArray[np.float32], settings: StoreSettings, stopped: Callable[[], bool]
) -> VectorIndex:
    """An index over (n, width) vectors. Takes seconds for a scan, minutes for a large graph.

    Raises Closed soon after `stopped` is true.
    """
    faiss.omp_set_num_threads(settings.build_threads)
    count, width = vectors.shape
    if count > settings.scan_vectors_max:
        index = faiss.IndexHNSWSQ(
            width, faiss.ScalarQuantizer.QT_8bit, settings.graph_links, METRIC
        )
        index.hnsw.efConstruction = settings.graph_build_depth
    elif width % 2:
        index = faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_8bit, METRIC)
    else:
        index = faiss.IndexPQFastScan(width, width // values_per_code(width), 4, METRIC)
        index.pq.cp.min_points_per_centroid = 1  # it would print a warning below 39
    step = max(1, count // SCAN_TRAINING_VECTORS)
    index.train(np.ascontiguousarray(vectors[::step]))
    for start in range(0, count, ADD_VECTORS):
        if stopped():
            raise Closed("the builder")
        index.add(np.ascontiguousarray(vectors[start : start + ADD_VECTORS]))
    return VectorIndex(index, settings)
