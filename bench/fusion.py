"""How should the two lists of a hybrid search become one? nDCG@10 on BEIR-shaped sets.

    python -m bench.fusion --model models/all-minilm-l6-v2 --data DIR [--precision int8]

DIR/retrieval/<set>/ has corpus.jsonl, queries.jsonl and qrels/test.tsv. Each row is a way to fuse,
by the functions of the server (index/fusion.py); the last column is its worst loss against BM25.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from encoder.evaluation.data import RetrievalSet, read_retrieval_set, retrieval_folders
from encoder.evaluation.retrieval import (
    Ranking,
    dense_rankings,
    ids_of,
    lexical_rankings,
    mean_ndcg,
)
from encoder.manifest import Precision
from encoder.runtime import Encoder
from index.fusion import fused, reciprocal_ranks, relative_bm25, relative_similarities

SHARES = (0.15, 0.25, 0.3, 0.4, 0.5, 0.6)
Fuse = Callable[[Ranking, Ranking], list[str]]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--precision", type=Precision, default=Precision.INT8)
    options = parser.parse_args()
    encoder = Encoder.load(options.model, precision=options.precision)
    sets = [read_retrieval_set(folder) for folder in retrieval_folders(options.data)]
    scores = [scores_of(each, encoder) for each in sets]
    print("| | " + " | ".join(each.name for each in sets) + " | mean | worst against BM25 |")
    print("|---|" + "---:|" * (len(sets) + 2))
    for way in scores[0]:
        values = [100 * found[way] for found in scores]
        worst = min(100 * (found[way] - found["BM25"]) for found in scores)
        cells = [f"{value:.1f}" for value in (*values, sum(values) / len(values))]
        print(f"| {way} | " + " | ".join(cells) + f" | {worst:+.1f} |")


def scores_of(subset: RetrievalSet, encoder: Encoder) -> dict[str, float]:
    """nDCG@10 of each way."""
    pairs = list(zip(dense_rankings(encoder, subset, ""), lexical_rankings(subset), strict=True))
    return {
        name: mean_ndcg(subset, [fuse(dense, lexical) for dense, lexical in pairs])
        for name, fuse in ways().items()
    }


def ways() -> dict[str, Fuse]:
    """By their names."""
    found: dict[str, Fuse] = {
        "BM25": lambda _, lexical: ids_of(lexical),
        "dense": lambda dense, _: ids_of(dense),
        "reciprocal ranks": lambda dense, lexical: best(
            fused(reciprocal_ranks(dense), reciprocal_ranks(lexical))
        ),
    }
    return found | {f"relative scores, dense {share}": relative(share) for share in SHARES}


def relative(share: float) -> Fuse:
    """The server's default with another share of the dense side."""

    def fuse(dense: Ranking, lexical: Ranking) -> list[str]:
        return best(fused(relative_similarities(dense, share), relative_bm25(lexical, 1 - share)))

    return fuse


def best(scores: dict[str, float]) -> list[str]:
    """Best first, ties by id."""
    return sorted(scores, key=lambda id: (-scores[id], id))


if __name__ == "__main__":
    main()
