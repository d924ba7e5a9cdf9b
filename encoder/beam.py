"""Search for the best translations, token by token. Knows no model: a stepper proposes tokens.

Letters in the shape comments: S sentences still being written, K hypotheses of each, C proposals
for each hypothesis, T source tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
Integers: TypeAlias = NDArray[np.int64]
# A continuation: the hypothesis it continues, its token, its log-probability with it.
Choice: TypeAlias = tuple[int, int, float]

LENGTH_PENALTY_MAX = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamPlan:
    """How to search. Raises ValueError for what makes no sense.

    beams:          hypotheses of a sentence that are followed side by side; 1 is greedy
    alternatives:   how many of the best are wanted, at most `beams`
    length_penalty: a score is the log-probability divided by tokens ** length_penalty (Wu et al.
                    2016 divide by a smoothed length; OpenNMT and transformers as it is here)
    """

    beams: int = 4
    alternatives: int = 1
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.beams < 1:
            raise ValueError(f"beams is {self.beams}; it must be at least 1")
        if not 1 <= self.alternatives <= self.beams:
            raise ValueError(f"alternatives {self.alternatives} is not in 1 to beams {self.beams}")
        if not 0 <= self.length_penalty <= LENGTH_PENALTY_MAX:
            raise ValueError(
                f"length_penalty {self.length_penalty} is not in 0 to {LENGTH_PENALTY_MAX:g}"
            )

    def score(self, log_probability: float, tokens: int) -> float:
        """What hypotheses are ranked by; higher is better. tokens: the end token counted"""
        return log_probability / float(tokens**self.length_penalty)


@dataclass(frozen=True, slots=True)
class Proposals:
    """The likeliest next tokens of each hypothesis.

    ids:               (S, K, C), best first
    log_probabilities: (S, K, C), among the whole vocabulary
    attention:         (S, K, T): what of the source the model looked at; None if nobody asked
    """

    ids: Integers
    log_probabilities: Floats
    attention: Floats | None = None


class Stepper(Protocol):
    """A model in the middle of writing. It remembers what every hypothesis was made of."""

    def step(self, tokens: Integers, parents: Integers) -> Proposals:
        """Read one more token of each hypothesis and propose the next ones.

        tokens:  (S, K)
        parents: (S, K), which hypothesis of the step before each continues, counted through its
                 (S, K) row by row; at the first step the number of the sentence. Sentences that
                 do not occur are done and can be forgotten.
        """


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One translation.

    tokens:    without begin and end
    score:     what the search ranks by
    finished:  False where the longest length cut it
    attention: (tokens + 1, T) or None: row i is what the model looked at when it wrote token i,
               the last when it wrote the end; a cut one has no last row
    """

    tokens: tuple[int, ...]
    log_probability: float
    score: float
    finished: bool
    attention: Floats | None


@dataclass(frozen=True, slots=True)
class _Node:
    """The last token of a hypothesis, and what came before it; None before the first."""

    token: int
    attention: Floats | None
    before: "_Node | None"


@dataclass(slots=True)
class _Sentence:
    """A sentence that is being written: its live hypotheses, and those that reached their end."""

    number: int
    tokens_max: int
    live: list[_Node | None]  # a hypothesis each; None has no tokens yet
    done: list[Hypothesis] = field(default_factory=list)
    tokens: int = 0  # of each live hypothesis


def search(
    stepper: Stepper,
    begin_ids: Sequence[int],
    *,
    end_id: int,
    tokens_max: Sequence[int],
    plan: BeamPlan,
    wanted: Callable[[int], bool] = lambda sentence: True,
) -> list[list[Hypothesis]]:
    """For each sentence its `plan.alternatives` best translations, best first.

    begin_ids:  of each sentence, what it begins with
    tokens_max: of each sentence's translation, its end counted
    wanted:     asked before each step for each sentence; what nobody wants any more leaves the
                batch, and has no translations
    A sentence leaves the batch when none of its hypotheses can become better than those wanted
    that have ended, or when `plan.beams` have ended and none looks better now. Ended ones come
    before those that were cut. Ties go to the hypothesis that was ahead, then to the likelier
    token.
    """
    found: list[list[Hypothesis]] = [[] for _ in begin_ids]
    sentences = [_Sentence(i, limit, [None]) for i, limit in enumerate(tokens_max)]
    tokens = np.array(begin_ids, dtype=np.int64)[:, np.newaxis]
    parents = np.arange(len(begin_ids))[:, np.newaxis]
    totals: NDArray[np.float64] = np.zeros(tokens.shape)  # (S, K) log-probabilities
    while sentences:
        kept = [row for row, sentence in enumerate(sentences) if wanted(sentence.number)]
        if len(kept) < len(sentences):
            sentences = [sentences[row] for row in kept]
            tokens, parents, totals = tokens[kept], parents[kept], totals[kept]
            continue
        proposals = stepper.step(tokens, parents)
        choices = _best(totals, proposals, 2 * plan.beams)
        rows: list[tuple[_Sentence, list[Choice]]] = []
        for row, sentence in enumerate(sentences):
            seen = None if proposals.attention is None else proposals.attention[row]
            alive = _extend(sentence, choices[row], seen, end_id, plan)
            if _is_done(sentence, alive, plan):
                found[sentence.number] = _ranked(sentence.done, plan)
            else:
                rows.append((sentence, [(row * totals.shape[1] + k, t, x) for k, t, x in alive]))
        sentences = [sentence for sentence, _ in rows]
        parents = np.array([[p for p, _, _ in alive] for _, alive in rows], dtype=np.int64)
        tokens = np.array([[t for _, t, _ in alive] for _, alive in rows], dtype=np.int64)
        totals = np.array([[x for _, _, x in alive] for _, alive in rows])
    return found


