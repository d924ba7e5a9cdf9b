"""From texts to the vectors that the tasks score, with any model that has a runtime's methods."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from encoder.config import Pooling
from encoder.engine import batches
from encoder.runtime import normalize, pool
from encoder.sense_space import SenseSpace
from encoder.tokenizer import TokenizedText, Tokenizer, Truncation, Window
from encoder.training.progress import Progress
from encoder.words import Span, SubwordPooling, span_at, tokens_of, word_vector

Advance: TypeAlias = Callable[[int], None]  # so many steps more are done


class Subject(Protocol):
    """A model under judgement: `runtime.Encoder` (ONNX) or `torch_model.TorchModel`."""

    tokenizer: Tokenizer
    width: int
    layers: int
    tokens_max: int
    pooling: Pooling
    prompts: Mapping[str, str]
    dense_share: float  # of a hybrid search's score
    dimensions_choices: tuple[int, ...]  # lengths that a vector may be cut to
    word_layers: tuple[int, ...]
    sense_space: SenseSpace

    def pooled(self, windows: Sequence[Window]) -> NDArray[np.float32]:
        """One vector a window, (windows, width), not normalised."""

    def states(self, windows: Sequence[Window], layers: Sequence[int]) -> list[NDArray[np.float32]]:
        """For each window the states of `layers`, (layers asked for, tokens, states width)."""

    def static(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rows of the word-embedding table, (ids, states width)."""


@dataclass(frozen=True, slots=True)
class WordVectors:
    """What a model gives for one word in each of n sentences; nothing is normalised.

    layers:   (layers + 1, n, width) the word in its context, by layer; 0 is the embeddings
    sentence: (n, width) the pooled last layer, before any projection
    average:  (n, width) the mean static vector of the sentence's tokens: no context at all
    alone:    (n, width) the mean static vector of the word's own tokens
    """

    layers: NDArray[np.float32]
    sentence: NDArray[np.float32]
    average: NDArray[np.float32]
    alone: NDArray[np.float32]


@contextmanager
def counting(title: str, total: int) -> Iterator[Advance]:
    """A progress line for a loop of `total` steps, each of which calls what is given."""
    progress = Progress(title, total)
    done = 0

    def advance(steps: int) -> None:
        nonlocal done
        done += steps
        progress.update(done)

    yield advance
    progress.finish()


def embed(
    subject: Subject, texts: Sequence[str], *, label: str, prompt: str = ""
) -> NDArray[np.float32]:
    """Sentence vectors, (texts, width), of length 1; long texts keep their head.

    A text that occurs more than once is computed once.
    """
    different = list(dict.fromkeys(texts))
    encoded = subject.tokenizer.encode(
        different, tokens_max=subject.tokens_max, truncation=Truncation.HEAD, prompt=prompt
    )
    windows = [text.windows[0] for text in encoded]
    vectors = np.empty((len(different), subject.width), dtype=np.float32)
    with counting(label, len(different)) as advance:
        for batch in batches([len(window.ids) for window in windows]):
            vectors[batch] = subject.pooled([windows[index] for index in batch])
            advance(len(batch))
    place = {text: row for row, text in enumerate(different)}
    return normalize(vectors[[place[text] for text in texts]])


def embed_words(
    subject: Subject,
    sentences: Sequence[str],
    spans: Sequence[tuple[int, int]],
    advance: Advance,
) -> WordVectors:
    """Every vector that a sense classifier may see, of the word at `spans` in `sentences`.

    A word's vector is the mean of its sub-words'. Of a sentence longer than the model reads, the
    window with most context around the word is used. `advance` is told of each sentence done.
    Raises WordNotInWindow if the tokenizer makes nothing of the word.
    """
    encoded = subject.tokenizer.encode(
        sentences, tokens_max=subject.tokens_max, truncation=Truncation.WINDOWS
    )
    places = [span_at(text, *span) for text, span in zip(sentences, spans, strict=True)]
    windows = [window_around(text, span) for text, span in zip(encoded, places, strict=True)]
    tokens = [tokens_of(window, span) for window, span in zip(windows, places, strict=True)]
    average, alone = _static(subject, windows, tokens)
    every = range(subject.layers + 1)
    layers = np.empty((len(every), len(sentences), average.shape[1]), dtype=np.float32)
    sentence = np.empty_like(average)
    for batch in batches([len(window.ids) for window in windows]):
        outputs = subject.states([windows[index] for index in batch], every)
        for index, states in zip(batch, outputs, strict=True):
            layers[:, index] = states[:, tokens[index]].mean(axis=1)
            sentence[index] = pool(states[-1], subject.pooling)
        advance(len(batch))
    return WordVectors(layers, sentence, average, alone)


def window_around(text: TokenizedText, span: Span) -> Window:
    """Of the windows of a long text, the one in which `span` is farthest from an edge."""

    def room(window: Window) -> int:
        inside = np.flatnonzero((window.starts < span.end) & (window.ends > span.start))
        if not len(inside):
            return -1
        return int(min(inside[0], len(window.ids) - 1 - inside[-1]))

    return max(text.windows, key=room)


def _static(
    subject: Subject, windows: Sequence[Window], tokens: Sequence[slice]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    used = np.unique(np.concatenate([window.ids for window in windows]))
    table = subject.static(used)
    average = np.empty((len(windows), table.shape[1]), dtype=np.float32)
    alone = np.empty_like(average)
    for row, (window, word) in enumerate(zip(windows, tokens, strict=True)):
        vectors = table[np.searchsorted(used, window.ids)]
        average[row] = vectors[window.starts >= 0].mean(axis=0)  # special tokens say nothing
        alone[row] = word_vector(vectors[None], word, SubwordPooling.MEAN)
    return average, alone
