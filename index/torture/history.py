"""A short history of a store in which everything happens that touches the disk, and a dict.

The dict says what the store must show after each step; a step that failed has happened or not.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from index.collection import Collection
from index.documents import Document, Query, SearchMode
from index.errors import CollectionExists, CollectionNotFound, InvalidInput
from index.filter import Equal, Range
from index.settings import StoreSettings
from index.snapshots import verify
from index.spec import CollectionSpec
from index.store import Store

WIDTH = 8
PAGE_DOCUMENTS = 50

# Segments and their compressed codes begin early; a step never ends with a build under way, and
# none begins by the clock.
SETTINGS = StoreSettings(
    exact_vectors_max=18, flat_vectors_max=16, quiet_s=0, disk_free_bytes_min=0
)

Vector: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Shown:
    """A document as it must be read: text, number, vector's bytes."""

    text: str
    number: int
    vector: bytes


@dataclass(frozen=True, slots=True)
class Contents:
    """What a collection must show."""

    description: str = ""
    documents: Mapping[str, Shown] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class State:
    """What a data directory must show: its collections, and the snapshots that are complete."""

    collections: Mapping[str, Contents] = field(default_factory=dict)
    snapshots: Mapping[str, int] = field(default_factory=dict)  # documents of each

    def with_collection(self, name: str, contents: Contents) -> State:
        return replace(self, collections={**self.collections, name: contents})

    def without(self, name: str) -> State:
        kept = {key: value for key, value in self.collections.items() if key != name}
        return replace(self, collections=kept)


