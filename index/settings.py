"""Every limit and choice of the memory side, with its unit in its name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """What a store allows and how it spends memory, disk and threads.

    The input limits keep one call's work and memory bounded; the others trade speed for memory.
    """

    # Input limits: beyond them a call is refused with InvalidInput.
    id_bytes_max: int = 512  # UTF-8; ids live in an index of their own
    text_bytes_max: int = 4 * 1024 * 1024  # UTF-8; a document's text
    metadata_bytes_max: int = 64 * 1024  # as compact JSON; each value is indexed
    metadata_depth_max: int = 8  # nested objects and lists
    metadata_fields_max: int = 1_000  # indexed values of one document
    dimensions_max: int = 16_384
    batch_documents_max: int = 10_000  # documents in one write, ids in one read
    purge_documents_max: int = 100_000  # documents that one purge removes
    k_max: int = 1_000
    page_documents_max: int = 1_000
    # Documents as they are stored: text, metadata as JSON, float32. A page ends there; another
    # answer is refused, and may have more, for what is stored can be longer than what is sent.
    page_bytes_max: int = 16 * 1024 * 1024
    answer_bytes_max: int = 32 * 1024 * 1024
    query_bytes_max: int = 64 * 1024  # UTF-8; a lexical query
    query_terms_max: int = 256  # terms of a lexical query that are looked up; the rest is dropped
    filter_depth_max: int = 16
    filter_terms_max: int = 256  # leaves of a filter, values of its lists included
    batch_queries_max: int = 1_000  # queries in one search_batch
    # In larger collections a word that this share of the documents has is looked up only when
    # the other words of the query find too little: fewer than k, or, in hybrid search, nothing.
    common_words_documents_min: int = 10_000
    common_words_share: float = 0.1

    # Idempotence: older request ids are forgotten, and a retry then counts as a new call.
    request_ids_max: int = 100_000
    request_id_age_s_max: int = 24 * 3600

    # Reading
    readers_max: int = 16  # SQLite reader connections of a collection; further readers wait
    min_sequence_wait_s: float = 2.0  # how long a search waits for a write that it asks to see

    # Writing
    disk_free_bytes_min: int = 64 * 1024 * 1024  # below it writes are refused
    group_writes_max: int = 256  # concurrent writes that share one fsync
    # A larger database gets no digest when it is closed, and is opened without a second look.
    sealed_bytes_max: int = 4 * 1024**3

    # Vectors
    exact_vectors_max: int = 10_000  # so many newest vectors are scanned exactly, in memory
    # After so long without a write they get an index, if they are enough for one; 0: never.
    quiet_s: float = 2.0
    flat_vectors_max: int = 5_000  # smaller segments have no index: every vector is compared
    scan_vectors_max: int = 200_000  # larger segments get a graph instead of a compressed scan
    # Candidates per wanted hit that are scored again with full vectors, and at least so many.
    candidates_factor: int = 4  # of a graph, whose codes are fine
    candidates_min: int = 50
    scan_candidates_factor: int = 10  # of a scan, whose codes are coarse
    scan_candidates_min: int = 200
    graph_links: int = 32  # HNSW's M
    graph_build_depth: int = 100  # HNSW's efConstruction
    graph_search_depth: int = 256  # HNSW's efSearch
    tombstones_share_max: float = 0.3  # a segment with a larger dead share is rebuilt
    search_threads: int = 1  # of one search; calls run beside one another
    parallel_queries_min: int = 16  # a call with so many queries gets `batch_threads`
    batch_threads: int = 0  # 0: as many as the process has cores
    build_threads: int = 1  # of the background build
    filtered_exact_max: int = 5_000  # filters that match fewer documents are answered exactly

    def candidates(self, k: int) -> int:
        """How many a graph proposes for k hits."""
        return max(self.candidates_min, self.candidates_factor * k)

    def scan_candidates(self, k: int) -> int:
        """How many a scan proposes for k hits."""
        return max(self.scan_candidates_min, self.scan_candidates_factor * k)
