import random
import shutil
import subprocess
import sys
import threading
from importlib import resources

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from encoder.manifest import read_manifest, write_manifest
from encoder.runtime import (
    DeviceMissing,
    Encoder,
    ModelDamaged,
    ModelNotFound,
    Pooling,
    Precision,
    PrecisionMissing,
    finish,
    normalize,
    pool,
)
from encoder.tokenizer import Truncation

BYTE_EXACT = [Precision.FP32, Precision.INT8]


@pytest.fixture(scope="module", params=BYTE_EXACT)
def encoder(request, tiny):
    return Encoder.load(tiny, precision=request.param)


def windows_of(encoder, texts):
    encoded = encoder.tokenizer.encode(
        texts, tokens_max=encoder.tokens_max, truncation=Truncation.HEAD
    )
    return [text.windows[0] for text in encoded]


def sample_texts(count):
    text = resources.files("encoder").joinpath("samples", "parity.txt").read_text("utf-8")
    return random.Random(5).sample(text.splitlines(), count)


@pytest.mark.parametrize("precision", BYTE_EXACT)
def test_a_vector_is_the_same_to_the_byte_alone_and_in_any_company(minilm, precision):
    encoder = Encoder.load(minilm, precision=precision, threads=2)
    windows = windows_of(encoder, sample_texts(40))
    judge = Encoder.load(minilm, precision=precision, threads=1)
    alone = [judge.pooled([window])[0].tobytes() for window in windows]

    for seed in range(2):
        order = list(range(len(windows)))
        random.Random(seed).shuffle(order)
        for start in range(0, len(order), 7):
            chosen = order[start : start + 7]
            for index, vector in zip(
                chosen, encoder.pooled([windows[i] for i in chosen]), strict=True
            ):
                assert vector.tobytes() == alone[index]


