"""The CoarseWSD-20 task: which numbers are taken of `senses`, and how they are named."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from encoder.evaluation.classifier import Rule
from encoder.evaluation.data import read_sense_words
from encoder.evaluation.features import (
    ALONE,
    FEATURES,
    FEW_SHOT_FEATURES,
    SERVED,
    SHOT_SEEDS,
    SHOTS,
    STATIC,
    WORD,
    Features,
    read_vectors,
    thinned,
)
from encoder.evaluation.result import Score, TaskResult
from encoder.evaluation.senses import (
    CHOICE_SHOTS,
    Choice,
    Fold,
    Judgement,
    Seen,
    choose,
    folds,
    judge,
    judge_few,
    seen_in,
)
from encoder.evaluation.vectors import Subject, counting
from encoder.sense_space import SenseSpace

APPLE = "apple"


def coarsewsd_folder(data: Path) -> Path:
    """Where CoarseWSD-20's words are."""
    return data / "wsd" / "coarsewsd20"


def word_senses(
    subject: Subject,
    data: Path,
    *,
    column: str,
    limit: int | None,
    seed: int,
    chosen: Sequence[Choice] | None = None,
) -> TaskResult:
    """Every score of CoarseWSD-20. Raises DataMissing, DataMalformed.

    chosen: the mixes of layers of each fold, from an earlier run; otherwise this run chooses
    """
    sentences = thinned(read_sense_words(coarsewsd_folder(data)), limit)
    words = read_vectors(subject, sentences, column)
    parts = folds(words, subject.layers, chosen)
    overall = choose(words, subject.layers)
    scores, per_word = _full(parts, column)
    as_served = Choice(subject.word_layers, subject.word_layers)
    served = [Fold(fold.words, as_served, fold.whitenings) for fold in parts]
    scores += _scores("served", f"layers served {_layers(subject.word_layers)}", served, WORD)[0]
    few = _few(parts, seed, column)
    space = subject.sense_space
    told, per_word[SERVED.key] = _rules(SERVED.key, SERVED.name, seen_in(space, words), Rule)
    told += _few_in_space(seen_in(space, words), seed)
    return TaskResult(
        scores + few + told,
        [*_notes(parts, overall), _space_note(space)],
        {
            "choices": [asdict(fold.choice) for fold in parts],
            "choice_of_all_words": asdict(overall),
            "folds": [[word.word for word in fold.words] for fold in parts],
            "words": per_word,
        },
    )


def _full(parts: Sequence[Fold], column: str) -> tuple[list[Score], dict[str, Any]]:
    with counting(f"CoarseWSD-20 classifiers, {column}", len(FEATURES)) as advance:
        scores, per_word = [], {}
        for features in FEATURES:
            found, per_word[features.key] = _scores(features.key, features.name, parts, features)
            scores += found
            advance(1)
    return scores, per_word


def _scores(
    key: str, name: str, parts: Sequence[Fold], features: Features
) -> tuple[list[Score], dict[str, Any]]:
    """Macro-F1, micro accuracy and apple for both classifiers, trained on all sentences."""
    # Vectors that are the same in every sentence leave LDA its priors, the most frequent sense;
    # nearest centroids would compare rounding errors.
    rules = (Rule.DISCRIMINANT,) if features is ALONE else tuple(Rule)
    return _rules(key, name, _seen(parts, features), rules)


def _rules(
    key: str, name: str, seen: Sequence[Seen], rules: Iterable[Rule]
) -> tuple[list[Score], dict[str, Any]]:
    scores: list[Score] = []
    by_word: dict[str, Any] = {}
    for rule in rules:
        judgements = judge(seen, rule)
        prefix, label = f"senses.{key}.{rule.lower()}", f"CoarseWSD-20 {name}, {rule}"
        micro = 100 * micro_accuracy(judgements)
        scores.append(Score(f"{prefix}.macro", f"{label}, macro-F1", 100 * macro(judgements)))
        scores.append(Score(f"{prefix}.micro", f"{label}, micro accuracy", micro))
        if key == WORD.key:
            mean = 100 * float(np.mean([judgement.accuracy for judgement in judgements]))
            scores.append(Score(f"{prefix}.words", f"{label}, accuracy, mean of words", mean))
        scores += [
            Score(f"{prefix}.apple", f"{label}, apple accuracy", 100 * judgement.accuracy)
            for judgement in judgements
            if judgement.word == APPLE and key != ALONE.key
        ]
        by_word[rule] = {
            j.word: {"accuracy": 100 * j.accuracy, "macro_f1": 100 * j.macro_f1} for j in judgements
        }
    return scores, by_word


