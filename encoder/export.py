"""A checkpoint to ONNX graphs that are proven to answer as it does."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from torch import nn

from encoder.checkpoint import load_head, load_sentence_encoder
from encoder.graph import GraphBuilder, WeightsFile
from encoder.importing import describe_directory
from encoder.int8 import Int8
from encoder.linear import Arithmetic, Floats, Fp16, Fp32
from encoder.manifest import (
    MANIFEST_NAME,
    Graph,
    Manifest,
    Precision,
    graph_path,
    read_manifest,
    weights_path,
    write_manifest,
)
from encoder.model import MaskedLanguageModel, SentenceEncoder
from encoder.network import Network
from encoder.parity import NoParity, Reference, require
from encoder.sample import channel_peaks, sample_batches
from encoder.tokenizer import Tokenizer

__all__ = ["NoParity", "export_directory", "numbers", "replace_graphs", "write_graphs"]

Progress: TypeAlias = Callable[[str], None]


def export_directory(
    directory: Path,
    *,
    precisions: Sequence[Precision] = tuple(Precision),
    progress: Progress = lambda _: None,
) -> Manifest:
    """Write the graphs of a model directory and record how closely they answer.

    A directory without `polyseme.json`, as training writes it, is described first. Existing
    graphs of these precisions are replaced. Raises NoParity when one does not answer as the torch
    model does: that precision's graphs are then not written.
    """
    if (directory / "config.json").is_file() and not (directory / MANIFEST_NAME).exists():
        describe_directory(directory)
    manifest = read_manifest(directory)
    model = load_sentence_encoder(directory)
    tokenizer = Tokenizer(directory / "tokenizer.json")
    progress("torch: answering for the sample texts")
    language_model = load_head(directory, model.encoder)
    reference = Reference(model, sample_batches("parity", tokenizer, manifest), language_model)
    for precision in precisions:
        progress(f"{precision}: writing graphs")
        arithmetic = _arithmetic(precision, model, tokenizer, manifest)
        with tempfile.TemporaryDirectory(dir=directory, prefix=".export-") as folder:
            write_graphs(Path(folder), model, precision, arithmetic, language_model)
            progress(f"{precision}: comparing their answers with torch's")
            parity = reference.compare(Path(folder), precision)
            require(precision, parity)
            replace_graphs(Path(folder) / "onnx" / precision, directory / "onnx" / precision)
        parities = {**manifest.precisions, precision: parity}
        manifest = manifest.model_copy(update={"precisions": parities})
        write_manifest(directory, manifest)
    return read_manifest(directory)


def write_graphs(
    directory: Path,
    model: SentenceEncoder,
    precision: Precision,
    arithmetic: Arithmetic,
    language_model: MaskedLanguageModel | None = None,
) -> None:
    """Write the graphs of `precision` and the one file that holds their weights.

    language_model: the same encoder with its masked-LM head; without it there is no FILL graph
    """
    weights_file = directory / weights_path(precision)
    weights_file.parent.mkdir(parents=True)
    weights = WeightsFile(weights_file)
    graphs: dict[Graph, GraphBuilder] = {
        graph: _build(graph, GraphBuilder(graph, weights), model, arithmetic)
        for graph in Graph
        if graph is not Graph.FILL
    }
    if language_model is not None:
        builder = GraphBuilder(Graph.FILL, weights)
        graphs[Graph.FILL] = _build_fill(builder, language_model, arithmetic)
    weights.close()  # before the graphs are checked: the check looks into it
    for graph, builder in graphs.items():
        builder.save(directory / graph_path(precision, graph))


def _build(
    graph: Graph, builder: GraphBuilder, model: SentenceEncoder, arithmetic: Arithmetic
) -> GraphBuilder:
    config = model.encoder.config
    network = Network(builder, config, numbers(model.encoder), arithmetic)
    if graph is Graph.STATIC:
        ids = builder.input("ids", ["ids"])
        builder.output("static", network.static(ids), ["ids", config.width])
        return builder
    ids, mask = (builder.input(name, ["batch", "tokens"]) for name in ("ids", "mask"))
    layers = network.layers(ids, mask)
    if graph is Graph.STATES:
        for layer, value in enumerate(layers.states):
            builder.output(f"layer_{layer}", value, ["batch", "tokens", config.width])
        return builder
    if graph is Graph.ATTENTION:
        for layer, value in enumerate(layers.attentions, start=1):
            axes = ("batch", config.heads, "tokens", "tokens")
            builder.output(f"attention_{layer}", value, axes)
        return builder
    pooled = network.pooled(layers.states[-1], mask, model.pooling)
    if model.projection is not None:
        pooled = network.project(pooled, *_projection(model.projection))
    builder.output("pooled", pooled, ["batch", model.width])
    return builder


def _build_fill(
    builder: GraphBuilder, model: MaskedLanguageModel, arithmetic: Arithmetic
) -> GraphBuilder:
    config = model.encoder.config
    network = Network(builder, config, numbers(model.encoder), arithmetic)
    ids, mask = (builder.input(name, ["batch", "tokens"]) for name in ("ids", "mask"))
    places = builder.input("places", ["places", 2])
    logits = network.logits(network.layers(ids, mask).states[-1], places, numbers(model))
    builder.output("logits", logits, ["places", config.vocab_size])
    return builder


def numbers(module: nn.Module) -> dict[str, Floats]:
    """The module's weights by their names."""
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def _projection(linear: nn.Linear) -> tuple[Floats, Floats | None]:
    """Its weight (in, out) and bias."""
    weight = np.ascontiguousarray(linear.weight.detach().numpy().T)
    return weight, None if linear.bias is None else linear.bias.detach().numpy()


def _arithmetic(
    precision: Precision, model: SentenceEncoder, tokenizer: Tokenizer, manifest: Manifest
) -> Arithmetic:
    match precision:
        case Precision.FP32:
            return Fp32()
        case Precision.FP16:
            return Fp16()
        case Precision.INT8:
            sample = sample_batches("calibration", tokenizer, manifest)
            return Int8(channel_peaks(model, sample))


def replace_graphs(new: Path, old: Path) -> None:
    """Put the folder `new` where `old` is, or was not yet."""
    old.parent.mkdir(exist_ok=True, parents=True)
    shutil.rmtree(old, ignore_errors=True)
    new.rename(old)
