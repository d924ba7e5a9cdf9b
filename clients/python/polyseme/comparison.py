"""What context adds: a shared word in several sentences, seen three ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from polyseme import methods
from polyseme.errors import invalid
from polyseme.plans import Plan, call
from polyseme.retry import Budget
from polyseme.v1 import compare_pb2
from polyseme.vectors import (
    Fingerprint,
    Priority,
    Span,
    Timing,
    check_fields,
    fingerprint_from,
    matrix_array,
    priority_number,
    span_from,
    texts_list,
    timing_from,
    utf8_bytes,
)
from polyseme.words import Target, target_message

T = TypeVar("T")
ViewKind = Literal["averaged", "sentence", "word in context"]
_KINDS: dict[int, ViewKind] = {
    compare_pb2.COMPARISON_KIND_AVERAGED: "averaged",
    compare_pb2.COMPARISON_KIND_SENTENCE: "sentence",
    compare_pb2.COMPARISON_KIND_CONTEXTUAL_WORD: "word in context",
}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class View:
    """How one kind of vector sees the sentences."""

    kind: ViewKind
    similarities: NDArray[np.float32]  # (n, n) cosines
    ranks: NDArray[np.int64]  # (n, n): sentence j's place in i's order; 0 itself, 1 the nearest
    same_sense_mean: float | None  # mean cosine of pairs with the same sense
    other_sense_mean: float | None  # mean cosine of pairs with different senses
    margin: float | None  # their difference: above 0, the senses are told apart
    nearest_same_sense: float | None  # share of sentences whose nearest has the same sense


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Comparison:
    """Three views of the same sentences; `print` shows them side by side."""

    word: str
    sentences: tuple[str, ...]
    senses: tuple[str, ...]  # "" where not labelled
    spans: tuple[Span, ...]  # where the word stands
    averaged: View  # sentences as averages of their words' context-free vectors
    sentence: View  # the model's sentence vectors
    contextual: View  # the word's own vectors in their contexts
    layers: tuple[int, ...]
    fingerprint: Fingerprint
    timing: Timing

    @property
    def views(self) -> tuple[View, View, View]:
        """Averaged, sentence, word in context."""
        return self.averaged, self.sentence, self.contextual

    def reading(self) -> str:
        """The result in one line."""
        margins = [(view.margin, view.kind) for view in self.views if view.margin is not None]
        if not margins:
            return "No margins: label the sentences with two senses or more, some of them shared."
        best = max(margins)
        others = ", ".join(f"{kind} {margin:+.2f}" for margin, kind in margins)
        if best[0] <= 0:
            return f"None of the three tells the senses apart (margins: {others})."
        return f"Best at telling the senses apart: {best[1]} (margins: {others})."

    def __str__(self) -> str:
        lines = [f"{self.word!r} in {len(self.sentences)} sentences"]
        width = max(len(sense) for sense in self.senses)
        for i, (text, sense) in enumerate(zip(self.sentences, self.senses, strict=True)):
            label = f"{sense:<{width}}  " if width else ""
            lines.append(f"  {i + 1:>2}  {label}{text}")
        lines += ["", *_side_by_side(self.views), "", *_margin_rows(self.views), self.reading()]
        return "\n".join(lines)


def compare(
    budget: Budget,
    word: str,
    sentences: Sequence[str],
    *,
    senses: Sequence[str] | None = None,
    targets: Sequence[Target | None] | None = None,
    layers: Sequence[int] = (),
    priority: Priority | None = None,
) -> Plan[Comparison]:
    """The comparison, in one request."""
    texts = texts_list(sentences, "sentences")
    check_fields(word=word, senses=senses, layers=layers)
    labels = _parallel("senses", senses, texts, "")
    places = _parallel("targets", targets, texts, None)
    request = compare_pb2.CompareEmbeddingsRequest(
        word=word, layers=layers, priority=priority_number(priority)
    )
    for i, (text, place, sense) in enumerate(zip(texts, places, labels, strict=True)):
        utf8_bytes(text, f"sentences[{i}]")
        item = request.inputs.add(text=text, sense=sense)
        if place is not None:
            item.target.CopyFrom(target_message(place, f"targets[{i}]"))
    answer = yield from call(budget, methods.COMPARE, request)
    return _comparison_from(answer, word, texts, labels)


def _parallel(field: str, given: Sequence[T] | None, texts: list[str], default: T) -> list[T]:
    if given is None:
        return [default] * len(texts)
    if len(given) != len(texts):
        raise invalid(field, f"has {len(given)} for {len(texts)} sentences")
    return list(given)


def _comparison_from(
    answer: compare_pb2.CompareEmbeddingsResponse, word: str, texts: list[str], labels: list[str]
) -> Comparison:
    views = {view.kind: view for view in map(_view_from, answer.views)}
    return Comparison(
        word=word,
        sentences=tuple(texts),
        senses=tuple(labels),
        spans=tuple(span_from(s) for s in answer.spans),
        averaged=views["averaged"],
        sentence=views["sentence"],
        contextual=views["word in context"],
        layers=tuple(answer.layers),
        fingerprint=fingerprint_from(answer.fingerprint),
        timing=timing_from(answer.timing),
    )


def _view_from(view: compare_pb2.ComparisonView) -> View:
    return View(
        kind=_KINDS[view.kind],
        similarities=matrix_array(view.similarities),
        ranks=matrix_array(view.ranks).astype(np.int64),
        same_sense_mean=view.same_sense_mean if view.HasField("same_sense_mean") else None,
        other_sense_mean=view.other_sense_mean if view.HasField("other_sense_mean") else None,
        margin=view.margin if view.HasField("margin") else None,
        nearest_same_sense=view.nearest_same_sense if view.HasField("nearest_same_sense") else None,
    )


def _side_by_side(views: Sequence[View]) -> list[str]:
    count = len(views[0].similarities)
    header = "".join(f"{i + 1:>6}" for i in range(count))
    width = len(header)
    lines = ["      " + "   ".join(f"{view.kind:^{width}}" for view in views).rstrip()]
    lines.append("      " + "   ".join(header for _ in views))
    for i in range(count):
        rows = ("".join(f"{x:6.2f}" for x in view.similarities[i]) for view in views)
        lines.append(f"  {i + 1:>2}  " + "   ".join(rows))
    return lines


def _margin_rows(views: Sequence[View]) -> list[str]:
    if all(view.margin is None for view in views):
        return []
    rows = [f"  {'':<16}{'same sense':>12}{'other sense':>13}{'margin':>9}{'nearest right':>15}"]
    rows += [
        f"  {v.kind:<16}{_number(v.same_sense_mean):>12}{_number(v.other_sense_mean):>13}"
        f"{_number(v.margin, '+'):>9}{_share(v.nearest_same_sense):>15}"
        for v in views
    ]
    return [*rows, ""]


def _number(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.2f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