def _few(parts: Sequence[Fold], seed: int, column: str) -> list[Score]:
    scores = []
    total = len(FEW_SHOT_FEATURES) * len(SHOTS)
    with counting(f"CoarseWSD-20 few examples, {column}", total) as advance:
        for features in FEW_SHOT_FEATURES:
            seen = _seen(parts, features)
            for shots in SHOTS:
                rules = Rule if features in (STATIC, WORD) else (Rule.DISCRIMINANT,)
                scores += [_few_score(seen, features, rule, shots, seed) for rule in rules]
                advance(1)
    return scores


def _few_in_space(seen: Sequence[Seen], seed: int) -> list[Score]:
    return [_few_score(seen, SERVED, rule, shots, seed) for shots in SHOTS for rule in Rule]


def _few_score(
    seen: Sequence[Seen], features: Features, rule: Rule, shots: int, seed: int
) -> Score:
    seeds = range(seed, seed + SHOT_SEEDS)
    runs = [100 * macro(judge_few(seen, rule, shots, each)) for each in seeds]
    return Score(
        f"senses.{features.key}.{rule.lower()}.{shots}-shot",
        f"CoarseWSD-20 {features.name}, {rule}, {shots}-shot macro-F1",
        float(np.mean(runs)),
        float(np.std(runs, ddof=1)),
    )


def _seen(parts: Sequence[Fold], features: Features) -> list[Seen]:
    return [word for fold in parts for word in fold.seen(features)]


def macro(judgements: Sequence[Judgement]) -> float:
    """Macro-F1, the mean of words, 0 to 1."""
    return float(np.mean([judgement.macro_f1 for judgement in judgements]))


def micro_accuracy(judgements: Sequence[Judgement]) -> float:
    """The share of all words' test sentences that is right, 0 to 1: frequent words weigh more."""
    right = sum(int(np.sum(j.gold == j.predicted)) for j in judgements)
    return right / sum(len(j.gold) for j in judgements)


def _notes(parts: Sequence[Fold], overall: Choice) -> list[str]:
    chosen = "; ".join(
        f"{_layers(fold.choice.plain)} (whitened: {_layers(fold.choice.whitened)}) for "
        f"{', '.join(word.word for word in fold.words)}"
        for fold in parts
    )
    return [
        "CoarseWSD-20: a word's vector is the mean of the layers that the other half of the words "
        "chose by macro-F1 on each fifth of their own training sentences, taught by the rest "
        f"(whitened: by {CHOICE_SHOTS} examples a sense): layers {chosen}. All twenty words "
        f"together would choose {_layers(overall.plain)} (whitened: {_layers(overall.whitened)}).",
        "1NN is the nearest sense centroid by cosine, LDA has a within-sense covariance, shrunk as "
        "examples left out are told best. The whitening of word and averaged vectors is fitted, "
        "without labels, on the "
        "training sentences of the other half of the words; the sentence's vector (the pooled "
        f"last layer) is not whitened. n-shot: mean ± standard deviation over {SHOT_SEEDS} draws. "
        "Micro accuracy counts each test sentence once.",
    ]


def _space_note(space: SenseSpace) -> str:
    if space.whitening is None:
        made = "not whitened, for the model has no whitening of its own"
    else:
        origin = space.origin
        made = (
            f"whitened by the model's own file, fitted on {origin.get('uses', '?')} unlabelled "
            f"uses of {origin.get('words', '?')} words in plain text, which chose the layers too"
        )
    return (
        f"CoarseWSD-20 {SERVED.name}: what SenseService and `polyseme senses` use, the word's "
        f"vector (layers {_layers(space.layers)}) beside its sentence's, {made}. Nothing in it was "
        "chosen by these words, whichever fold they are in."
    )


def _layers(mix: Sequence[int]) -> str:
    return "+".join(map(str, mix))
