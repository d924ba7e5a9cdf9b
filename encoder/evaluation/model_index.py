"""An evaluation as Hugging Face's `model-index`: results by task, data set and metric."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from encoder.evaluation.features import BOTH, STATIC, WORD
from encoder.evaluation.result import Evaluation, Score

DIGITS = 2
_VECTORS = {features.key for features in (STATIC, WORD, BOTH)}


@dataclass(frozen=True, slots=True)
class Place:
    """What a score is of, in the words of the hub. config: language or word, if one is meant."""

    task: str
    task_name: str
    dataset: str
    name: str
    config: str
    metric: str


def model_index(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The value of the card's key; every column's score is a metric of its own.

    The many scores of word senses are represented by those that the card's text speaks of.
    """
    results: dict[tuple[str, str, str], dict[str, Any]] = {}
    for by_column in evaluation.results.values():
        for column, found in by_column.items():
            for score in found.scores:
                place = place_of(score.key)
                if place is not None:
                    key = (place.task, place.dataset, place.config)
                    entry = results.setdefault(key, _entry(place))
                    entry["metrics"].append(_metric(place, score, column))
    return [{"name": evaluation.model, "results": list(results.values())}]


def place_of(key: str) -> Place | None:  # noqa: PLR0911  # one for each task
    """Where a score belongs; None for one that is left to the table."""
    task, *rest = key.split(".")
    match task, rest:
        case "mlm", [part]:
            metric = "loss" if part == "loss" else f"loss_{part}"
            return Place(
                "fill-mask", "Masked language modelling", "wikitext", "WikiText-2", "", metric
            )
        case "senses", [vectors, rule, metric] if vectors in _VECTORS and "shot" not in metric:
            config = metric if metric == "apple" else ""
            kind = {"macro": "f1", "micro": "accuracy", "words": "accuracy_mean_of_words"}
            return Place(
                "word-sense-disambiguation",
                "Word sense disambiguation",
                "coarsewsd-20",
                "CoarseWSD-20",
                config,
                f"{kind.get(metric, 'accuracy')}_{vectors}_{rule}",
            )
        case "sts", [language]:
            name = f"STS-B ({language})"
            return Place(
                "sentence-similarity", "Semantic textual similarity", "stsb", name, language,
                "spearmanr",
            )  # fmt: skip
        case "tatoeba", [pair, *scorer]:
            metric = "f1" if scorer else "accuracy"
            return Place(
                "bitext-mining",
                "Finding translations",
                "tatoeba",
                f"Tatoeba ({pair})",
                pair,
                metric,
            )
        case "retrieval", [name, way]:
            return Place("text-retrieval", "Retrieval", name, name, "", f"ndcg_at_10_{way}")
        case "crosslingual", [texts, direction, metric]:
            dataset = {"captions": "multi30k-captions", "sentences": "ud-pud"}[texts]
            name = f"{dataset} ({direction})"
            return Place(
                "text-retrieval", "Search across languages", dataset, name, direction, metric
            )
        case "translation", [pair, metric]:
            scorer_name = {"lowered": "bleu_lower_cased_moses"}.get(metric, metric)
            name = f"Multi30k test2016 ({pair})"
            return Place("translation", "Translation", "multi30k", name, pair, scorer_name)
    return None


def _entry(place: Place) -> dict[str, Any]:
    dataset: Mapping[str, Any] = {"type": place.dataset, "name": place.name, "split": "test"}
    if place.config:
        dataset = {**dataset, "config": place.config}
    metrics: Sequence[Any] = []
    return {
        "task": {"type": place.task, "name": place.task_name},
        "dataset": dataset,
        "metrics": metrics,
    }


def _metric(place: Place, score: Score, column: str) -> dict[str, Any]:
    return {
        "type": place.metric,
        "value": round(score.value, DIGITS),
        "name": f"{score.label} ({column})",
    }
