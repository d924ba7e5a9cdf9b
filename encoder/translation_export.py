"""A translator to ONNX graphs that are proven to answer as it does."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from encoder.decoder_network import DecoderNetwork, Pair, table_name
from encoder.decoding import past_names
from encoder.export import Progress, numbers, replace_graphs
from encoder.graph import GraphBuilder, WeightsFile
from encoder.int8 import Int8
from encoder.linear import Arithmetic, Fp16, Fp32
from encoder.manifest import MANIFEST_NAME, Precision, read_manifest, write_manifest
from encoder.network import Network
from encoder.translation_config import FOLDER
from encoder.translation_manifest import (
    TRANSLATION_MANIFEST_NAME,
    TranslationGraph,
    TranslationManifest,
    read_translation_manifest,
    translation_graph_path,
    translation_weights_path,
    write_translation_manifest,
)
from encoder.translation_parity import TranslationReference, require_translation
from encoder.translation_sample import decoder_peaks, sample_pairs
from encoder.translator import Translator, load_translator


def export_translator(
    directory: Path,
    *,
    precisions: Sequence[Precision] = tuple(Precision),
    progress: Progress = lambda _: None,
) -> TranslationManifest:
    """Write the graphs of the translator in a model directory and record how closely they answer.

    Existing graphs of these precisions are replaced. Raises NoParity when one does not answer as
    the torch model does: that precision's graphs are then not written.
    """
    folder = directory / FOLDER
    model = load_translator(directory)
    manifest = _begun(directory)
    progress("torch: translating the sample texts")
    reference = TranslationReference(model, sample_pairs("parity", folder, model))
    for precision in precisions:
        progress(f"{precision}: writing graphs")
        arithmetic = _arithmetic(precision, folder, model)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as scratch:
            write_translation_graphs(Path(scratch), model, precision, arithmetic)
            progress(f"{precision}: comparing their answers with torch's")
            parity = reference.compare(Path(scratch), precision)
            require_translation(precision, parity)
            replace_graphs(Path(scratch) / "onnx" / precision, folder / "onnx" / precision)
        parities = {**manifest.precisions, precision: parity}
        manifest = manifest.model_copy(update={"precisions": parities})
        write_translation_manifest(folder, manifest)
    if (directory / MANIFEST_NAME).is_file():  # it has the SHA-256 of these files too
        write_manifest(directory, read_manifest(directory))
    return read_translation_manifest(folder)


def write_translation_graphs(
    folder: Path, model: Translator, precision: Precision, arithmetic: Arithmetic
) -> None:
    """Write the graphs of `precision` and the one file that holds their weights."""
    weights_file = folder / translation_weights_path(precision)
    weights_file.parent.mkdir(parents=True)
    weights = WeightsFile(weights_file)
    builders = {
        TranslationGraph.ENCODE: _encode(weights, model, arithmetic),
        TranslationGraph.STEP: _step(weights, model, arithmetic),
    }
    weights.close()  # before the graphs are checked: the check looks into it
    for graph, builder in builders.items():
        builder.save(folder / translation_graph_path(precision, graph))


def _encode(weights: WeightsFile, model: Translator, arithmetic: Arithmetic) -> GraphBuilder:
    builder = GraphBuilder(TranslationGraph.ENCODE, weights)
    ids, mask = (builder.input(name, ["sentences", "source"]) for name in ("ids", "mask"))
    network = Network(builder, model.config.encoder, numbers(model.encoder), arithmetic)
    memory = network.layers(ids, mask).states[-1]
    _write_pairs(builder, "source", _decoder(builder, model, arithmetic).source(memory), model)
    return builder


def _step(weights: WeightsFile, model: Translator, arithmetic: Arithmetic) -> GraphBuilder:
    builder = GraphBuilder(TranslationGraph.STEP, weights)
    ids, parents = (builder.input(name, ["sentences", "hypotheses"]) for name in ("ids", "parents"))
    mask = builder.input("mask", ["sentences", "source"])
    choices = builder.input("choices", [1])
    past = _read_pairs(builder, "past", ["rows", "before"], model)
    source = _read_pairs(builder, "source", ["sentences", "source"], model)
    decoder = _decoder(builder, model, arithmetic)
    read = decoder.read(ids, parents, past, source, mask)
    logits = decoder.logits(read.states)
    proposed, log_probabilities = decoder.proposals(logits, choices)
    axes = ["sentences", "hypotheses"]
    builder.output("logits", logits, [*axes, model.config.decoder.vocab_size])
    builder.output("proposed", proposed, [*axes, "choices"], np.int64)
    builder.output("log_probabilities", log_probabilities, [*axes, "choices"])
    _write_pairs(builder, "now", read.past, model)
    alignment = model.config.alignment
    shares = decoder.mean(read.shares[alignment.layer], alignment.heads)
    builder.output("attention", shares, [*axes, "source"])
    return builder


def _decoder(builder: GraphBuilder, model: Translator, arithmetic: Arithmetic) -> DecoderNetwork:
    table = table_name(tied=model.config.tied_tables)
    weights = numbers(model.decoder)
    return DecoderNetwork(builder, model.config.decoder, weights, arithmetic, table=table)


def _read_pairs(
    builder: GraphBuilder, kind: str, axes: Sequence[str], model: Translator
) -> list[Pair]:
    shape = model.config.decoder
    rows, tokens = axes
    names = [
        builder.input(name, [rows, shape.heads, tokens, shape.head_width], np.float32)
        for name in past_names(kind, range(shape.layers))
    ]
    return [Pair(*names[i : i + 2]) for i in range(0, len(names), 2)]


def _write_pairs(
    builder: GraphBuilder, kind: str, pairs: Sequence[Pair], model: Translator
) -> None:
    shape = model.config.decoder
    names = past_names(kind, range(shape.layers))
    values = [value for pair in pairs for value in (pair.keys, pair.values)]
    for name, value in zip(names, values, strict=True):
        builder.output(name, value, ["rows", shape.heads, f"{kind}_tokens", shape.head_width])


def _arithmetic(precision: Precision, folder: Path, model: Translator) -> Arithmetic:
    match precision:
        case Precision.FP32:
            return Fp32()
        case Precision.FP16:
            return Fp16()
        case Precision.INT8:
            return Int8(decoder_peaks(model, sample_pairs("calibration", folder, model)))


def _begun(directory: Path) -> TranslationManifest:
    folder = directory / FOLDER
    if (folder / TRANSLATION_MANIFEST_NAME).is_file():
        return read_translation_manifest(folder)
    around = directory / MANIFEST_NAME
    name = read_manifest(directory).name if around.is_file() else directory.resolve().name
    return TranslationManifest(name=name)
