"""Everything that a caller gives is checked here, before anything is done with it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from index.changes import Prepared
from index.documents import Document, Query, SearchMode
from index.errors import DimensionMismatch, InvalidInput, VectorInvalid
from index.fields import check_metadata, check_text
from index.filter import check_filter
from index.scoring import prepared
from index.settings import StoreSettings
from index.spec import CollectionSpec, Metric

# The square of a longer vector's length would not fit in a float32.
LENGTH_MAX = 1e18


def check_id(id: str, where: str, limits: StoreSettings) -> None:
    check_text(id, where, limits.id_bytes_max)
    if not id:
        raise InvalidInput(where, "an id is not empty")


def check_ids(ids: Sequence[str], limits: StoreSettings) -> None:
    check_count(len(ids), "ids", limits.batch_documents_max)
    for i, id in enumerate(ids):
        check_id(id, f"ids[{i}]", limits)


def check_count(count: int, where: str, count_max: int) -> None:
    if not 1 <= count <= count_max:
        raise InvalidInput(where, f"{count} given; 1 to {count_max} are accepted")


def prepare_documents(
    documents: Sequence[Document], spec: CollectionSpec, limits: StoreSettings
) -> list[Prepared]:
    """Checked documents with vectors as they are stored; the error names the first bad one."""
    check_count(len(documents), "documents", limits.batch_documents_max)
    ids: dict[str, int] = {}
    metadata = []
    for i, document in enumerate(documents):
        where = f"documents[{i}]"
        check_id(document.id, f"{where}.id", limits)
        first = ids.setdefault(document.id, i)
        if first != i:
            raise InvalidInput(f"{where}.id", f"{document.id!r} is also documents[{first}]")
        check_text(document.text, f"{where}.text", limits.text_bytes_max)
        metadata.append(check_metadata(document.metadata, f"{where}.metadata", limits))
    fields = [f"documents[{i}].vector" for i in range(len(documents))]
    vectors = prepare_vectors([document.vector for document in documents], fields, spec)
    return [
        Prepared(document.id, document.text, source, vector)
        for document, source, vector in zip(documents, metadata, vectors, strict=True)
    ]


def prepare_vectors(
    vectors: Sequence[NDArray[np.float32]], where: Sequence[str], spec: CollectionSpec
) -> NDArray[np.float32]:
    """(n, dimensions), finite, and of length 1 where the metric wants it."""
    for vector, field in zip(vectors, where, strict=True):
        if np.shape(vector) != (spec.dimensions,):
            raise DimensionMismatch(field, int(np.size(vector)), spec.dimensions)
    with np.errstate(over="ignore"):  # a float64 that becomes infinite is refused below
        stacked = np.array(vectors, dtype=np.float32).reshape(-1, spec.dimensions)
    lengths = np.sqrt(np.einsum("ij,ij->i", stacked, stacked, dtype=np.float64))
    for i in np.flatnonzero(~(lengths < LENGTH_MAX)).tolist():
        raise VectorInvalid(where[i], "a value is not finite, or the vector is longer than 1e18")
    if spec.metric is Metric.COSINE:
        for i in np.flatnonzero(lengths < 1 / LENGTH_MAX).tolist():
            raise VectorInvalid(where[i], "cosine does not exist for a vector of length 0")
    return prepared(stacked, spec.metric)


def check_query(query: Query, limits: StoreSettings) -> None:
    """Raises InvalidInput, FilterInvalid; the vector is checked by `prepare_vectors`."""
    check_count(query.k, "k", limits.k_max)
    if query.mode is not SearchMode.LEXICAL and query.vector is None:
        raise InvalidInput("vector", f"a {query.mode} search needs one")
    if query.mode is not SearchMode.DENSE:
        if query.text is None:
            raise InvalidInput("text", f"a {query.mode} search needs one")
        check_text(query.text, "text", limits.query_bytes_max)
    if query.filter is not None:
        check_filter(query.filter, limits)
    if not 0 <= query.dense_share <= 1:  # no number, too
        raise InvalidInput("dense_share", f"{query.dense_share} is not between 0 and 1")
    if query.min_sequence < 0:
        raise InvalidInput("min_sequence", "a sequence is not negative")
