"""An experiment of gpu.py's: the encoder's graph as a GPU would like it.

The graph that is served keeps states in fp32 and writes attention out, so that it is right on
every device. Here attention is one operator (flash attention, where the texts of a batch are of
one length), norms are fused with their residuals, and everything is fp16. If it is ahead on a
GPU by more than the rest of a call costs, it should become what `export` writes for one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnxruntime.transformers import optimizer
from onnxruntime.transformers.fusion_options import FusionOptions

from encoder.checkpoint import load_sentence_encoder
from encoder.graph import GraphBuilder, WeightsFile
from encoder.linear import DOMAIN, Fp32
from encoder.network import Network, Weights


class FusedNetwork(Network):
    """The encoder with each attention as one operator, which sees no padding."""

    def _attention(
        self, name: str, states: str, bias: str, rotation: tuple[str, str] | None
    ) -> tuple[str, str]:
        graph, name = self._graph, f"{name}.attention"
        stacked = self.linear(f"{name}.query_key_value", states)
        if rotation is None:
            parts = graph.split("Split", stacked, outputs=3, axis=-1, num_outputs=3)
        else:
            query, key, value = self.heads(stacked, 3)
            turned = (self.rotate(query, rotation), self.rotate(key, rotation), value)
            parts = [self.joined(part) for part in turned]
        mixed = graph.add("MultiHeadAttention", *parts, domain=DOMAIN, num_heads=self._config.heads)
        return self.linear(f"{name}.output", mixed), ""

    def norm_of(self, weights: Weights, name: str, states: str, prefix: str) -> str:
        """With a bias, of zeros if it has none: fusion with a residual asks for one."""
        scale = weights[f"{name}.weight"]
        biased = {f"{name}.bias": np.zeros_like(scale), **weights}
        return super().norm_of(biased, name, states, prefix)


def write_fused(model: Path, out: Path, *, half: bool = True) -> Path:
    """Write the fused graph of a model directory into `out`; returns its file.

    Inputs and outputs are those of the served graph `pooled`; the mask is only averaged with.
    """
    network = load_sentence_encoder(model)
    config = network.encoder.config
    out.mkdir(parents=True, exist_ok=True)
    weights = WeightsFile(out / "plain.bin")
    builder = GraphBuilder("pooled", weights)
    numbers = {name: tensor.numpy() for name, tensor in network.encoder.state_dict().items()}
    graph = FusedNetwork(builder, config, numbers, Fp32())
    ids, mask = (builder.input(name, ["batch", "tokens"]) for name in ("ids", "mask"))
    pooled = graph.pooled(graph.layers(ids, mask).states[-1], mask, network.pooling)
    if network.projection is not None:
        weight = np.ascontiguousarray(network.projection.weight.detach().numpy().T)
        bias = network.projection.bias
        pooled = graph.project(pooled, weight, None if bias is None else bias.detach().numpy())
    builder.output("pooled", pooled, ["batch", network.width])
    weights.close()
    builder.save(out / "plain.onnx")
    fused = optimizer.optimize_model(
        str(out / "plain.onnx"),
        model_type="bert",
        num_heads=config.heads,
        hidden_size=config.width,
        optimization_options=FusionOptions("bert"),
        opt_level=0,
    )
    if half:
        fused.convert_float_to_float16(keep_io_types=True)
    fused.save_model_to_file(str(out / "fused.onnx"))
    return out / "fused.onnx"


def operators(graph: Path) -> dict[str, int]:
    """How often each operator occurs."""
    counts: dict[str, int] = {}
    for node in onnx.load(graph, load_external_data=False).graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return counts
