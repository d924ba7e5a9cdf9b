r"""Lexical ranking to compare with: Okapi BM25 as Lucene and BEIR's baselines compute it.

k1 = 0.9 and b = 0.4 are Anserini's, the setting of the published BM25 columns of BEIR. Words are
runs of `\w`, lower-cased; nothing is stemmed and no word is a stop word, because the sets are in
three languages. It is a yardstick, not what the server searches with: that is SQLite's FTS5, which
folds accents too and fixes k1 = 1.2, b = 0.75.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

K1 = 0.9  # how soon a repeated word stops counting
B = 0.4  # how much a long document is held against it

_WORD = re.compile(r"\w+")


def terms(text: str) -> list[str]:
    """The words of `text`, lower-cased, in order, with repetitions."""
    return _WORD.findall(text.lower())


class Bm25:
    """An inverted index over documents, with the weight of each word in each of them."""

    def __init__(self, documents: Sequence[str], *, k1: float = K1, b: float = B) -> None:
        """Read `documents`. Raises ValueError if there are none."""
        if not documents:
            raise ValueError("there are no documents to index")
        counts = [Counter(terms(document)) for document in documents]
        lengths = np.array([sum(count.values()) for count in counts], dtype=np.float64)
        norms = k1 * (1 - b + b * lengths / max(lengths.mean(), 1.0))
        postings: dict[str, list[tuple[int, int]]] = {}
        for document, count in enumerate(counts):
            for term, times in count.items():
                postings.setdefault(term, []).append((document, times))
        self._documents = len(documents)
        self._weights = {
            term: _weigh(np.array(posting), norms, k1) for term, posting in postings.items()
        }

    def scores(self, query: str) -> NDArray[np.float64]:
        """The score of every document, (documents,); a word asked for twice counts twice."""
        scores = np.zeros(self._documents)
        for term in terms(query):
            if term in self._weights:
                documents, weights = self._weights[term]
                scores[documents] += weights
        return scores

    def search(self, query: str, hits_max: int) -> list[tuple[int, float]]:
        """The best documents that share a word with `query`, with their scores, best first, ties
        in their order."""
        scores = self.scores(query)
        best = np.argsort(-scores, kind="stable")[:hits_max]
        return [(int(row), float(scores[row])) for row in best if scores[row] > 0]


def _weigh(
    posting: NDArray[np.int64], norms: NDArray[np.float64], k1: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    documents, times = posting[:, 0], posting[:, 1]
    # Lucene adds 1 inside the logarithm, so that a word in most documents never counts against.
    rarity = math.log(1 + (len(norms) - len(documents) + 0.5) / (len(documents) + 0.5))
    return documents, rarity * times * (k1 + 1) / (times + norms[documents])