def _best(totals: NDArray[np.float64], proposals: Proposals, count: int) -> list[list[Choice]]:
    """The `count` best continuations of each sentence, best first: twice as many as there are
    beams, so that as many go on even if each reaches an end."""
    sentences, _, width = proposals.ids.shape
    every = (totals[:, :, np.newaxis] + proposals.log_probabilities).reshape(sentences, -1)
    order = np.argsort(-every, axis=1, kind="stable")[:, :count]
    hypotheses = (order // width).tolist()
    tokens = np.take_along_axis(proposals.ids.reshape(sentences, -1), order, axis=1).tolist()
    sums = np.take_along_axis(every, order, axis=1).tolist()
    return [
        list(zip(of, token, total, strict=True))
        for of, token, total in zip(hypotheses, tokens, sums, strict=True)
    ]


def _extend(
    sentence: _Sentence,
    choices: Sequence[Choice],
    attention: Floats | None,
    end_id: int,
    plan: BeamPlan,
) -> list[Choice]:
    """Move a sentence one token on. Gives its live hypotheses: as many as there are beams, with
    impossible ones if need be, or none at the longest length.

    attention: (K, T), of the hypotheses before
    """
    before = sentence.live
    nodes: list[_Node | None] = []
    alive: list[Choice] = []
    for rank, (hypothesis, token, total) in enumerate(choices):
        if total == -np.inf or len(alive) == plan.beams:
            break
        seen = None if attention is None else attention[hypothesis]
        node = _Node(token, seen, before[hypothesis])
        if token != end_id:
            nodes.append(node)
            alive.append((hypothesis, token, total))
        elif rank < plan.beams:  # one that is not among the best would not have been followed
            sentence.done.append(_ended(node, total, plan, finished=True))
    sentence.tokens += 1
    if sentence.tokens == sentence.tokens_max:
        for last, (_, _, total) in zip(nodes, alive, strict=True):
            sentence.done.append(_ended(last, total, plan, finished=False))
        return []
    while alive and len(alive) < plan.beams:  # a vocabulary smaller than the beam
        nodes.append(nodes[0])
        alive.append((alive[0][0], alive[0][1], -np.inf))
    sentence.live = nodes
    return alive


def _is_done(sentence: _Sentence, alive: Sequence[Choice], plan: BeamPlan) -> bool:
    if not alive:
        return True
    if len(sentence.done) < plan.alternatives:
        return False
    scores = sorted((hypothesis.score for hypothesis in sentence.done), reverse=True)
    wanted = scores[plan.alternatives - 1]
    best = alive[0][2]
    # A log-probability only falls, and what it is divided by grows up to the longest length.
    if plan.score(best, sentence.tokens_max) <= wanted:
        return True
    return len(scores) >= plan.beams and plan.score(best, sentence.tokens) <= wanted


def _ranked(done: Sequence[Hypothesis], plan: BeamPlan) -> list[Hypothesis]:
    order = sorted(done, key=lambda hypothesis: (not hypothesis.finished, -hypothesis.score))
    return order[: plan.alternatives]


def _ended(node: _Node | None, total: float, plan: BeamPlan, *, finished: bool) -> Hypothesis:
    nodes: list[_Node] = []
    while node is not None:
        nodes.append(node)
        node = node.before
    nodes.reverse()
    written = nodes[:-1] if finished else nodes
    return Hypothesis(
        tokens=tuple(one.token for one in written),
        log_probability=total,
        score=plan.score(total, len(nodes)),
        finished=finished,
        attention=_stacked([one.attention for one in nodes]),
    )


def _stacked(rows: Sequence[Floats | None]) -> Floats | None:
    present = [row for row in rows if row is not None]
    return np.stack(present) if present else None
