"""A linear layer in a graph, in each precision: the one place where precisions differ."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from encoder.graph import GraphBuilder

Floats = NDArray[np.float32]

DOMAIN = "com.microsoft"  # of onnxruntime's own operators


class Activations(Enum):
    """What a linear layer reads, as far as it matters to rounding."""

    STEADY = auto()  # a norm's output, or attention's mix of values
    GELU = auto()  # never below -0.17, with high peaks
    GATED = auto()  # of both signs, with high peaks


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer: `weight` (in, out), `bias` (out,), and what it reads."""

    name: str
    weight: Floats
    bias: Floats | None
    activations: Activations = Activations.STEADY


class Arithmetic(Protocol):
    """How a graph looks up embeddings and multiplies by matrices. States between are fp32."""

    def lookup(self, graph: GraphBuilder, name: str, table: Floats, ids: str) -> str:
        """Rows of `table` (rows, width) for `ids`, in fp32."""

    def linear(self, graph: GraphBuilder, states: str, layer: Linear) -> str:
        """The layer's answer (..., out) to `states` (..., in)."""

    def product(self, graph: GraphBuilder, left: str, right: str) -> str:
        """A product of two activations, as attention's two are."""

    def products(self, graph: GraphBuilder, states: str, name: str, table: Floats) -> str:
        """`states` (n, width) with every row of the table that `lookup` stores, (n, rows)."""

    def vocabulary(
        self, graph: GraphBuilder, states: str, name: str, table: Floats, bias: Floats
    ) -> str:
        """The same for a decoder's states (..., width), plus a bias (rows,): most of its work."""


class Fp32:
    """Everything in fp32."""

    def lookup(self, graph: GraphBuilder, name: str, table: Floats, ids: str) -> str:
        return graph.add("Gather", graph.weight(name, table), ids)

    def linear(self, graph: GraphBuilder, states: str, layer: Linear) -> str:
        product = graph.add("MatMul", states, graph.weight(f"{layer.name}.weight", layer.weight))
        return add_bias(graph, product, layer)

    def product(self, graph: GraphBuilder, left: str, right: str) -> str:
        return graph.add("MatMul", left, right)

    def products(self, graph: GraphBuilder, states: str, name: str, table: Floats) -> str:
        return graph.add("Gemm", states, graph.weight(name, table), transB=1)

    def vocabulary(
        self, graph: GraphBuilder, states: str, name: str, table: Floats, bias: Floats
    ) -> str:
        weight = graph.weight(name, table)
        product = graph.add("FusedMatMul", states, weight, transB=1, domain=DOMAIN)
        return graph.add("Add", product, graph.weight(f"{name}.output.bias", bias))


class Fp16:
    """Matrices in fp16; sums over many values (norms, softmax, residuals, pooling) in fp32."""

    def lookup(self, graph: GraphBuilder, name: str, table: Floats, ids: str) -> str:
        rows = graph.add("Gather", graph.weight(name, _half(table)), ids)
        return graph.cast(rows, np.float32)

    def linear(self, graph: GraphBuilder, states: str, layer: Linear) -> str:
        half = graph.cast(states, np.float16)
        product = graph.add(
            "MatMul", half, graph.weight(f"{layer.name}.weight", _half(layer.weight))
        )
        return add_bias(graph, graph.cast(product, np.float32), layer)

    def product(self, graph: GraphBuilder, left: str, right: str) -> str:
        halves = [graph.cast(value, np.float16) for value in (left, right)]
        return graph.cast(graph.add("MatMul", *halves), np.float32)

    def products(self, graph: GraphBuilder, states: str, name: str, table: Floats) -> str:
        half = graph.cast(states, np.float16)
        product = graph.add("Gemm", half, graph.weight(name, _half(table)), transB=1)
        return graph.cast(product, np.float32)

    def vocabulary(
        self, graph: GraphBuilder, states: str, name: str, table: Floats, bias: Floats
    ) -> str:
        half = graph.cast(states, np.float16)
        weight = graph.weight(name, _half(table))
        product = graph.add("FusedMatMul", half, weight, transB=1, domain=DOMAIN)
        whole = graph.cast(product, np.float32)
        return graph.add("Add", whole, graph.weight(f"{name}.output.bias", bias))


def add_bias(graph: GraphBuilder, product: str, layer: Linear) -> str:
    """`product` plus the layer's bias, if it has one."""
    if layer.bias is None:
        return product
    return graph.add("Add", product, graph.weight(f"{layer.name}.bias", layer.bias))


def _half(values: Floats) -> NDArray[Any]:
    """fp16, with what is too large for it at its largest instead of infinite."""
    largest = float(np.finfo(np.float16).max)
    return np.clip(values, -largest, largest).astype(np.float16)
