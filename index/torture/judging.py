"""Questions to a store whose files were damaged, and what is thought of the answers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from index.checking import Part
from index.collection import Collection
from index.documents import Query, SearchMode
from index.errors import DataDamaged, FormatTooNew, StoreError
from index.filter import Equal, Range
from index.store import Store
from index.torture.history import SETTINGS, Contents, contents_of, document, shown_of

IDS = tuple(f"d{number:02}" for number in range(62))  # the last two are not there
QUERIES = {
    "exact search": Query(vector=document(77, 7).vector, k=100, exact=True),
    "search": Query(vector=document(77, 7).vector, k=10),
    "search for ids": Query(vector=document(77, 7).vector, k=10, with_documents=False),
    "filtered search": Query(vector=document(77, 7).vector, k=10, filter=Range("n", gte=7, lt=30)),
    "words": Query(mode=SearchMode.LEXICAL, text="version 17", k=100),
    "ids by words": Query(mode=SearchMode.LEXICAL, text="number", k=100, with_documents=False),
    "hybrid search": Query(mode=SearchMode.HYBRID, vector=document(77, 7).vector, text="42", k=10),
}
FILTERS = {"few": Equal("version", 2), "many": Range("n", gte=20)}
REQUESTS = ("r1", "late2", "unknown")

Answers: TypeAlias = dict[str, object]  # by question; an error is an answer


@dataclass(slots=True)
class Verdict:
    """wrong: what must not be. silent: questions answered wrongly, which `check` would tell."""

    what: str
    wrong: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    outcome: str = "right"  # or: refused, named, noticed

    def __str__(self) -> str:
        return f"{self.what}: {self.outcome}: {self.wrong or self.silent}"


@dataclass(frozen=True, slots=True)
class Truth:
    """What is answered by the undamaged directory."""

    fruit: Answers
    other: Answers
    documents: Contents

    @classmethod
    def of(cls, home: Path) -> Truth:
        with Store.open(home / "data", SETTINGS) as store:
            fruit, other = store.collection("fruit"), store.collection("other")
            return cls(ask(fruit), ask(other), contents_of(fruit))


def ask(collection: Collection) -> Answers:
    """Every question's answer."""
    return {name: _or_error(lambda ask=ask: ask(collection)) for name, ask in _questions().items()}


def _questions() -> dict[str, Any]:
    asked: dict[str, Any] = {
        "specification": lambda c: c.spec.to_json(),
        "count and sequence": lambda c: (c.documents_count, c.sequence),
        "all": lambda c: sorted(contents_of(c).documents.items()),
    }
    for id in IDS:
        asked[f"get {id}"] = lambda c, id=id: _read(c, id)
    for name, query in QUERIES.items():
        asked[name] = lambda c, query=query: _hits(c, query)
    for name, filter in FILTERS.items():
        asked[f"count {name}"] = lambda c, filter=filter: c.count(filter)
        asked[f"list {name}"] = lambda c, filter=filter: [
            d.id for d in c.list(page_size=1000, filter=filter).documents
        ]
    for request in REQUESTS:
        asked[f"request {request}"] = lambda c, request=request: c.replay(request, b"")
    return asked


def _read(collection: Collection, id: str) -> object:
    [found] = collection.get([id])
    if found is None:
        return None
    assert found.vector is not None
    return found.id, found.text, dict(found.metadata), found.sequence, found.vector.tobytes()


def _hits(collection: Collection, query: Query) -> object:
    result = collection.search(query)
    return [
        (hit.id, round(hit.score, 5), hit.document and hit.document.text) for hit in result.hits
    ]


def _or_error(ask: Any) -> object:
    try:
        return ask()
    except StoreError as error:
        return error


def judge(home: Path, truth: Truth, verdict: Verdict) -> None:
    """Open the damaged directory below `home`, ask, check, repair; fill in the verdict."""
    try:
        store = Store.open(home / "data", SETTINGS)
    except StoreError:
        verdict.outcome = "refused"
        return
    with store:
        if "collections/other" not in verdict.what:
            _expect(verdict, "the other collection", store, "other", truth.other)
        _judge_snapshot(store, home, truth, verdict)
        if _fruit_is_named(store, truth, verdict):
            verdict.wrong += _repaired(store, truth)


def _expect(verdict: Verdict, who: str, store: Store, name: str, expected: Answers) -> None:
    answers = ask(store.collection(name))
    verdict.wrong += [f"{who}: {told}" for told in _differences(answers, expected)]


def _differences(answers: Answers, expected: Answers) -> list[str]:
    """Questions that were answered, and not rightly."""
    return [
        question
        for question, right in expected.items()
        if not _same(answers[question], right) and not isinstance(answers[question], StoreError)
    ]


def _same(answer: object, right: object) -> bool:
    if isinstance(right, StoreError):
        return type(answer) is type(right)
    return answer == right


def _fruit_is_named(store: Store, truth: Truth, verdict: Verdict) -> bool:
    """Whether there is something to repair."""
    if "fruit" in store.damaged:
        verdict.outcome = "named"
        return not isinstance(store.damaged["fruit"], FormatTooNew)
    collection = store.collection("fruit")
    answers = ask(collection)
    missed = _differences(answers, truth.fruit)
    errors = [
        e for q, e in answers.items() if isinstance(e, StoreError) and not _same(e, truth.fruit[q])
    ]
    if errors:
        verdict.outcome = "noticed"
        verdict.wrong += [repr(e) for e in errors if not isinstance(e, DataDamaged)]
    collection.wait_for_builds()
    findings = collection.check()
    if missed and findings:
        verdict.silent += missed
    elif missed:
        verdict.wrong += [f"wrong, and check is content: {question}" for question in missed]
    if errors and not findings:
        verdict.wrong.append(f"an error, and check is content: {errors[0]}")
    if findings and verdict.outcome == "right":
        verdict.outcome = "check alone notices"
    return any(finding.part is not Part.SEGMENT for finding in findings)


def _repaired(store: Store, truth: Truth) -> Iterator[str]:
    try:
        repair = store.repair("fruit")
        collection = store.collection("fruit")
        yield from (f"after repair: {finding.problem}" for finding in collection.check())
        kept = contents_of(collection).documents
        for id, shown in kept.items():
            # Where writes are lost, and it says so, earlier versions are back.
            earlier = shown_of(document(shown.number, 1)) if repair.lost_writes else None
            if shown not in (truth.documents.documents.get(id), earlier):
                yield f"after repair: {id} is not what was written"
        if not (repair.lost or repair.lost_writes) and len(kept) == len(truth.documents.documents):
            asked = [q for q in truth.fruit if not q.startswith(("request", "count and"))]
            answers = ask(collection)
            wrong = [q for q in asked if not _same(answers[q], truth.fruit[q])]
            yield from (f"after repair: {question}" for question in wrong)
    except StoreError as error:
        yield f"repair: {type(error).__name__}: {error}"


def _judge_snapshot(store: Store, home: Path, truth: Truth, verdict: Verdict) -> None:
    """It is restored whole, or not at all."""
    with contextlib.suppress(DataDamaged, FormatTooNew):
        restored = store.restore(home / "snapshots" / "first", "again")
        if len(contents_of(restored).documents) != len(IDS) - 2:
            verdict.wrong.append("a damaged snapshot was restored")
