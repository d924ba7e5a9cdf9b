"""Eight-bit arithmetic whose result for a token depends on that token alone.

The usual dynamic quantisation takes one scale from the whole batch, so that a text's vector
changes with its neighbours. Here scales are either fixed in advance, from sample texts, or each
token's own:

- Before a linear layer that reads a norm's output or attention's mix, values are steady: fixed
  scales, one a channel, folded into the weights (SmoothQuant, Xiao et al. 2022, equation 4).
- What a feed-forward layer's activation gives has rare, high peaks, which a fixed scale would cut
  off or pay for everywhere: the scale is the token's own peak.

Sums are whole numbers, so they are exact in any order. What remains in fp32 is row by row.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from encoder.graph import GraphBuilder
from encoder.linear import DOMAIN, Activations, Floats, Linear, add_bias

Int8Array: TypeAlias = NDArray[np.int8]

# How much of a channel's unevenness moves from the states to the weights (the paper's alpha). On
# all-MiniLM-L6-v2, 0.8 left the least error of 0.3, 0.5, 0.7 and 0.8 in each kind of layer.
SMOOTHING = 0.8

# onnxruntime multiplies unsigned states by signed weights. Without VNNI, as on many laptops, an
# instruction adds two neighbouring products in 16 bits, and 255 * (127 + 127) is too large for
# that. So neighbours' weights of one sign add up to 128 at most: 255 * 128 < 2 ** 15.
_PAIR_MAX = 127  # before rounding, which may add 1
_WEIGHT_MAX = 127

_SYMMETRIC_ZERO = 128
# GELU is never below -0.17, so little of the range is kept for what is negative.
_GELU_MIN = 0.17
_GELU_ZERO = 16
_TINY = 1e-9  # instead of dividing by 0 for a token whose states are all 0


class Int8:
    """Linear layers and the embedding table in 8 bits; norms, attention and pooling in fp32."""

    def __init__(self, peaks: Mapping[str, Floats]) -> None:
        """peaks: of each linear layer's input channels, the largest absolute value seen, (in,)"""
        self._peaks = peaks

    def lookup(self, graph: GraphBuilder, name: str, table: Floats, ids: str) -> str:
        """Rows of `table`, each with a scale of its own."""
        rows, scales = _stored_rows(graph, name, table)
        whole = graph.cast(graph.add("Gather", rows, ids), np.float32)
        return graph.add("Mul", whole, graph.add("Gather", scales, ids))

    def linear(self, graph: GraphBuilder, states: str, layer: Linear) -> str:
        """The layer's answer (..., out) to `states` (..., in)."""
        if layer.activations is Activations.STEADY:
            return self._fixed(graph, states, layer)
        return self._by_row(graph, states, layer)

    def product(self, graph: GraphBuilder, left: str, right: str) -> str:
        """A product of two activations, in fp32: a small part of the work."""
        return graph.add("MatMul", left, right)

    def products(self, graph: GraphBuilder, states: str, name: str, table: Floats) -> str:
        """Products in fp32 with whole rows, then scaled: few states ask for them, and a guess
        should not suffer from rounding its state too. onnxruntime keeps the rows in fp32, so the
        memory of the graph that asks for this is that of an fp32 table."""
        rows, scales = _stored_rows(graph, name, table)
        product = graph.add("Gemm", states, graph.cast(rows, np.float32), transB=1)
        return graph.add("Mul", product, graph.add("Reshape", scales, graph.integers(-1)))

    def vocabulary(
        self, graph: GraphBuilder, states: str, name: str, table: Floats, bias: Floats
    ) -> str:
        """Products in 8 bits, with a second copy of the table that lies as products want it."""
        return self._fixed(graph, states, Linear(vocabulary_layer(name), table.T, bias))

    def _fixed(self, graph: GraphBuilder, states: str, layer: Linear) -> str:
        steps = channel_steps(self._peaks[layer.name], layer.weight)
        inverse = graph.weight(f"{layer.name}.inverse_steps", 1 / steps)
        whole = _quantize(graph, graph.add("Mul", states, inverse), _SYMMETRIC_ZERO)
        stepped = replace(layer, weight=layer.weight * steps[:, None])
        return _multiply(graph, whole, stepped, _SYMMETRIC_ZERO)

    def _by_row(self, graph: GraphBuilder, states: str, layer: Linear) -> str:
        if layer.activations is Activations.GELU:
            zero, step_min, magnitude = _GELU_ZERO, _GELU_MIN / _GELU_ZERO, states
        else:
            zero, step_min, magnitude = _SYMMETRIC_ZERO, _TINY, graph.add("Abs", states)
        peak = graph.add("ReduceMax", magnitude, graph.integers(-1), keepdims=1)  # (..., 1)
        step = graph.add("Mul", peak, graph.scalar(1 / (255 - zero)))
        step = graph.add("Max", step, graph.scalar(step_min))
        scaled = graph.add("Mul", states, graph.add("Reciprocal", step))
        whole = _quantize(graph, scaled, zero)
        product = _multiply(graph, whole, replace(layer, bias=None), zero)
        return add_bias(graph, graph.add("Mul", product, step), layer)