@given(
    lengths=st.lists(st.integers(1, 120), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_states_do_not_depend_on_neighbours_or_padding(encoder, lengths, seed):
    words = random.Random(seed)
    texts = [" ".join(words.choices(["apple", "pie", "phone", "ü", "🍎"], k=n)) for n in lengths]
    windows = windows_of(encoder, texts)

    together = encoder.states(windows, range(encoder.layers + 1))

    for window, states in zip(windows, together, strict=True):
        alone = encoder.states([window], range(encoder.layers + 1))[0]
        assert alone.shape == (encoder.layers + 1, len(window.ids), encoder.states_width)
        assert alone.tobytes() == states.tobytes()


def test_asking_for_some_layers_gives_them_in_that_order(encoder):
    window = windows_of(encoder, ["An apple."])[0]
    every = encoder.states([window], range(encoder.layers + 1))[0]

    some = encoder.states([window], [3, 0, 3])[0]

    np.testing.assert_array_equal(some, every[[3, 0, 3]])
    with pytest.raises(ValueError, match="layer 9 does not exist"):
        encoder.states([window], [9])


def test_nothing_in_gives_nothing_out(encoder):
    window = windows_of(encoder, ["a"])[0]

    assert encoder.pooled([]).shape == (0, encoder.width)
    assert encoder.states([], [1]) == []
    assert encoder.states([window], [])[0].shape == (0, 3, encoder.states_width)
    assert encoder.static(np.array([], dtype=np.int64)).shape == (0, encoder.states_width)


def test_an_empty_text_has_a_vector_of_its_special_tokens(encoder):
    vector = encoder.pooled(windows_of(encoder, [""]))

    assert np.isfinite(vector).all()


def test_static_vectors_are_rows_of_the_table_wherever_the_word_stands(encoder):
    ids = windows_of(encoder, ["apple pie apple"])[0].ids

    vectors = encoder.static(ids)

    np.testing.assert_array_equal(vectors[1], vectors[3])
    with pytest.raises(ValueError, match="outside the vocabulary"):
        encoder.static(np.array([encoder.vocab_size]))


def test_threads_may_share_an_encoder(encoder):
    windows = windows_of(encoder, sample_texts(8))
    expected = encoder.pooled(windows).tobytes()
    answers = []

    def ask():
        for _ in range(5):
            answers.append(encoder.pooled(windows).tobytes())
            encoder.states(windows[:1], [1])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers == [expected] * 20


def test_every_file_of_a_model_is_checked_before_it_is_loaded(tiny, tmp_path):
    for name in read_manifest(tiny).files:
        copy = tmp_path / "copy"
        shutil.copytree(tiny, copy)
        content = bytearray((copy / name).read_bytes())
        content[len(content) // 2] ^= 1
        (copy / name).write_bytes(content)

        with pytest.raises(ModelDamaged, match="another SHA-256") as damage:
            Encoder.load(copy)

        assert damage.value.file == copy / name
        shutil.rmtree(copy)


def test_a_missing_or_cut_file_is_named(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "copy")
    weights = tmp_path / "copy" / "onnx" / "int8" / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ModelDamaged, match=r"weights\.bin has \d+ bytes"):
        Encoder.load(tmp_path / "copy")

    weights.unlink()
    with pytest.raises(ModelDamaged, match=r"weights\.bin is missing"):
        Encoder.load(tmp_path / "copy")

    (tmp_path / "copy" / "polyseme.json").write_text('{"format": 2}')
    with pytest.raises(ModelDamaged, match=r"polyseme\.json cannot be read: format"):
        Encoder.load(tmp_path / "copy")


def test_a_directory_without_a_manifest_is_no_model(tmp_path):
    with pytest.raises(ModelNotFound, match="polyseme-model import"):
        Encoder.load(tmp_path)


def test_a_precision_that_was_not_exported_is_refused_with_the_way_to_get_it(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "copy")
    manifest = read_manifest(tiny)
    precisions = {p: parity for p, parity in manifest.precisions.items() if p != Precision.INT8}
    write_manifest(tmp_path / "copy", manifest.model_copy(update={"precisions": precisions}))

    with pytest.raises(PrecisionMissing, match="polyseme-model export"):
        Encoder.load(tmp_path / "copy", precision=Precision.INT8)


def test_a_device_that_cannot_be_used_is_refused_instead_of_replaced(tiny):
    with pytest.raises(PrecisionMissing, match="a GPU wants fp16"):
        Encoder.load(tiny, precision=Precision.INT8, device="cuda")
    with pytest.raises(DeviceMissing, match="CUDAExecutionProvider"):
        Encoder.load(tiny, precision=Precision.FP16, device="cuda")


def test_the_fingerprint_tells_what_differs(tiny):
    encoder = Encoder.load(tiny, precision=Precision.FP32)
    other = Encoder.load(tiny, precision=Precision.INT8)

    mine, theirs = encoder.fingerprint(), other.fingerprint(prompt="query: ")

    assert mine.combined == encoder.fingerprint().combined
    assert mine.combined != theirs.combined
    assert mine.differences(theirs) == ["weights_sha256", "prompt", "numeric_class"]


def test_serving_needs_no_torch_and_no_onnx(tiny):
    program = f"""
import sys
from pathlib import Path
from encoder.runtime import Encoder
from encoder.tokenizer import Truncation
encoder = Encoder.load(Path({str(tiny)!r}))
text = encoder.tokenizer.encode(["apple"], tokens_max=9, truncation=Truncation.ERROR)[0]
encoder.pooled(text.windows)
print([name for name in ("torch", "onnx", "safetensors", "transformers") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"


def test_pooling_of_states_follows_its_name():
    states = np.array([[1.0, 5.0], [3.0, 1.0]], dtype=np.float32)

    assert pool(states, Pooling.MEAN).tolist() == [2.0, 3.0]
    assert pool(states, Pooling.CLS).tolist() == [1.0, 5.0]
    assert pool(states, Pooling.MAX).tolist() == [3.0, 5.0]


def test_vectors_are_cut_before_they_are_scaled_to_length_one():
    vectors = np.array([[3.0, 4.0, 12.0], [0.0, 0.0, 0.0]], dtype=np.float32)

    np.testing.assert_allclose(finish(vectors, 2, True), [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)
    np.testing.assert_array_equal(finish(vectors, 3, False), vectors)
    np.testing.assert_allclose(np.linalg.norm(normalize(vectors)[0]), 1, rtol=1e-6)
    with pytest.raises(ValueError, match="dimensions 4 is not in 1 to 3"):
        finish(vectors, 4, True)
