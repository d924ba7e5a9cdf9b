"""What goes into a collection and what comes back: values without behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.filter import Filter
from index.fusion import DENSE_SHARE
from index.spec import JSON

Vector = NDArray[np.float32]


class WriteMode(StrEnum):
    UPSERT = "upsert"  # insert, or replace what is there
    INSERT = "insert"  # DocumentExists if one is there
    UPDATE = "update"  # DocumentNotFound if one is not there


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One document as the caller gives it; `vector` has shape (dimensions,)."""

    id: str
    text: str = ""
    metadata: Mapping[str, JSON] = field(default_factory=dict)
    vector: Vector


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDocument:
    """One document as it is stored. Times are seconds since 1970, UTC.

    `vector` is None unless it was asked for; with metric COSINE it has length 1.
    """

    id: str
    text: str
    metadata: Mapping[str, JSON]
    vector: Vector | None
    sequence: int
    created_at: float
    updated_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A write that is durable. `sequence` is the collection's after it.

    `replayed`: the request id was known; nothing was changed now, and these are its first counts.
    `more`: a purge reached its limit, and documents that match are left.
    """

    sequence: int
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    replayed: bool = False
    more: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some documents in the order of their ids; an empty token means that these are the last."""

    documents: tuple[StoredDocument, ...]
    next_page_token: str


class SearchMode(StrEnum):
    DENSE = "dense"
    LEXICAL = "lexical"
    HYBRID = "hybrid"


class Fusion(StrEnum):
    """How a hybrid search's two lists become one."""

    RELATIVE_SCORE = "relative_score"
    RECIPROCAL_RANK = "reciprocal_rank"


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What to search for. DENSE needs `vector`, LEXICAL needs `text`, HYBRID needs both."""

    mode: SearchMode = SearchMode.DENSE
    fusion: Fusion = Fusion.RELATIVE_SCORE
    vector: Vector | None = None
    text: str | None = None
    filter: Filter | None = None
    k: int = 10
    exact: bool = False  # compare with every vector instead of the likely ones
    min_sequence: int = 0  # see at least the write that answered with this sequence
    score_min: float | None = None  # leaves out lower ones, compared as float32s
    dense_share: float = DENSE_SHARE  # HYBRID by RELATIVE_SCORE: the rest is BM25's
    with_documents: bool = True
    with_vectors: bool = False


class Hit(NamedTuple):
    """One answer. Ranks start at 1; a score or rank is None where that side did not find it.

    A tuple, because a call can have 10,000: a frozen dataclass takes three times as long to make.

    dense_part, lexical_part: of a fused score, which is their sum
    """

    id: str
    score: float
    dense_score: float | None = None
    lexical_score: float | None = None
    dense_rank: int | None = None
    lexical_rank: int | None = None
    dense_part: float | None = None
    lexical_part: float | None = None
    document: StoredDocument | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """Hits by falling score; equal scores by rising id (by code point).

    `exhausted`: fewer than k exist. `exact`: the dense side compared every vector that counts.
    `candidates`: documents that were scored with full precision or ranked by bm25.
    """

    hits: tuple[Hit, ...]
    sequence: int
    exhausted: bool
    exact: bool
    candidates: int
    search_s: float
