"""Which words of a text and of its translation correspond, from cross-attention. Pure functions.

Letters in the shape comments: U target tokens, T source tokens, M target words, N source words.
"""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise, takewhile

import numpy as np
from numpy.typing import NDArray

from encoder.beam import Floats
from encoder.tokenizer import Window
from encoder.words import Span, words

Link = tuple[int, int]  # a source word and a target word, by their numbers


@dataclass(frozen=True, slots=True)
class Aligned:
    """Words on both sides, and how much of each target word's attention each source word has.

    weights: (M, N); rows sum to one less what lies on no word (ends, punctuation)
    links:   the pairs that belong together, in the order of the target
    """

    source: list[Span]
    target: list[Span]
    weights: Floats
    links: list[Link]


def align(
    source_text: str,
    source: Window,
    target_text: str,
    target: Sequence[tuple[int, int]],
    attention: Floats,
) -> Aligned:
    """Words aligned by the attention of their tokens.

    target:    of each target token its half-open place in `target_text`, in code points
    attention: (U, T)
    A source word's weight is the sum over its tokens, a target word's row the mean over its
    tokens. A target word is linked to its heaviest source word, and to others nearly as heavy.
    """
    sources, targets = words(source_text), words(target_text)
    source_places = list(zip(source.starts.tolist(), source.ends.tolist(), strict=True))
    of_source = _membership(source_places, sources)  # (T, N)
    of_target = _membership(target, targets)  # (U, M)
    counts = np.maximum(of_target.sum(axis=0), 1)[:, np.newaxis]
    weights = np.asarray((of_target.T @ attention @ of_source) / counts, dtype=np.float32)
    return Aligned(sources, targets, weights, links_of(weights))


# A second source word belongs to a target word if it has this share of the heaviest one's weight;
# and no word belongs to one that looks at nothing in particular.
SECOND_SHARE_MIN = 0.8
WEIGHT_MIN = 0.1


def links_of(weights: Floats) -> list[Link]:
    """Pairs (source word, target word) of weights (M, N), in the order of the target."""
    links = []
    for row, of_target in enumerate(weights):
        heaviest = float(of_target.max()) if len(of_target) else 0.0
        if heaviest >= WEIGHT_MIN:
            chosen = np.flatnonzero(of_target >= SECOND_SHARE_MIN * heaviest)
            links += [(int(column), row) for column in chosen]
    return links


def token_places(
    ids: Sequence[int], text: str, decode: Callable[[Sequence[int]], str]
) -> list[tuple[int, int]]:
    """Where each token stands in `text`, which is `decode` of all of them, stripped.

    A token's place is what its text adds to that of the tokens before it: so it is right whatever
    a tokenizer does to spaces, pieces of words, and bytes that are no character by themselves.
    """
    edges = [0]
    for count in range(1, len(ids) + 1):
        begun = decode(ids[:count]).lstrip()
        edges.append(max(edges[-1], _common_length(begun, text)))
    places = []
    for start, end in pairwise(edges):
        space = len(text[start:end]) - len(text[start:end].lstrip())
        places.append((start + space, end))
    return places


def _common_length(left: str, right: str) -> int:
    return sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False))
    )


def alignment_error_rate(found: Set[Link], sure: Set[Link], possible: Set[Link]) -> float:
    """AER (Och and Ney 2003): 0 is perfect. `possible` takes in what is `sure`."""
    allowed = possible | sure
    total = len(found) + len(sure)
    return 1.0 - (len(found & sure) + len(found & allowed)) / total if total else 0.0


@dataclass(frozen=True, slots=True)
class Example:
    """A sentence of a development set, decoded with its own translation.

    attention: of each layer (heads, M, N): each head's weights of target words, see `align`
    sure, possible: what people say of it
    """

    attention: Sequence[Floats]
    sure: frozenset[Link]
    possible: frozenset[Link]


def choose_heads(examples: Sequence[Example], heads_max: int = 4) -> tuple[int, tuple[int, ...]]:
    """The layer and the heads whose mean aligns a development set with the least error.

    Of each layer the best head, joined by others as long as each lowers the error. Gives the
    layer from 0 and the heads from 0, rising.
    """
    best: tuple[float, int, tuple[int, ...]] = (np.inf, 0, ())
    for layer, of_first in enumerate(examples[0].attention):
        chosen: tuple[int, ...] = ()
        error = np.inf
        while len(chosen) < heads_max:
            further = [head for head in range(len(of_first)) if head not in chosen]
            tried = [(_error(examples, layer, (*chosen, head)), head) for head in further]
            if not tried or min(tried)[0] >= error:
                break
            error, head = min(tried)
            chosen = (*chosen, head)
        best = min(best, (error, layer, tuple(sorted(chosen))))
    return best[1], best[2]


def _error(examples: Sequence[Example], layer: int, heads: tuple[int, ...]) -> float:
    """Over all links together, as is usual, not as a mean over sentences."""
    found, sure, possible = set(), set(), set()
    for number, example in enumerate(examples):
        weights = example.attention[layer][list(heads)].mean(axis=0)
        found |= {(number, link) for link in links_of(weights)}
        sure |= {(number, link) for link in example.sure}
        possible |= {(number, link) for link in example.possible | example.sure}
    total = len(found) + len(sure)
    return 1.0 - (len(found & sure) + len(found & possible)) / total if total else 0.0


def _membership(places: Sequence[tuple[int, int]], spans: Sequence[Span]) -> NDArray[np.float32]:
    """(tokens, words): 1 where a token overlaps a word."""
    starts = np.array([start for start, _ in places])[:, np.newaxis]
    ends = np.array([end for _, end in places])[:, np.newaxis]
    firsts = np.array([span.start for span in spans])
    lasts = np.array([span.end for span in spans])
    overlap = (starts < lasts) & (ends > firsts) & (starts >= 0)
    return overlap.reshape(len(places), len(spans)).astype(np.float32)
