"""The blocking client."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Unpack, overload

import numpy as np
from numpy.typing import NDArray

from polyseme import attention as attention_
from polyseme import collection as collections_
from polyseme import (
    comparison,
    document,
    embedding,
    filling,
    searching,
    senses,
    service,
    translating,
    writing,
)
from polyseme import words as words_
from polyseme.attention import Attention, AttentionKind
from polyseme.blocking import BlockingDriver
from polyseme.collection import Check, Collection, Compaction, Metric, OwnVectors, ServerVectors
from polyseme.collection import Snapshot as SnapshotValue
from polyseme.comparison import Comparison
from polyseme.connection import DEFAULT_ADDRESS, Connection, Tls
from polyseme.document import Document, DocumentLike, WriteMode, Written
from polyseme.embedding import Embeddings, EmbedOptions
from polyseme.filling import MASK, Filled, Substitutes
from polyseme.filters import Filter
from polyseme.retry import Budget, Known, Retry
from polyseme.searching import Query, SearchOptions, SearchResult
from polyseme.senses import SenseExampleLike, SenseInventory, ToldSense
from polyseme.service import Health, ServerInfo, Statistics
from polyseme.translating import TranslateOptions, Translation
from polyseme.vectors import Priority, Truncation, VectorEncoding
from polyseme.words import SubwordPooling, Target, Token, Tokens, Word, WordSpace
from polyseme.writing import Progress

REQUEST_TIMEOUT_S = 60.0


class Client:
    """Talks to a polyseme server. Threads may share one; use it in a `with`, or `close` it.

        with Client("127.0.0.1:50051") as client:
            vectors = client.embed(["Apple was juicy", "Apple stock crashed today"])

    target:    host:port
    timeout_s: for one request to the server, its retries included. A long input travels in
               several; a method's own `timeout_s` bounds them all together, and of a method that
               makes one request it takes the place of this one. On a stream it is the longest
               time that the server may leave a message unanswered.
    tls:       `Tls()` trusts the system's authorities; see `Tls` for files
    api_key:   sent with every call; only over TLS, to this machine, or with insecure=True
    retry:     how often reads and writes with a request id are tried again

    Every method raises a `PolysemeError`; its subclasses tell the kinds apart.
    """

    def __init__(
        self,
        target: str = DEFAULT_ADDRESS,
        *,
        timeout_s: float = REQUEST_TIMEOUT_S,
        tls: Tls | None = None,
        api_key: str | None = None,
        insecure: bool = False,
        retry: Retry | None = None,
    ) -> None:
        self._connection = Connection(target=target, tls=tls, api_key=api_key, insecure=insecure)
        self._timeout_s = timeout_s
        self._retry = retry
        self._known = Known()
        self._budget(None)  # a wrong timeout is wrong now, not with the first call
        self._driver = BlockingDriver(self._connection)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._connection.target!r})"

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls that run in other threads end with `Cancelled`."""
        self._driver.close()

    def _budget(self, timeout_s: float | None) -> Budget:
        return Budget(
            request_timeout_s=self._timeout_s,
            total_s=timeout_s,
            retry=self._retry,
            known=self._known,
        )

    def _once(self, timeout_s: float | None) -> Budget:
        """The budget of a method that makes one request, whose own `timeout_s` is that one's."""
        return Budget(
            request_timeout_s=self._timeout_s if timeout_s is None else timeout_s,
            retry=self._retry,
            known=self._known,
        )

    # Texts, words, tokens

    def embed(
        self,
        texts: Iterable[str],
        *,
        priority: Priority | None = None,
        timeout_s: float | None = None,
        **options: Unpack[EmbedOptions],
    ) -> Embeddings:
        """One vector a text, in order; numpy takes the result as an array (n, dimensions).

        options: pooling "mean", "cls" or "max"; dimensions, the first so many; normalize;
            prompt, or prompt_name for one of the model's; encoding "float32", "float16", "int8"
            or "binary", how they travel; truncation "error", "head", "tail" or "windows", what
            happens to texts longer than the model reads
        priority: "interactive", or "bulk" to yield to others

        As many texts as you like: they travel in as many requests as the server's limits ask
        for. Raises InputTooLong, InvalidRequest naming `texts[i]`, and the usual ones.
        """
        plan = embedding.embed(self._budget(timeout_s), texts, priority=priority, **options)
        return self._driver.run(plan)

    def embed_iter(
        self,
        texts: Iterable[str],
        *,
        batch_texts: int = 64,
        priority: Priority | None = None,
        timeout_s: float | None = None,
        **options: Unpack[EmbedOptions],
    ) -> Iterator[Embeddings]:
        """Vectors of any number of texts, in order, in batches; memory holds a few batches only.

        Options as of `embed`. A lost connection is opened again, and only what was not yet
        answered is computed again.
        """
        plan = embedding.embed_iter(
            self._budget(timeout_s), batch_texts=batch_texts, priority=priority, **options
        )
        return self._driver.iterate(plan, texts)

    # A str is a sequence of str, so the second would overlap; type checkers take the first.
    @overload
    def words(  # type: ignore[overload-overlap]
        self,
        text: str,
        targets: str | Sequence[Target] | None = None,
        *,
        layers: Sequence[int] = (),
        subword_pooling: SubwordPooling | None = None,
        normalize: bool = True,
        encoding: VectorEncoding | None = None,
        truncation: Truncation | None = None,
        space: WordSpace | None = None,
        priority: Priority | None = None,
        timeout_s: float | None = None,
    ) -> list[Word]: ...

    @overload
    def words(
        self,
        text: Sequence[str],
        targets: str | Sequence[Sequence[Target]] | None = None,
        *,
        layers: Sequence[int] = (),
        subword_pooling: SubwordPooling | None = None,
        normalize: bool = True,
        encoding: VectorEncoding | None = None,
        truncation: Truncation | None = None,
        space: WordSpace | None = None,
        priority: Priority | None = None,
        timeout_s: float | None = None,
    ) -> list[list[Word]]: ...

    def words(
        self,
        text: str | Sequence[str],
        targets: str | Sequence[Target] | Sequence[Sequence[Target]] | None = None,
        *,
        layers: Sequence[int] = (),
        subword_pooling: SubwordPooling | None = None,
        normalize: bool = True,
        encoding: VectorEncoding | None = None,
        truncation: Truncation | None = None,
        space: WordSpace | None = None,
        priority: Priority | None = None,
        timeout_s: float | None = None,
    ) -> list[Word] | list[list[Word]]:
        """The words of a text, each with its place and its vector in this context.

        text:    one text, or several
        targets: a word; or for one text a list of targets, for several a list of such lists. A
                 target is a word (its first occurrence), (word, n) for the n-th from 0, or a
                 `Span` or slice in code points. None: all words.
        layers:  encoder layers to average; 0 is the embedding layer, negative ones count from
                 the end. None given: the model's own mix.
        subword_pooling: how the tokens of a word are joined: "mean", "first" or "last"
        space:   "context" (default), or "sense": what senses are told by, the word's vector
                 beside its text's, whitened if the model has a whitening

        Returns a list of words for one text, a list of such lists for several.
        """
        texts = [text] if isinstance(text, str) else list(text)
        plan = words_.words(
            self._budget(timeout_s),
            texts,
            words_.per_text(texts, words_.nested(text, targets)),
            layers=layers,
            subword_pooling=subword_pooling,
            normalize=normalize,
            encoding=encoding,
            truncation=truncation,
            space=space,
            priority=priority,
        )
        found = self._driver.run(plan)
        return found[0] if isinstance(text, str) else found

    def tokens(
        self,
        texts: Iterable[str],
        *,
        layers: Sequence[int] = (),
        normalize: bool = False,
        truncation: Truncation | None = None,
        priority: Priority | None = None,
        timeout_s: float | None = None,
    ) -> list[Tokens]:
        """For each text its tokens with one state each, (tokens, dimensions).

        layers: encoder layers to average; none given: the last.
        """
        plan = words_.tokens(
            self._budget(timeout_s),
            texts,
            layers=layers,
            normalize=normalize,
            truncation=truncation,
            priority=priority,
        )
        return self._driver.run(plan)

    def similarity(
        self,
        left: Iterable[str],
        right: Iterable[str] | None = None,
        *,
        pairs: bool = False,
        priority: Priority | None = None,
        timeout_s: float | None = None,
        **options: Unpack[EmbedOptions],
    ) -> NDArray[np.float32]:
        """Cosines of texts: (left, right), or with `pairs` (n,) of left[i] with right[i].

        right: None compares the left ones with each other. Options as of `embed`.
        """
        plan = embedding.similarity(
            self._budget(timeout_s), left, right, pairs=pairs, priority=priority, **options
        )
        return self._driver.run(plan)

    def tokenize(
        self,
        texts: Iterable[str],
        *,
        special_tokens: bool = True,
        timeout_s: float | None = None,
    ) -> list[list[Token]]:
        """For each text its tokens: number, text and place."""
        plan = words_.tokenize(self._budget(timeout_s), texts, special_tokens=special_tokens)
        return self._driver.run(plan)

    def detokenize(
        self,
        ids: Iterable[Sequence[int]],
        *,
        keep_special_tokens: bool = False,
        timeout_s: float | None = None,
    ) -> list[str]:
        """For each sequence of token numbers its text."""
        plan = words_.detokenize(
            self._budget(timeout_s), ids, keep_special_tokens=keep_special_tokens
        )
        return self._driver.run(plan)

    def compare(
        self,
        word: str,
        sentences: Sequence[str],
        *,
        senses: Sequence[str] | None = None,
        targets: Sequence[Target | None] | None = None,
        layers: Sequence[int] = (),
        priority: Priority | None = None,
        timeout_s: float | None = None,
    ) -> Comparison:
        """A word in several sentences, seen averaged, as sentences, and in context.

        senses:  your name for the word's sense in each sentence; they give the margins
        targets: where the word stands, as of `words`, where it is not the first occurrence
        """
        plan = comparison.compare(
            self._once(timeout_s),
            word,
            sentences,
            senses=senses,
            targets=targets,
            layers=layers,
            priority=priority,
        )
        return self._driver.run(plan)

    def attention(
        self,
        text: str,
        *,
        kind: AttentionKind = "raw",
        layers: Sequence[int] = (),
        heads: Sequence[int] = (),
        rows: Sequence[int] = (),
        words: Sequence[Target] = (),
        edges_per_row_max: int = 0,
        truncation: Truncation | None = None,
        priority: Priority | None = None,
        timeout_s: float | None = None,
    ) -> Attention:
        """How much each token of a text attends to each: (layers, heads, rows, tokens).

        kind:   "raw", each head by itself; "mean" of the heads; "rollout", how much of each
                input token has come to each token through all layers so far, where half of what
                a layer passes on is its residual connection (Abnar and Zuidema 2020)
        layers: from 1; -1 is the last; none: all
        heads:  from 0; none: all
        rows:   only what these tokens attend to, by number; none: all
        words:  the same, by words as of `words`
        edges_per_row_max: keep the so many strongest of each row, the rest is 0; 0 keeps all

        Attention says where values came from; it is not an explanation of what is made of them.
        """
        plan = attention_.attention(
            self._once(timeout_s),
            text,
            kind=kind,
            layers=layers,
            heads=heads,
            rows=rows,
            words=words,
            edges_per_row_max=edges_per_row_max,
            truncation=truncation,
            priority=priority,
        )
        return self._driver.run(plan)

    def fill_mask(
        self,
        texts: Iterable[str],
        *,
        mask: str = MASK,
        k: int = 0,
        candidates: Sequence[str] = (),
        truncation: Truncation | None = None,
        priority: Priority | None = None,
        timeout_s: float | None = None,
    ) -> list[Filled]:
        """For each text what could stand at each of its masks, most probable first.

        mask:       what marks them; the model's own mark is understood too
        k:          guesses for each; 0: five, or all candidates
        candidates: choose among these alone; each must be one token of the model

        A mask stands for one token; several are guessed each by itself. Raises FailedPrecondition
        with the reason MODEL_HAS_NO_HEAD where the model was not trained to guess, or lost its
        head when it was made a sentence encoder.
        """
        plan = filling.fill_mask(
            self._budget(timeout_s),
            texts,
            mask=mask,
            k=k,
            candidates=candidates,
            truncation=truncation,
            priority=priority,
        )
        return self._driver.run(plan)

    def substitute(
        self,
        text: str,
        target: Target,
        *,
        k: int = 0,
        candidates: Sequence[str] = (),
        truncation: Truncation | None = None,
        priority: Priority | None = None,
        timeout_s: float | None = None,
    ) -> Substitutes:
        """What could stand in the place of a word, most probable first.

        target: the word, as of `words`. It is hidden behind one mask, so guesses are words of
                one token. They fit the place; nothing makes them mean the same.

        k, candidates and errors as of `fill_mask`.
        """
        plan = filling.substitute(
            self._once(timeout_s),
            text,
            target,
            k=k,
            candidates=candidates,
            truncation=truncation,
            priority=priority,
        )
        return self._driver.run(plan)

    def fit_senses(
        self,
        examples: Iterable[SenseExampleLike],
        *,
        word: str = "",
        counted_priors: bool = False,
        truncation: Truncation | None = None,
        priority: Priority | None = None,
        timeout_s: float | None = None,
    ) -> SenseInventory:
        """Learn which senses words have from labelled sentences, in one request: all or none.

            inventory = client.fit_senses(
                [("Apple was juicy", "fruit"), ("Apple stock crashed", "company")], word="apple"
            )

        examples: `SenseExample`s, or (text, sense) of `word`. Two senses or more of each word,
                  of each one sentence or more: three do much better, and from four of each sense
                  on the probabilities are calibrated.
        word:     of examples that do not name theirs. Its first occurrence counts, case ignored;
                  another form (`apples`) wants an example with a target, and is known from then.
        counted_priors: hold senses for as frequent as their examples are; otherwise all alike

        The server keeps nothing: `save` what comes back. Raises InvalidRequest naming
        `examples[i]`.
        """
        plan = senses.fit_senses(
            self._once(timeout_s),
            examples,
            word=word,
            counted_priors=counted_priors,
            truncation=truncation,
            priority=priority,
        )
        return self._driver.run(plan)

    def classify_senses(
        self,
        inventory: SenseInventory,
        texts: Iterable[str],
        targets: Sequence[Target | None] | None = None,
        *,
        word: str = "",
        partial: bool = False,
        truncation: Truncation | None = None,
        priority: Priority | None = None,
        timeout_s: float | None = None,
    ) -> list[ToldSense]:
        """For each text the sense that a word of the inventory has in it.

        targets: where the word stands in each text, as of `words`; None: the first occurrence,
                 case ignored, of any word of the inventory, in any form that it has learnt
        word:    which of the inventory's words is meant; needed for forms that it does not know
        partial: a text that nothing can be said of gets a result with its `error`, and the
                 others are answered

        Raises FingerprintMismatch for an inventory that was fitted on another model's vectors.
        """
        plan = senses.classify_senses(
            self._budget(timeout_s),
            inventory,
            texts,
            targets,
            word=word,
            partial=partial,
            truncation=truncation,
            priority=priority,
        )
        return self._driver.run(plan)

    # Translation

    def translate(
        self,
        texts: Iterable[str],
        to: str,
        *,
        priority: Priority | None = None,
        timeout_s: float | None = None,
        **options: Unpack[TranslateOptions],
    ) -> list[Translation]:
        """Each text in the language `to`, such as "en", sentence by sentence.

        options: source, the texts' language, or else it is detected; beams; alternatives, how
            many translations of each sentence; length_penalty; alignment, which words
            correspond; splitting "sentences and lines", "sentences" (lines may end within one)
            or "none"

        Spaces, line breaks and tags between sentences stay as they are; what is in the language
        already is copied. Raises FailedPrecondition with the reason MODEL_HAS_NO_TRANSLATION
        where the server cannot translate, InvalidRequest naming `texts[i]`.
        """
        plan = translating.translate(
            self._budget(timeout_s), texts, to, priority=priority, **options
        )
        return self._driver.run(plan)

    def translate_iter(
        self,
        texts: Iterable[str],
        to: str,
        *,
        batch_texts: int = 32,
        priority: Priority | None = None,
        timeout_s: float | None = None,
        **options: Unpack[TranslateOptions],
    ) -> Iterator[Translation]:
        """Any number of texts translated, in order; memory holds a few batches only.

        Options as of `translate`. A lost connection is opened again, and only what was not yet
        answered is translated again.
        """
        plan = translating.translate_iter(
            self._budget(timeout_s), to, batch_texts=batch_texts, priority=priority, **options
        )
        return self._driver.iterate(plan, texts)

    def language_pairs(self, *, timeout_s: float | None = None) -> list[tuple[str, str]]:
        """(source, target) of each direction that the server translates."""
        return self._driver.run(translating.language_pairs(self._once(timeout_s)))

    # Collections

    def create_collection(
        self,
        name: str,
        *,
        description: str = "",
        vectors: ServerVectors | OwnVectors | None = None,
        metric: Metric | None = None,
        timeout_s: float | None = None,
    ) -> Collection:
        """A new, empty collection. Raises AlreadyExists.

        name:    lower-case letters, digits, hyphen and underscore, 1 to 63, a letter first
        vectors: who makes them: the server from texts (default), or you
        metric:  "cosine" (default) or "dot"
        """
        plan = collections_.create(
            self._once(timeout_s), name, description=description, vectors=vectors, metric=metric
        )
        return self._driver.run(plan)

    def get_collection(self, name: str, *, timeout_s: float | None = None) -> Collection:
        """A collection with its statistics. Raises NotFound."""
        return self._driver.run(collections_.get(self._once(timeout_s), name))

    def list_collections(
        self, *, page_size: int = 0, timeout_s: float | None = None
    ) -> Iterator[Collection]:
        """All collections, in the order of their names; pages are fetched as you go."""
        plan = collections_.each(self._budget(timeout_s), page_size=page_size)
        return self._driver.iterate(plan)

    def update_collection(
        self,
        name: str,
        *,
        description: str | None = None,
        query_prompt: str | None = None,
        etag: str = "",
        timeout_s: float | None = None,
    ) -> Collection:
        """Change what may change; None leaves it. With an etag, raises Aborted if it is stale."""
        plan = collections_.update(
            self._once(timeout_s),
            name,
            description=description,
            query_prompt=query_prompt,
            etag=etag,
        )
        return self._driver.run(plan)

    def delete_collection(
        self, name: str, *, etag: str = "", timeout_s: float | None = None
    ) -> None:
        """Remove a collection with all it holds."""
        self._driver.run(collections_.delete(self._once(timeout_s), name, etag=etag))

    def create_snapshot(self, name: str, *, timeout_s: float | None = None) -> SnapshotValue:
        """Write a consistent copy of a collection on the server's disk."""
        return self._driver.run(collections_.snapshot(self._once(timeout_s), name))

    def restore_snapshot(
        self, snapshot: str, name: str, *, timeout_s: float | None = None
    ) -> Collection:
        """Make the collection `name`, which must be free, out of a snapshot."""
        return self._driver.run(collections_.restore(self._once(timeout_s), snapshot, name))

    def check_collection(self, name: str, *, timeout_s: float | None = None) -> Check:
        """Verify every file and count of a collection."""
        return self._driver.run(collections_.check(self._once(timeout_s), name))

    def compact_collection(self, name: str, *, timeout_s: float | None = None) -> Compaction:
        """Rewrite a collection's index without what was deleted."""
        return self._driver.run(collections_.compact(self._once(timeout_s), name))

    # Documents

    def upsert(
        self,
        collection: str,
        documents: Iterable[DocumentLike],
        *,
        mode: WriteMode = "upsert",
        request_id: str | None = None,
        priority: Priority | None = None,
        timeout_s: float | None = None,
    ) -> Written:
        """Write documents in one request: all or none, on the disk when this returns.

        documents:  `Document`s, or dicts with `id`, `text`, `metadata`, `vector`; ids must differ
        mode:       "insert" raises AlreadyExists, "update" NotFound, "upsert" neither
        request_id: a write with an id that the server has seen changes nothing; None makes one,
                    so that retries are harmless

        For more than a few hundred documents use `write`.
        """
        plan = document.upsert(
            self._once(timeout_s),
            collection,
            documents,
            mode=mode,
            request_id=request_id,
            priority=priority,
        )
        return self._driver.run(plan)

    def write(
        self,
        collection: str,
        documents: Iterable[DocumentLike],
        *,
        mode: WriteMode = "upsert",
        batch_documents: int = 128,
        on_progress: Callable[[Progress], None] | None = None,
        resume: str = "",
        timeout_s: float | None = None,
    ) -> Progress:
        """Write any number of documents; memory holds a few batches only.

        on_progress: called after each batch that is on the disk
        resume:      from a `Progress`, or from the error that ended an earlier write of the same
                     documents: goes on behind the last one on the disk

        Raises what refused a batch; the error's `resume` says where to go on. Batches before it
        are written, and so may be the next three. What `documents` or `on_progress` raises ends
        the write and is raised as it is.
        """
        plan = writing.write(
            self._budget(timeout_s),
            collection,
            mode=mode,
            batch_documents=batch_documents,
            on_progress=on_progress,
            resume=resume,
        )
        return self._driver.run(plan, documents)

    def delete(
        self,
        collection: str,
        ids: Iterable[str],
        *,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> Written:
        """Delete documents by id, all or none; unknown ids are not an error."""
        plan = document.delete(self._once(timeout_s), collection, ids, request_id=request_id)
        return self._driver.run(plan)

    def purge(
        self,
        collection: str,
        filter: Filter,
        *,
        dry_run: bool = False,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> Written:
        """Delete every document that `filter` matches, all or none; `dry_run` only counts."""
        plan = document.purge(
            self._once(timeout_s), collection, filter, dry_run=dry_run, request_id=request_id
        )
        return self._driver.run(plan)

    def get(
        self,
        collection: str,
        id: str,
        *,
        with_vector: bool = False,
        timeout_s: float | None = None,
    ) -> Document:
        """One document. Raises NotFound."""
        plan = document.get(self._once(timeout_s), collection, id, with_vector=with_vector)
        return self._driver.run(plan)

    def get_many(
        self,
        collection: str,
        ids: Sequence[str],
        *,
        with_vectors: bool = False,
        allow_missing: bool = False,
        timeout_s: float | None = None,
    ) -> list[Document]:
        """Several documents, in the order of `ids`. Raises NotFound unless `allow_missing`."""
        plan = document.get_many(
            self._budget(timeout_s),
            collection,
            ids,
            with_vectors=with_vectors,
            allow_missing=allow_missing,
        )
        return self._driver.run(plan)

    def documents(
        self,
        collection: str,
        *,
        filter: Filter | None = None,
        with_vectors: bool = False,
        page_size: int = 0,
        timeout_s: float | None = None,
    ) -> Iterator[Document]:
        """Documents in the order of their ids; pages are fetched as you go.

        Not a snapshot: a write during the iteration shows if its id is still to come.
        """
        plan = document.each(
            self._budget(timeout_s),
            collection,
            filter=filter,
            with_vectors=with_vectors,
            page_size=page_size,
        )
        return self._driver.iterate(plan)

    def export(
        self,
        collection: str,
        *,
        filter: Filter | None = None,
        with_vectors: bool = True,
        timeout_s: float | None = None,
    ) -> Iterator[Document]:
        """Documents as `write` takes them back: with vectors and the fingerprint they need."""
        plan = document.export(
            self._budget(timeout_s), collection, filter=filter, with_vectors=with_vectors
        )
        return self._driver.iterate(plan)

    def count(
        self,
        collection: str,
        *,
        filter: Filter | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """How many documents match; None: how many there are."""
        return self._driver.run(document.count(self._once(timeout_s), collection, filter=filter))

    # Search

    def search(
        self,
        collection: str,
        query: Query,
        *,
        priority: Priority | None = None,
        timeout_s: float | None = None,
        **options: Unpack[SearchOptions],
    ) -> SearchResult:
        """The best hits, best first: higher scores are better, ties are ordered by id.

        query:   a text; a vector (one row of `embed` brings its fingerprint along); `Like(id)`;
                 `WordIn(text, target)`
        options: mode "dense" (by meaning), "lexical" (by words) or "hybrid"; fusion of a hybrid
                 search's lists, "relative_score" or "reciprocal_rank"; filter; k; exact;
                 min_sequence, to see a write of yours; highlight; explain; ids_only;
                 with_vectors; score_min; lexical_text; translate_to, a language for the hits'
                 texts; dense_share, 0 to 1, of a hybrid search's relative scores
        """
        plan = searching.search(
            self._once(timeout_s), collection, query, priority=priority, **options
        )
        return self._driver.run(plan)

    def search_many(
        self,
        collection: str,
        queries: Sequence[Query],
        *,
        priority: Priority | None = None,
        timeout_s: float | None = None,
        **options: Unpack[SearchOptions],
    ) -> list[SearchResult]:
        """As `search`, for several queries at once, answered in order."""
        plan = searching.search_many(
            self._budget(timeout_s), collection, queries, priority=priority, **options
        )
        return self._driver.run(plan)

    # The server

    def info(self, *, timeout_s: float | None = None) -> ServerInfo:
        """What the server is: limits, models with fingerprints, versions."""
        return self._driver.run(service.info(self._once(timeout_s)))

    def statistics(self, *, timeout_s: float | None = None) -> Statistics:
        """How the server fares: counters since its start."""
        return self._driver.run(service.statistics(self._once(timeout_s)))

    def drain(self, *, grace_s: float | None = None, timeout_s: float | None = None) -> int:
        """Send the server home after its running calls; the result is how many there are."""
        return self._driver.run(service.drain(self._once(timeout_s), grace_s=grace_s))

    def health(self, service_name: str = "", *, timeout_s: float | None = None) -> Health:
        """`serving`, `not serving` or `unknown`: of the server, or of one of its services."""
        plan = service.health(self._once(timeout_s), service=service_name)
        return self._driver.run(plan)

    def wait_until_serving(self, *, timeout_s: float | None = None) -> None:
        """Return when the server takes calls. Raises what was wrong last when time is up."""
        self._driver.run(service.wait_until_serving(self._once(timeout_s)))
