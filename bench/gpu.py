"""How close does polyseme come to what a GPU can do, and to its peers there?

    python bench/gpu.py --model DIR [--json FILE]         on a machine with a GPU: five minutes
    python bench/gpu.py --model DIR --rehearse            on any machine: the same calls, tiny

DIR is a model directory with fp16 graphs (`polyseme-model export DIR --precision fp16`) beside
its safetensors. One run gives, with all ways alternated in each round:

- the two ceilings: a large matrix product and a large copy, through torch, in this process;
- texts/s at 16, 128 and 512 tokens, ids in and vectors out: ONNX Runtime on CUDA as the service
  calls it, the same with inputs and outputs bound on the device, the same with gpu_graph.py's
  fused graph (an experiment), and sentence-transformers in fp16 with its fused attention; with
  the share of both ceilings that each reaches;
- texts in and vectors out: this process's engine, sentence-transformers, and the server over
  gRPC with several callers (goal: 0.8 of the engine);
- fidelity: cosine of every way's vectors to torch in fp32;
- which operators ONNX Runtime left to the CPU (there should be none).

The texts are random words of the model's vocabulary: their lengths are what matters here.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import gpu_graph
import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from encoder.checkpoint import load_sentence_encoder
from encoder.manifest import Graph, Manifest, Precision, graph_path, read_manifest
from encoder.runtime import Encoder, normalize
from encoder.session import Device
from encoder.tokenizer import Truncation, Window
from polyseme import Client
from polyseme.errors import PolysemeError

LENGTHS = (16, 128, 512)
BATCH_TOKENS = (8_192, 32_768, 131_072)  # the best of them is printed
CALLERS = 16
COSINE_FLOOR = 0.999
Vectors = NDArray[np.float32]
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Scale:
    """How large everything is: for the measurement, or for a rehearsal."""

    device: Device
    precision: Precision
    dtype: torch.dtype
    lengths: tuple[int, ...]
    batch_tokens: tuple[int, ...]
    matrix: int
    copy_bytes: int
    rounds: int
    texts: int

    @classmethod
    def of(cls, *, rehearse: bool) -> Scale:
        if rehearse:
            small = (16, 32)
            return cls("cpu", Precision.FP32, torch.float32, small, (64,), 256, 2**20, 2, 32)
        whole = (LENGTHS, BATCH_TOKENS, 8192, 2**32, 7, 20_000)
        return cls("cuda", Precision.FP16, torch.float16, *whole)

    def wait(self) -> None:
        """Until the device has done what was asked."""
        if self.device == "cuda":
            torch.cuda.synchronize()


@dataclass
class Result:
    """One way at one length. seconds: of every round, for `texts` texts."""

    way: str
    tokens: int
    texts: int
    batch: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Texts a second, of the median round."""
        return self.texts / statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the range between the quartiles, over the median."""
        low, _, high = statistics.quantiles(self.seconds, n=4)
        return (high - low) / 2 / statistics.median(self.seconds)


@dataclass(frozen=True)
class Ceilings:
    """What the device does at best: FLOP/s of a matrix product, bytes/s read and written."""

    flops: float
    bytes: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rehearse", action="store_true", help="tiny, on a CPU, in fp32")
    parser.add_argument("--no-server", action="store_true", help="leave out the gRPC server")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    chosen = parser.parse_args()
    scale = Scale.of(rehearse=chosen.rehearse)
    if scale.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no GPU here; --rehearse tries the script on a CPU")

    manifest = read_manifest(chosen.model)
    report: dict[str, object] = {"machine": machine(scale), "model": manifest.name}
    print(f"{report['machine']}; model {manifest.name} {scale.precision}", flush=True)
    if chosen.rehearse:
        print("REHEARSAL: the calls are the real ones, the figures mean nothing")
    limits = ceilings(scale)
    print(f"matrix product {limits.flops / 1e12:.1f} TFLOP/s, copy {limits.bytes / 1e9:,.0f} GB/s")
    report["ceilings"] = {"flops": limits.flops, "bytes": limits.bytes}
    ways = Ways(chosen.model, manifest, scale)
    report["operators off the GPU"] = off_device = ways.off_device()
    for name, operators in off_device.items():
        print(f"operators of the {name} graph off the device: {', '.join(operators) or 'none'}")
    report["fidelity"] = fidelity(ways, chosen.model, scale)
    rows = [row for tokens in scale.lengths for row in at_length(ways, tokens, scale)]
    work = Work.of(manifest, chosen.model)
    print(lengths_table(rows, work, limits), flush=True)
    report["lengths"] = [vars(row) | {"texts_per_s": row.rate} for row in rows]
    keep(report, chosen.json)  # before the part that asks most of the machine
    whole = end_to_end(ways, chosen, scale)
    print(whole_table(whole), flush=True)
    report["texts to vectors"] = [vars(row) | {"texts_per_s": row.rate} for row in whole]
    keep(report, chosen.json)


def keep(report: Mapping[str, object], file: Path | None) -> None:
    """Write what is known so far, if a file was asked for."""
    if file is not None:
        file.write_text(json.dumps(report, indent=1, default=str))


def machine(scale: Scale) -> str:
    name = torch.cuda.get_device_name() if scale.device == "cuda" else platform.machine()
    return (
        f"{name}, {os.cpu_count()} cores, Python {platform.python_version()}, torch "
        f"{torch.__version__}, onnxruntime {onnxruntime.__version__}"
    )


def ceilings(scale: Scale) -> Ceilings:
    """Measured on random data: on zeros matrix units are faster than they will ever be."""
    a, b = (torch.randn(scale.matrix, scale.matrix, device=scale.device) for _ in range(2))
    a, b = a.to(scale.dtype), b.to(scale.dtype)
    product_s = best(lambda: a @ b, scale)
    source = torch.randint(0, 255, (scale.copy_bytes,), dtype=torch.uint8, device=scale.device)
    target = torch.empty_like(source)
    copy_s = best(lambda: target.copy_(source), scale)
    return Ceilings(2 * scale.matrix**3 / product_s, 2 * scale.copy_bytes / copy_s)


def best(work: Callable[[], object], scale: Scale, repeats: int = 10) -> float:
    """Seconds of one, the mean of `repeats`, the better of two such rounds."""
    for _ in range(3):
        work()
    rounds = []
    for _ in range(2):
        scale.wait()
        begun = time.perf_counter()
        for _ in range(repeats):
            work()
        scale.wait()
        rounds.append((time.perf_counter() - begun) / repeats)
    return min(rounds)


class Ways:
    """The engines, each from ids (texts, tokens) to vectors (texts, width)."""

    def __init__(self, model: Path, manifest: Manifest, scale: Scale) -> None:
        self.manifest = manifest
        self._scale = scale
        # The CUDA libraries are in memory by now: torch, imported above, has loaded its own.
        self.encoder = Encoder.load(model, precision=scale.precision, device=scale.device)
        self._graph = str(model / graph_path(scale.precision, Graph.POOLED))
        self._provider = (
            "CUDAExecutionProvider" if scale.device == "cuda" else "CPUExecutionProvider"
        )
        self._session = onnxruntime.InferenceSession(self._graph, providers=[self._provider])
        self._folder = tempfile.TemporaryDirectory(prefix="polyseme-bench-")
        self._fused_graph = str(gpu_graph.write_fused(model, Path(self._folder.name)))
        self._fused = onnxruntime.InferenceSession(self._fused_graph, providers=[self._provider])
        self.peer = SentenceTransformer(
            str(model),
            device=scale.device,
            model_kwargs={"dtype": scale.dtype, "attn_implementation": "sdpa"},
        ).eval()

    def served(self, ids: Ids) -> Vectors:
        """As the service calls it: arrays in, arrays out."""
        none = np.zeros(ids.shape[1], dtype=np.int32)
        return self.encoder.pooled([Window(row, none, none) for row in ids])

    def bound(self, ids: Ids) -> Callable[[], Vectors]:
        """Inputs put on the device once; the output comes back."""
        return self._bind(self._session, ids)

    def fused(self, ids: Ids) -> Callable[[], Vectors]:
        """The same of the fused graph, which takes texts of one length alone."""
        return self._bind(self._fused, ids)

    def _bind(self, session: onnxruntime.InferenceSession, ids: Ids) -> Callable[[], Vectors]:
        binding = session.io_binding()
        for name, value in (("ids", ids), ("mask", np.ones_like(ids))):
            held = onnxruntime.OrtValue.ortvalue_from_numpy(value, self._scale.device, 0)
            binding.bind_ortvalue_input(name, held)
        binding.bind_output("pooled", self._scale.device)

        def run() -> Vectors:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()
            outputs: Sequence[Vectors] = binding.copy_outputs_to_cpu()
            return outputs[0]

        return run

    def peers(self, ids: Ids) -> Vectors:
        """sentence-transformers, from ids."""
        held = torch.from_numpy(ids).to(self._scale.device)
        with torch.inference_mode():
            features = {"input_ids": held, "attention_mask": torch.ones_like(held)}
            found: torch.Tensor = self.peer(features)["sentence_embedding"]
            return found.float().cpu().numpy()

    def off_device(self) -> dict[str, list[str]]:
        """Operators that ONNX Runtime computes elsewhere than asked, by graph."""
        graphs = {"served": self._graph, "fused": self._fused_graph}
        return {name: self._elsewhere(graph) for name, graph in graphs.items()}

    def _elsewhere(self, graph: str) -> list[str]:
        """From onnxruntime's own profile of one run."""
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        with tempfile.TemporaryDirectory() as folder:
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = onnxruntime.InferenceSession(
                graph, sess_options=options, providers=[self._provider]
            )
            ids = random_ids(self.manifest, 2, 8)
            session.run(["pooled"], {"ids": ids, "mask": np.ones_like(ids)})
            events = json.loads(Path(session.end_profiling()).read_text())
        nodes = [event["args"] for event in events if event.get("cat") == "Node"]
        found = {
            node["op_name"]
            for node in nodes
            if node.get("provider", self._provider) != self._provider
        }
        return sorted(found)