def vocabulary_layer(table: str) -> str:
    """The linear layer that `vocabulary` is, by its table's name: peaks know it by this."""
    return f"{table}.output"


def channel_steps(peaks: Floats, weight: Floats) -> Floats:
    """The size of one quantisation step of each input channel, (in,).

    peaks:  (in,) the largest absolute value of each channel
    weight: (in, out)
    """
    rows = np.abs(weight).max(axis=1)
    factors = _no_zero(peaks) ** SMOOTHING / _no_zero(rows) ** (1 - SMOOTHING)
    return np.asarray(factors * (peaks / factors).max() / 127, dtype=np.float32)


def quantize_weight(weight: Floats) -> tuple[Int8Array, Floats]:
    """Whole weights (in, out) and the scale of each column (out,), so that neither a weight nor a
    pair of neighbours overflows (see `_PAIR_MAX`)."""
    padded = np.pad(weight, ((0, weight.shape[0] % 2), (0, 0)))
    pairs = padded.reshape(-1, 2, weight.shape[1])
    of_one_sign = np.maximum(pairs.clip(min=0).sum(axis=1), (-pairs).clip(min=0).sum(axis=1))
    scales = _no_zero(of_one_sign.max(axis=0) / _PAIR_MAX)  # a pair is at least its larger half
    return _rounded(weight / scales), scales


def _stored_rows(graph: GraphBuilder, name: str, table: Floats) -> tuple[str, str]:
    """Whole rows (rows, width) and the scale of each (rows, 1)."""
    scales = _no_zero(np.abs(table).max(axis=1, keepdims=True) / _WEIGHT_MAX)
    rows = graph.weight(f"{name}.rows", _rounded(table / scales))
    return rows, graph.weight(f"{name}.scales", scales)


def _quantize(graph: GraphBuilder, scaled: str, zero: int) -> str:
    """Round to whole numbers of 0 to 255, where `zero` stands for 0."""
    return graph.add("QuantizeLinear", scaled, graph.scalar(1.0), _byte(graph, zero))


def _multiply(graph: GraphBuilder, states: str, layer: Linear, zero: int) -> str:
    """Whole states times whole weights, then scaled to fp32, in one node of onnxruntime's own."""
    whole, scales = quantize_weight(layer.weight)
    inputs = [
        states,
        graph.weight(f"{layer.name}.weight", whole),
        graph.scalar(1.0),
        graph.weight(f"{layer.name}.scales", scales),
        _byte(graph, zero),
    ]
    if layer.bias is not None:
        inputs += ["", graph.weight(f"{layer.name}.bias", layer.bias)]
    return graph.add("MatMulIntegerToFloat", *inputs, domain=DOMAIN)


def _byte(graph: GraphBuilder, value: int) -> str:
    return graph.weight(f"byte_{value}", np.array(value, dtype=np.uint8))


def _rounded(values: Floats) -> Int8Array:
    return np.rint(values).clip(-_WEIGHT_MAX, _WEIGHT_MAX).astype(np.int8)


def _no_zero(values: Floats) -> Floats:
    return np.maximum(values, np.float32(_TINY)).astype(np.float32)
