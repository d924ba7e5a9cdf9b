"""Which words of a text and of its translation correspond, from cross-attention. Pure functions.

Letters in the shape comments: U target tokens, T source tokens, M target words, N source words.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

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


_NO_CHARACTER = "\ufffd"  # what decoders make of bytes that are none yet


def token_places(
    ids: Sequence[int], text: str, decode: Callable[[Sequence[int]], str]
) -> list[tuple[int, int]]:
    """Where each token stands in `text`, which is `decode` of all of them, stripped.

    A token's place is what its text adds to that of the tokens before it: so it is right whatever
    a tokenizer does to spaces and pieces of words. The bytes of a character, where each is a token
    of its own, all stand where the character does.
    """
    edges = [0]
    unfinished = []  # of each token, whether it ends within a character
    for count in range(1, len(ids) + 1):
        begun = decode(ids[:count]).lstrip()
        edges.append(_agreed(begun, text, edges[-1]))
        unfinished.append(edges[-2] == edges[-1] < len(begun) and begun.endswith(_NO_CHARACTER))
    places = []
    for start, end in pairwise(edges):
        space = len(text[start:end]) - len(text[start:end].lstrip())
        places.append((start + space, end))
    for number in reversed(range(len(places) - 1)):
        if unfinished[number]:
            places[number] = places[number + 1]
    return places


def _agreed(begun: str, text: str, before: int) -> int:
    """How far both texts are equal, or `before` if that is not as far."""
    if begun[:before] != text[:before]:
        return before
    end = min(len(begun), len(text))
    return next((at for at in range(before, end) if begun[at] != text[at]), max(before, end))


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
            tried = [(error_rate(examples, layer, (*chosen, head)), head) for head in further]
            if not tried or min(tried)[0] >= error:
                break
            error, head = min(tried)
            chosen = (*chosen, head)
        best = min(best, (error, layer, tuple(sorted(chosen))))
    return best[1], best[2]


def error_rate(examples: Sequence[Example], layer: int, heads: Sequence[int] = ()) -> float:
    """AER (Och and Ney 2003) of the mean of some heads of a layer, of all if none is named.

    0 is perfect, 1 the worst. Over all links together, as is usual, not a mean over sentences.
    """
    right, asked = 0, 0
    for example in examples:
        every = example.attention[layer]
        found = set(links_of((every[list(heads)] if heads else every).mean(axis=0)))
        right += len(found & example.sure) + len(found & (example.possible | example.sure))
        asked += len(found) + len(example.sure)
    return 1.0 - right / asked if asked else 0.0


def _membership(places: Sequence[tuple[int, int]], spans: Sequence[Span]) -> NDArray[np.float32]:
    """(tokens, words): 1 where a token overlaps a word."""
    starts = np.array([start for start, _ in places])[:, np.newaxis]
    ends = np.array([end for _, end in places])[:, np.newaxis]
    firsts = np.array([span.start for span in spans])
    lasts = np.array([span.end for span in spans])
    overlap = (starts < lasts) & (ends > firsts) & (starts >= 0)
    return overlap.reshape(len(places), len(spans)).astype(np.float32)