def random_ids(manifest: Manifest, texts: int, tokens: int) -> Ids:
    """Any tokens but the first thousand, among which the special ones are."""
    return np.random.default_rng(texts).integers(1000, manifest.vocab_size, (texts, tokens))


def fidelity(ways: Ways, model: Path, scale: Scale) -> dict[str, tuple[float, float]]:
    """Mean and least cosine of each way's vectors to torch's in fp32 on the same ids."""
    ids = random_ids(ways.manifest, 64, min(128, max(scale.lengths)))
    reference = load_sentence_encoder(model).to(scale.device)
    held = torch.from_numpy(ids).to(scale.device)
    with torch.inference_mode():
        exact = normalize(reference(held, torch.ones_like(held)).float().cpu().numpy())
    found = {}
    for name, vectors in (
        ("polyseme", ways.served(ids)),
        ("polyseme, bound", ways.bound(ids)()),
        ("polyseme, fused", ways.fused(ids)()),
        ("sentence-transformers", ways.peers(ids)),
    ):
        cosines = (normalize(vectors.astype(np.float32)) * exact).sum(axis=1)
        found[name] = (float(cosines.mean()), float(cosines.min()))
        print(
            f"cosine to torch fp32, {name}: {found[name][0]:.5f} mean, {found[name][1]:.5f} least"
        )
        if found[name][1] < COSINE_FLOOR:
            print(f"  BELOW {COSINE_FLOOR}: its speed means nothing")
    return found


