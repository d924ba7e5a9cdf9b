import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from encoder.int8 import channel_steps, quantize_weight

weights = st_numpy.arrays(
    np.float32,
    st.tuples(st.integers(1, 9), st.integers(1, 5)),
    elements=st.floats(-1e3, 1e3, width=32),
)


@given(weights)
def test_whole_weights_are_within_half_a_step_of_the_true_ones(weight):
    whole, scales = quantize_weight(weight)

    assert (np.abs(whole * scales - weight) <= scales * 0.5001).all()


@given(weights)
def test_neighbouring_products_never_leave_sixteen_bits(weight):
    whole, _ = quantize_weight(weight)

    padded = np.pad(whole.astype(np.int64), ((0, len(whole) % 2), (0, 0)))
    pairs = padded.reshape(-1, 2, weight.shape[1])
    for sign in (1, -1):
        assert (255 * (sign * pairs).clip(min=0).sum(axis=1) < 2**15).all()


@given(weights, st.integers(0, 100))
def test_no_channel_seen_in_calibration_leaves_eight_bits(weight, seed):
    peaks = np.random.default_rng(seed).uniform(0, 50, len(weight)).astype(np.float32)

    steps = channel_steps(peaks, weight)

    assert (steps > 0).all()
    assert (peaks / steps <= 127.001).all()
