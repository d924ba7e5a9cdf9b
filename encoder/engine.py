"""Texts to vectors in one process, on all cores, without a server."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import numpy as np
from numpy.typing import NDArray

from encoder.runtime import Encoder, finish
from encoder.tokenizer import Truncation

# Padded. The states of a small batch stay in a core's cache: of MiniLM, 4096 tokens cost 1.4 times
# as much torch time a token, and 2.2 times as much int8 time.
BATCH_TOKENS_MAX = 1024


class Engine:
    """A model with a thread for each core. Cores compute a batch each: beside each other they do
    more than together on one, which has them wait for the slowest some hundred times."""

    def __init__(self, encoder: Encoder, *, batch_tokens_max: int = BATCH_TOKENS_MAX) -> None:
        """batch_tokens_max: padded tokens in one model call"""
        self._encoder = encoder
        self._batch_tokens_max = batch_tokens_max
        self._narrow = encoder.twin(threads=1) if encoder.cores > 1 else encoder
        self._threads = ThreadPoolExecutor(encoder.cores, thread_name_prefix="engine")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish what runs, then end the threads."""
        self._threads.shutdown(cancel_futures=True)

    def embed(
        self,
        texts: Sequence[str],
        *,
        prompt: str = "",
        tokens_max: int = 0,
        progress: Callable[[int], None] = lambda texts: None,
    ) -> NDArray[np.float32]:
        """One vector a text, (texts, width), as long as the model has them; a long text keeps
        its head.

        tokens_max: of one text; 0 for the model's
        progress:   told of texts done, each once
        """
        encoder = self._encoder
        tokenized = encoder.tokenizer.each(
            texts,
            tokens_max=tokens_max or encoder.tokens_max,
            truncation=Truncation.HEAD,
            prompt=prompt,
            places=False,
        )
        windows = [text.windows[0] for text in tokenized]
        work = list(batches([len(window.ids) for window in windows], self._batch_tokens_max))
        runtime = self._narrow if len(work) > 1 else encoder
        vectors = np.empty((len(texts), encoder.width), dtype=np.float32)

        def compute(rows: list[int]) -> int:
            vectors[rows] = runtime.pooled([windows[row] for row in rows])
            return len(rows)

        for done in self._threads.map(compute, work):
            progress(done)
        return finish(vectors, encoder.width, encoder.normalized)


def batches(lengths: Sequence[int], tokens_max: int = BATCH_TOKENS_MAX) -> Iterator[list[int]]:
    """Indices in batches of like length, longest first, each within `tokens_max` when padded.

    One text above the limit travels alone.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > tokens_max:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