def at_length(ways: Ways, tokens: int, scale: Scale) -> list[Result]:
    """Each way at its best size of batch, all alternated in each round."""
    results: dict[tuple[str, int], Result] = {}
    calls: dict[tuple[str, int], Callable[[], object]] = {}
    for budget in scale.batch_tokens:
        count = max(1, budget // tokens)
        ids = random_ids(ways.manifest, count, tokens)
        for name, call in (
            ("polyseme", lambda ids=ids: ways.served(ids)),
            ("polyseme, bound", ways.bound(ids)),
            ("polyseme, fused", ways.fused(ids)),
            ("sentence-transformers", lambda ids=ids: ways.peers(ids)),
        ):
            calls[name, count] = call
            results[name, count] = Result(name, tokens, count, count)
    rounds(calls, results, scale)
    names = dict.fromkeys(name for name, _ in results)
    return [max((r for (n, _), r in results.items() if n == name), key=_rate) for name in names]


def _rate(result: Result) -> float:
    return result.rate


def rounds(
    calls: Mapping[tuple[str, int], Callable[[], object]],
    results: Mapping[tuple[str, int], Result],
    scale: Scale,
) -> None:
    for call in calls.values():
        call(), call()  # memory is found, kernels are chosen
    for _ in range(scale.rounds):
        for key, call in calls.items():
            scale.wait()
            begun = time.perf_counter()
            call()
            scale.wait()
            results[key].seconds.append(time.perf_counter() - begun)


@dataclass(frozen=True)
class Work:
    """What a text costs: operations, and the bytes that cannot be avoided."""

    weights: int  # of the layers, without the table of tokens
    width: int
    layers: int
    number_bytes: int

    @classmethod
    def of(cls, manifest: Manifest, model: Path) -> Work:
        encoder = load_sentence_encoder(model).encoder
        weights = sum(p.numel() for layer in encoder.layers for p in layer.parameters())
        return cls(weights, manifest.states_width, manifest.layers, 2)

    def flops(self, tokens: int) -> float:
        """Of one text: each weight multiplies and adds once a token; attention, twice T x T."""
        return 2.0 * self.weights * tokens + 4.0 * self.layers * tokens * tokens * self.width

    def bytes(self, tokens: int, batch: int) -> float:
        """Of one text: each layer's states in and out, and its part of the batch's weights."""
        states = 2 * self.layers * tokens * self.width
        return self.number_bytes * (states + self.weights / batch)


def lengths_table(rows: Sequence[Result], work: Work, limits: Ceilings) -> str:
    lines = [
        "| tokens | | batch | texts/s | tokens/s | of the matrix product | of the copy | against "
        "the peer | spread |",
        "|---" * 9 + "|",
    ]
    for row in rows:
        peer = next(r for r in rows if r.tokens == row.tokens and r.way == "sentence-transformers")
        lines.append(
            f"| {row.tokens} | {row.way} | {row.batch} | {row.rate:,.0f} | "
            f"{row.rate * row.tokens:,.0f} | "
            f"{row.rate * work.flops(row.tokens) / limits.flops:.1%} | "
            f"{row.rate * work.bytes(row.tokens, row.batch) / limits.bytes:.1%} | "
            f"{row.rate / peer.rate:.2f} | ±{row.spread:.0%} |"
        )
    return "\n" + "\n".join(lines)


def end_to_end(ways: Ways, chosen: argparse.Namespace, scale: Scale) -> list[Result]:
    """Texts to vectors: engine, peer and server take turns on the same texts."""
    texts = random_texts(ways.encoder, scale.texts)
    tokens = max(scale.lengths[:-1])
    engine = Engine(ways.encoder, max(scale.batch_tokens[0], 4 * tokens))
    calls: dict[tuple[str, int], Callable[[], object]] = {
        ("polyseme, in process", 0): lambda: engine.embed(texts),
        ("sentence-transformers", 0): lambda: ways.peer.encode(texts, batch_size=256),
    }
    results = {key: Result(key[0], tokens, len(texts)) for key in calls}
    key = (f"polyseme, server, {CALLERS} callers", 0)
    try:
        if not chosen.no_server:
            with served(chosen.model, scale) as embed:
                calls[key] = lambda: embed(texts)
                results[key] = Result(key[0], tokens, len(texts))
                rounds(calls, results, scale)
            return list(results.values())
    except PolysemeError as error:  # half a table is better than none of a lent machine's
        print(f"the server gave no figure: {error}")
        calls.pop(key, None)
        results = {key: Result(key[0], tokens, len(texts)) for key in calls}
    rounds(calls, results, scale)
    return list(results.values())


def random_texts(encoder: Encoder, count: int) -> list[str]:
    """Words of the vocabulary, 5 to 100 a text."""
    random = np.random.default_rng(0)
    pieces = encoder.tokenizer.tokens(list(range(encoder.vocab_size)))
    words = [piece for piece in pieces if piece.isascii() and piece.isalpha() and len(piece) > 2]
    lengths = random.integers(5, 100, count)
    return [" ".join(random.choice(words, length)) for length in lengths]


class Engine:
    """Tokenise, sort by length, run: tokenising overlaps with the device's work."""

    def __init__(self, encoder: Encoder, batch_tokens: int, chunk: int = 4096) -> None:
        self._encoder = encoder
        self._batch_tokens = batch_tokens
        self._chunk = chunk

    def embed(self, texts: Sequence[str]) -> Vectors:
        """(texts, width), each of length 1."""
        vectors = np.empty((len(texts), self._encoder.width), dtype=np.float32)
        starts = range(0, len(texts), self._chunk)
        with ThreadPoolExecutor(1) as ahead:
            waiting = [ahead.submit(self._windows, texts[s : s + self._chunk]) for s in starts]
            for start, windows in zip(starts, waiting, strict=True):
                self._run(windows.result(), vectors[start : start + self._chunk])
        return normalize(vectors)

    def _windows(self, texts: Sequence[str]) -> list[Window]:
        encoded = self._encoder.tokenizer.encode(
            texts, tokens_max=self._encoder.tokens_max, truncation=Truncation.HEAD
        )
        return [text.windows[0] for text in encoded]

    def _run(self, windows: Sequence[Window], vectors: Vectors) -> None:
        order = sorted(range(len(windows)), key=lambda row: len(windows[row].ids))
        while order:
            size = max(1, self._batch_tokens // len(windows[order[-1]].ids))
            rows, order = order[-size:], order[:-size]
            vectors[rows] = self._encoder.pooled([windows[row] for row in rows])


@contextmanager
def served(model: Path, scale: Scale) -> Iterator[Callable[[Sequence[str]], object]]:
    """A server of this model in a process of its own; gives a way to embed by many callers."""
    address = "127.0.0.1:50973"
    command = [sys.executable, "-m", "server.command", "serve", "--log-level", "warning"]
    command += ["--address", address, "--model", str(model), "--device", scale.device]
    command += ["--batch-tokens-max", str(max(1024, scale.batch_tokens[-1] // 4))]
    command += ["--queue-texts-max", "20000"]
    with tempfile.TemporaryDirectory(prefix="polyseme-bench-") as data:
        server = subprocess.Popen(
            [*command, "--precision", scale.precision, "--data", data], env=cuda_environment()
        )
        try:
            with Client(address, timeout_s=300) as client, ThreadPoolExecutor(CALLERS) as callers:
                wait_for(client, server)

                def embed(texts: Sequence[str]) -> object:
                    size = max(1, min(500, len(texts) // CALLERS))
                    parts = [texts[i : i + size] for i in range(0, len(texts), size)]
                    return list(callers.map(lambda p: client.embed(p, truncation="head"), parts))

                yield embed
        finally:
            server.terminate()
            server.wait(60)


def wait_for(client: Client, server: subprocess.Popen[bytes], seconds: float = 120.0) -> None:
    """Until the server serves; no longer than it lives. Raises PolysemeError."""
    end = time.monotonic() + seconds
    while True:
        try:
            return client.wait_until_serving(timeout_s=2)
        except PolysemeError:
            if server.poll() is not None or time.monotonic() > end:
                raise


def cuda_environment() -> dict[str, str]:
    """Where the CUDA libraries are: beside torch, which the server never imports."""
    folders = [str(path) for entry in sys.path for path in sorted(Path(entry).glob("nvidia/*/lib"))]
    before = os.environ.get("LD_LIBRARY_PATH", "")
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join([*folders, before]).strip(":")}


def whole_table(rows: Sequence[Result]) -> str:
    engine = rows[0]
    lines = ["| texts to vectors | texts/s | of the engine | spread |", "|---" * 4 + "|"]
    lines += [
        f"| {row.way} | {row.rate:,.0f} | {row.rate / engine.rate:.2f} | ±{row.spread:.0%} |"
        for row in rows
    ]
    return "\n" + "\n".join(lines)


if __name__ == "__main__":
    main()