class World:
    """A store in a directory, closed and opened again on the way."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._store: Store | None = None

    @property
    def store(self) -> Store:
        if self._store is None:
            self._store = Store.open(self.home / "data", SETTINGS)
        return self._store

    @property
    def snapshots(self) -> Path:
        return self.home / "snapshots"

    def close(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            store.close()

    def crash(self) -> None:
        """Let go of everything, whatever it says."""
        with contextlib.suppress(Exception):
            self.close()


@dataclass(frozen=True, slots=True)
class Step:
    """One call. `again`: errors by which a repetition says that it had happened already."""

    name: str
    run: Callable[[World], object]
    after: Callable[[State], State] = lambda state: state
    again: tuple[type[Exception], ...] = ()


def history() -> list[Step]:
    """All steps, in order; the same each time."""
    return [
        Step("open", lambda world: world.store),
        _create("fruit"),
        _upsert("fruit", range(20), 1, request_id="r1"),
        _upsert("fruit", range(14, 24), 2),
        _delete("fruit", [*range(3), *range(20, 22)]),
        _purge("fruit", 16),
        _describe("fruit", "pears"),
        _read(),
        _upsert("fruit", range(30, 50), 3, request_id="r2"),
        Step("compact", lambda world: world.store.collection("fruit").compact()),
        _snapshot("fruit", "first"),
        _restore("first", "copy"),
        _upsert("copy", range(2), 4),
        _drop("copy"),
        Step("close", lambda world: world.close()),
        Step("reopen", lambda world: world.store),
        _read(),
        _upsert("fruit", range(5), 5, request_id="r3"),
        Step("close again", lambda world: world.close()),
    ]


def document(number: int, version: int) -> Document:
    rng = np.random.default_rng([number, version])
    vector = rng.normal(size=WIDTH).astype(np.float32)
    return Document(
        id=f"d{number:02}",
        text=f"number {number} of version {version}",
        metadata={"n": number, "version": version},
        vector=vector / np.linalg.norm(vector),
    )


def _create(name: str) -> Step:
    spec = CollectionSpec(name=name, dimensions=WIDTH)
    return Step(
        f"create {name}",
        lambda world: world.store.create(spec),
        lambda state: state.with_collection(name, Contents()),
        (CollectionExists,),
    )


def _upsert(name: str, numbers: range, version: int, *, request_id: str = "") -> Step:
    documents = [document(number, version) for number in numbers]

    def run(world: World) -> None:
        collection = world.store.collection(name)
        collection.upsert(documents, request_id=request_id)
        collection.wait_for_builds()

    def after(state: State) -> State:
        contents = state.collections[name]
        fresh = {d.id: shown_of(d) for d in documents}
        return state.with_collection(
            name, replace(contents, documents={**contents.documents, **fresh})
        )

    return Step(f"upsert {name} {version}", run, after)


def _delete(name: str, numbers: list[int]) -> Step:
    ids = [f"d{number:02}" for number in numbers]
    return Step(
        f"delete from {name}",
        lambda world: world.store.collection(name).delete(ids),
        lambda state: _keeping(state, name, lambda id, _: id not in ids),
    )


def _purge(name: str, number: int) -> Step:
    return Step(
        f"purge {name}",
        lambda world: world.store.collection(name).purge(Range("n", gte=number)),
        lambda state: _keeping(state, name, lambda _, shown: shown.number < number),
    )


def _keeping(state: State, name: str, keep: Callable[[str, Shown], bool]) -> State:
    contents = state.collections[name]
    kept = {id: shown for id, shown in contents.documents.items() if keep(id, shown)}
    return state.with_collection(name, replace(contents, documents=kept))


def _describe(name: str, description: str) -> Step:
    return Step(
        f"describe {name}",
        lambda world: world.store.update(name, description=description),
        lambda state: state.with_collection(
            name, replace(state.collections[name], description=description)
        ),
    )


def _snapshot(name: str, snapshot: str) -> Step:
    return Step(
        f"snapshot {name}",
        lambda world: world.store.collection(name).snapshot(world.snapshots / snapshot),
        lambda state: replace(
            state,
            snapshots={**state.snapshots, snapshot: len(state.collections[name].documents)},
        ),
        (InvalidInput,),
    )


def _restore(snapshot: str, name: str) -> Step:
    return Step(
        f"restore {name}",
        lambda world: world.store.restore(world.snapshots / snapshot, name),
        lambda state: state.with_collection(name, state.collections["fruit"]),
        (CollectionExists,),
    )


def _drop(name: str) -> Step:
    return Step(
        f"drop {name}",
        lambda world: world.store.delete(name),
        lambda state: state.without(name),
        (CollectionNotFound,),
    )


def _read() -> Step:
    def run(world: World) -> None:
        for collection in world.store.list():
            contents_of(collection)

    return Step("read", run)


def shown_of(document: Document) -> Shown:
    number = document.metadata["n"]
    assert isinstance(number, int)
    return Shown(document.text, number, document.vector.tobytes())


# What is there


def contents_of(collection: Collection) -> Contents:
    """By a scan of all pages."""
    documents: dict[str, Shown] = {}
    token = ""
    while True:
        page = collection.list(page_size=PAGE_DOCUMENTS, page_token=token, with_vectors=True)
        for stored in page.documents:
            assert stored.vector is not None
            made = Document(
                id=stored.id, text=stored.text, metadata=stored.metadata, vector=stored.vector
            )
            documents[stored.id] = shown_of(made)
        token = page.next_page_token
        if not token:
            return Contents(collection.spec.description, documents)


def shown_by(world: World) -> State:
    """What the directory shows. A collection that cannot be opened raises what is wrong."""
    for error in world.store.damaged.values():
        raise error
    collections = {c.name: contents_of(c) for c in world.store.list()}
    whole = [path for path in sorted(world.snapshots.glob("*")) if not path.name.startswith(".")]
    return State(collections, {path.name: _documents_in(path) for path in whole})


def _documents_in(snapshot: Path) -> int:
    verify(snapshot)
    uri = f"{(snapshot / 'documents.sqlite3').as_uri()}?mode=ro&immutable=1"
    connection = sqlite3.connect(uri, uri=True)
    try:
        (count,) = connection.execute("SELECT count(*) FROM documents").fetchone()
    finally:
        connection.close()
    return int(count)


def differences(shown: State, expected: State) -> Iterator[str]:
    """In words."""
    if shown.collections.keys() != expected.collections.keys():
        yield f"collections {sorted(shown.collections)}, not {sorted(expected.collections)}"
    if shown.snapshots != expected.snapshots:
        yield f"snapshots {shown.snapshots}, not {expected.snapshots}"
    for name in shown.collections.keys() & expected.collections.keys():
        here, there = shown.collections[name], expected.collections[name]
        if here.description != there.description:
            yield f"{name} is described as {here.description!r}, not {there.description!r}"
        ids = here.documents.keys() | there.documents.keys()
        wrong = sorted(id for id in ids if here.documents.get(id) != there.documents.get(id))
        if wrong:
            yield f"{name}: other documents: {', '.join(wrong)}"


def faults_of(collection: Collection, expected: Contents) -> Iterator[str]:
    """What `collection` answers otherwise than a dict and brute force do."""
    name, documents = collection.name, expected.documents
    if collection.documents_count != len(documents):
        yield f"{name} counts {collection.documents_count} documents, not {len(documents)}"
    even = sum(shown.text.endswith("version 2") for shown in documents.values())
    if (found := collection.count(Equal("version", 2))) != even:
        yield f"{name}: the filter finds {found}, not {even}"
    query = document(77, 7).vector
    vectors = {id: np.frombuffer(shown.vector, "<f4") for id, shown in documents.items()}
    ranked = sorted((-float(vector @ query), id) for id, vector in vectors.items())[:10]
    for exact in (True, False):
        hits = collection.search(Query(vector=query, k=10, exact=exact)).hits
        if [hit.id for hit in hits] != [id for _, id in ranked]:
            yield f"{name}: a search (exact={exact}) finds {[hit.id for hit in hits]}"
    words = Query(mode=SearchMode.LEXICAL, text="version", k=100)
    found_ids = {hit.id for hit in collection.search(words).hits}
    if found_ids != set(documents):
        yield f"{name}: a word is found in {len(found_ids)} documents, not {len(documents)}"
    yield from (f"{name}: check: {finding.problem}" for finding in collection.check())
