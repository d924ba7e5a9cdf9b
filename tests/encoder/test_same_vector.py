"""The same text has the same vector, to the byte, whatever its company, padding and threads.

`SAME_TEXTS=10000 pytest -m slow -s tests/encoder/test_same_vector.py` asks with more texts.
"""

import os
import random

import numpy as np
import pytest

from encoder.manifest import Graph, Precision, graph_path
from encoder.runtime import Encoder
from encoder.session import Session
from encoder.tokenizer import Truncation

TEXTS = int(os.environ.get("SAME_TEXTS", "400"))
SEED = int(os.environ.get("SAME_SEED", "1"))
BATCH_MAX = 48
EXACT = (Precision.FP32, Precision.INT8)  # GetServerInfo says of these on a CPU that they are
WORDS = (  # noqa: SIM905  a list would be a page
    "apple bank spring crane bat seal light match ring bolt the of a in über Straße naïve 東京 "
    "Москва 👩‍👩‍👧 42 3.14 co-operate don't antidisestablishmentarianism ( ) ! \u202e \u0301 zzxqv"
).split()

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300 + TEXTS)]


def texts_of(rng, count):
    """Mostly a sentence long; one in 250 fills the model's window, one in 250 is empty."""
    lengths = [rng.randint(1, 12) for _ in range(count)]
    for index in range(0, count, 125):
        lengths[index] = rng.choice([0, 300])
    return [" ".join(rng.choices(WORDS, k=length)) for length in lengths]


def parted(rng, items):
    """`items` in another order, in runs of random lengths."""
    items = rng.sample(items, len(items))
    while items:
        size = rng.choice([1, 2, 3, rng.randint(1, BATCH_MAX)])
        yield items[:size]
        items = items[size:]


def loaded(directory, precision):
    return [Encoder.load(directory, precision=precision, threads=threads) for threads in (1, 2, 3)]


def windows_of(rng, encoder, count):
    texts = encoder.tokenizer.encode(
        texts_of(rng, count), tokens_max=encoder.tokens_max, truncation=Truncation.HEAD
    )
    return [text.windows[0] for text in texts]


def compare(rng, encoders, windows):
    """How many windows have another vector in company than alone; batches; padded tokens."""
    alone = [encoders[0].pooled([window])[0].tobytes() for window in windows]
    differing, batches, tokens = 0, 0, 0
    for batch in parted(rng, list(range(len(windows)))):
        company = [windows[index] for index in batch]
        encoder = rng.choice(encoders)
        for index, vector in zip(batch, encoder.pooled(company), strict=True):
            differing += vector.tobytes() != alone[index]
        batches += 1
        tokens += max(len(window.ids) for window in company) * len(company)
        if batches % 20 == 0:  # the states of their tokens, too
            layers = encoders[0].word_layers
            state = encoder.states(company, layers)[0]
            np.testing.assert_array_equal(state, encoders[0].states(company[:1], layers)[0])
    return differing, batches, tokens


@pytest.mark.parametrize("precision", EXACT)
def test_a_text_has_one_vector_whoever_is_beside_it(model_directory, precision):
    rng = random.Random(SEED)
    encoders = loaded(model_directory, precision)

    differing, batches, tokens = compare(rng, encoders, windows_of(rng, encoders[0], TEXTS))

    print(
        f"\n{precision}, seed {SEED}: {TEXTS} texts, {batches} batches, {tokens} padded tokens, "
        f"differing {differing}"
    )
    assert not differing


def test_integers_scaled_by_the_whole_batch_are_found_out(model_directory, tmp_path):
    """What is usual: one scale of a layer's inputs for all that is computed together."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    usual = tmp_path / "usual.onnx"
    graph = model_directory / graph_path(Precision.FP32, Graph.POOLED)
    quantize_dynamic(graph, usual, weight_type=QuantType.QInt8)
    rng = random.Random(SEED)
    encoders = loaded(model_directory, Precision.FP32)
    for encoder in encoders:
        encoder._sessions[Graph.POOLED] = Session(usual, threads=1)

    differing, _, _ = compare(rng, encoders, windows_of(rng, encoders[0], 60))

    assert differing > 30
