"""A checkpoint to ONNX graphs that are proven to answer as it does."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from encoder.checkpoint import load_sentence_encoder
from encoder.graph import GraphBuilder, WeightsFile
from encoder.int8 import Int8
from encoder.linear import Arithmetic, Fp16, Fp32
from encoder.manifest import (
    Graph,
    Manifest,
    Parity,
    Precision,
    graph_path,
    read_manifest,
    weights_path,
    write_manifest,
)
from encoder.model import SentenceEncoder
from encoder.network import Network
from encoder.runtime import padded
from encoder.session import Session
from encoder.tokenizer import Tokenizer, Truncation

# What a graph must reach to count. fp32 sums in another order than torch does; the other two
# round weights, and int8 states as well.
DIFFERENCE_MAX = {Precision.FP32: 1e-5}
COSINE_MEAN_MIN = {Precision.FP32: 0.999999, Precision.FP16: 0.9999, Precision.INT8: 0.99}
COSINE_MIN = {Precision.FP32: 0.999999, Precision.FP16: 0.999, Precision.INT8: 0.96}
_BATCH_TEXTS = 16

Batch: TypeAlias = dict[str, NDArray[np.int64]]
Floats: TypeAlias = NDArray[np.float32]
Progress: TypeAlias = Callable[[str], None]


class NoParity(RuntimeError):
    """A graph does not answer as the torch model does; nothing was exported."""


def export_directory(
    directory: Path,
    *,
    precisions: Sequence[Precision] = tuple(Precision),
    progress: Progress = lambda _: None,
) -> Manifest:
    """Write the graphs of an imported model directory and record how closely they answer.

    Existing graphs of these precisions are replaced. Raises NoParity when one does not answer as
    the torch model does: that precision's graphs are then not written.
    """
    manifest = read_manifest(directory)
    model = load_sentence_encoder(directory)
    tokenizer = Tokenizer(directory / "tokenizer.json")
    sample = sample_batches("parity", tokenizer, manifest)
    for precision in precisions:
        with tempfile.TemporaryDirectory(dir=directory, prefix=".export-") as folder:
            trial = Path(folder)
            progress(f"{precision}: writing graphs")
            write_graphs(
                trial, model, precision, _arithmetic(precision, model, tokenizer, manifest)
            )
            progress(f"{precision}: comparing them with torch")
            parity = compare(trial, model, precision, sample)
            require(precision, parity)
            _replace(trial / "onnx" / precision, directory / "onnx" / precision)
        precisions_now = {**manifest.precisions, precision: parity}
        manifest = manifest.model_copy(update={"precisions": precisions_now})
        write_manifest(directory, manifest)
    return read_manifest(directory)


def write_graphs(
    directory: Path, model: SentenceEncoder, precision: Precision, arithmetic: Arithmetic
) -> None:
    """Write the three graphs of `precision` and the one file that holds their weights."""
    weights_file = directory / weights_path(precision)
    weights_file.parent.mkdir(parents=True)
    weights = WeightsFile(weights_file)
    graphs = {
        graph: _build(graph, GraphBuilder(graph, weights), model, arithmetic) for graph in Graph
    }
    weights.close()  # before the graphs are checked: the check looks into it
    for graph, builder in graphs.items():
        builder.save(directory / graph_path(precision, graph))


def _build(
    graph: Graph, builder: GraphBuilder, model: SentenceEncoder, arithmetic: Arithmetic
) -> GraphBuilder:
    config = model.encoder.config
    state = {name: tensor.numpy() for name, tensor in model.encoder.state_dict().items()}
    network = Network(builder, config, state, arithmetic)
    if graph is Graph.STATIC:
        ids = builder.input("ids", ["ids"])
        builder.output("static", network.static(ids), ["ids", config.width])
        return builder
    ids, mask = (builder.input(name, ["batch", "tokens"]) for name in ("ids", "mask"))
    states = network.states(ids, mask)
    if graph is Graph.STATES:
        for layer, value in enumerate(states):
            builder.output(f"layer_{layer}", value, ["batch", "tokens", config.width])
        return builder
    pooled = network.pooled(states[-1], mask, model.pooling)
    if model.projection is not None:
        weight, bias = model.projection.weight, model.projection.bias
        pooled = network.project(
            pooled,
            np.ascontiguousarray(weight.detach().numpy().T),
            None if bias is None else bias.detach().numpy(),
        )
    builder.output("pooled", pooled, ["batch", model.width])
    return builder


def compare(
    directory: Path, model: SentenceEncoder, precision: Precision, batches: Sequence[Batch]
) -> Parity:
    """Run the graphs of `precision` beside the torch model. Cosines are of pooled vectors.

    The largest difference is over pooled vectors, and over the states of every layer and the
    static vectors of the first batch.
    """
    pooled = Session(directory / graph_path(precision, Graph.POOLED))
    cosines, differences = [], [_states_difference(directory, model, precision, batches[0])]
    for batch in batches:
        got = pooled.run(batch, ["pooled"])[0]
        with torch.inference_mode():
            expected = model(
                torch.from_numpy(batch["ids"]), torch.from_numpy(batch["mask"])
            ).numpy()
        cosines.append(_cosine(got, expected))
        differences.append(float(np.abs(got - expected).max()))
    every = np.concatenate(cosines)
    return Parity(
        texts=len(every),
        cosine_mean=float(every.mean()),
        cosine_min=float(every.min()),
        difference_max=max(differences),
    )


def require(precision: Precision, parity: Parity) -> None:
    """Raise NoParity unless `parity` is good enough for `precision`; the message has the figures."""
    limit = DIFFERENCE_MAX.get(precision)
    shortfalls = [
        f"{name} {value:.2g} is {side} {bound:g}"
        for name, value, side, bound, bad in (
            (
                "largest difference",
                parity.difference_max,
                "above",
                limit or 0.0,
                limit is not None and not parity.difference_max <= limit,
            ),
            (
                "mean cosine",
                parity.cosine_mean,
                "below",
                COSINE_MEAN_MIN[precision],
                not parity.cosine_mean >= COSINE_MEAN_MIN[precision],
            ),
            (
                "least cosine",
                parity.cosine_min,
                "below",
                COSINE_MIN[precision],
                not parity.cosine_min >= COSINE_MIN[precision],
            ),
        )
        if bad
    ]  # written so that a NaN falls short too
    if shortfalls:
        raise NoParity(f"{precision} graphs do not answer as torch does: {'; '.join(shortfalls)}")


def sample_batches(name: str, tokenizer: Tokenizer, manifest: Manifest) -> list[Batch]:
    """The texts of `samples/NAME.txt`, padded in batches of like length, shortest first."""
    text = resources.files("encoder").joinpath("samples", f"{name}.txt").read_text("utf-8")
    encoded = tokenizer.encode(
        text.splitlines(), tokens_max=manifest.tokens_max, truncation=Truncation.HEAD
    )
    windows = sorted((text.windows[0] for text in encoded), key=lambda window: len(window.ids))
    return [
        padded(windows[start : start + _BATCH_TEXTS], manifest.pad_id)
        for start in range(0, len(windows), _BATCH_TEXTS)
    ]


def _states_difference(
    directory: Path, model: SentenceEncoder, precision: Precision, batch: Batch
) -> float:
    layers = [f"layer_{layer}" for layer in range(model.encoder.config.layers + 1)]
    got = Session(directory / graph_path(precision, Graph.STATES)).run(batch, layers)
    present = batch["mask"].astype(bool)
    ids = batch["ids"].ravel()
    static = Session(directory / graph_path(precision, Graph.STATIC)).run({"ids": ids}, ["static"])[
        0
    ]
    with torch.inference_mode():
        encoded = model.encoder(
            torch.from_numpy(batch["ids"]), torch.from_numpy(batch["mask"]), hidden=True
        )
        table = model.encoder.embeddings.word(torch.from_numpy(ids)).numpy()
    differences = [
        float(np.abs(ours - theirs.numpy())[present].max())
        for ours, theirs in zip(got, encoded.hidden, strict=True)
    ]
    return max(*differences, float(np.abs(static - table).max()))


def _cosine(left: Floats, right: Floats) -> Floats:
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.asarray((left * right).sum(axis=1) / lengths)


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


def channel_peaks(model: SentenceEncoder, batches: Sequence[Batch]) -> dict[str, Floats]:
    """For each linear layer of the encoder, the largest absolute value of each input channel."""
    peaks: dict[str, Floats] = {}

    def watch(name: str, present: NDArray[np.bool_]) -> Callable[[object, tuple[Tensor]], None]:
        def see(_: object, inputs: tuple[Tensor]) -> None:
            seen = np.abs(inputs[0].numpy()[present]).max(axis=0)
            peaks[name] = np.maximum(peaks.get(name, seen), seen)

        return see

    linears = {
        name: module
        for name, module in model.encoder.named_modules()
        if isinstance(module, nn.Linear)
    }
    for batch in batches:
        present = batch["mask"].astype(bool)
        hooks = [
            linear.register_forward_pre_hook(watch(name, present))
            for name, linear in linears.items()
        ]
        with torch.inference_mode():
            model.encoder(torch.from_numpy(batch["ids"]), torch.from_numpy(batch["mask"]))
        for hook in hooks:
            hook.remove()
    return peaks


def _replace(new: Path, old: Path) -> None:
    old.parent.mkdir(exist_ok=True)
    shutil.rmtree(old, ignore_errors=True)
    new.rename(old)
