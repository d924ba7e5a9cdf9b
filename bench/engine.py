"""How many texts a second does each engine embed, and how true are its vectors?

    python bench/engine.py --model models/all-minilm-l6-v2 --texts FILE \\
        [--peers /tmp/peers/bin/python] [--infinity PYTHON] [--rounds 5] [--json FILE]

Texts in, vectors out, in process: tokenizing, batching, the model, pooling, length 1. Each engine
is a process of its own (bench/engine_worker.py) with the same weights and texts; they take turns,
one works while the others wait; each takes as many threads as there are cores. `--peers` is the
Python of an environment with openvino, nncf, fastembed and onnxruntime, `--infinity` of one with
infinity-emb; what is not there has a row that says so. Texts are made of the lines of FILE: short
(about 13 tokens), medium (40), long (250), mixed (log-normal, 44 on average).

Columns: texts/s is the median of the rounds, ± half the range between quartiles; "CPU" is
processor time a text, which says more than texts/s on a machine that does other work; "limit" is
the share of what this processor multiplies in the engine's number format, measured in the same
run. Fidelity is the cosine to sentence-transformers fp32: mean, and worst. "Company" is the
largest difference of a value between a text alone and in a batch: 0 means that a text's vector
does not depend on its neighbours. Below the table is polyseme int8 beside plain onnxruntime int8,
beside the fastest peer, and beside the fastest whose vectors are true enough.

Plain engines read the fp32 graphs of the model directory; one that ships without them is copied and
exported first: `polyseme-model export COPY --precision fp32`. FastEmbed can only run models that
are pooled by the mean, with nothing behind it.
"""

# ruff: noqa: PLC0415  torch is imported only by who needs it
from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from service import machine, read_texts, spread_of
from workers import Answer, Worker, worker

WORKER = Path(__file__).with_name("engine_worker.py")
REFERENCE = "sentence-transformers fp32"
OURS, PLAIN = "polyseme int8", "onnxruntime int8 dynamic"
# Which environment has an engine, and what it multiplies.
ENGINES = {
    OURS: ("own", "int8"),
    "polyseme fp32": ("own", "fp32"),
    PLAIN: ("own", "int8"),
    "onnxruntime int8 dynamic, a core a batch": ("own", "int8"),
    "onnxruntime fp32": ("own", "fp32"),
    "OpenVINO fp32": ("peers", "fp32"),
    "OpenVINO bf16": ("peers", "bf16"),
    "OpenVINO int8 static": ("peers", "int8"),
    "OpenVINO int8 static, a core a batch": ("peers", "int8"),
    "OpenVINO int8 static, bf16": ("peers", "int8"),
    REFERENCE: ("own", "fp32"),
    "sentence-transformers bf16": ("own", "bf16"),
    "FastEmbed": ("peers", "fp32"),
    "infinity": ("infinity", "fp32"),
}
WORDS = {"short": 9, "medium": 29, "long": 190}  # about 1.35 tokens each
TOKENS_MAX = 256  # as in bench/engine_worker.py
FIDELITY = (0.995, 0.985)  # true enough: cosine to fp32, mean and worst
SEED = 5
ALONE_TEXTS = 24
Vectors = NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--peers", default=sys.executable, help="Python that has the peers")
    parser.add_argument("--infinity", default=sys.executable, help="Python that has infinity-emb")
    parser.add_argument("--engines", nargs="*", default=list(ENGINES), choices=list(ENGINES))
    parser.add_argument("--count", type=int, default=320, help="texts a round; long: a quarter")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=Path(".cache/bench"))
    parser.add_argument("--json", type=Path, help="also write the figures here")
    chosen = parser.parse_args()

    sets = text_sets(read_texts(chosen.texts, 4_000), chosen.count)
    graphs = prepared(chosen.model, chosen.cache, sets["mixed"])
    pythons = {"own": sys.executable, "peers": chosen.peers, "infinity": chosen.infinity}
    with ExitStack() as stack:
        engines = []
        for name in chosen.engines:
            python = pythons[ENGINES[name][0]]
            started = stack.enter_context(worker(python, WORKER, name, json.dumps(graphs)))
            engines.append(Engine(started))
        limits = processor_limits()
        for kind, texts in sets.items():
            take_turns(engines, kind, texts, chosen.rounds)
        sets["alone"] = sets["mixed"][:ALONE_TEXTS]
        alone(engines, sets["alone"])
    costs = {kind: flop_each(chosen.model, texts) for kind, texts in sets.items()}
    figures = [engine.figures(limits, costs) for engine in engines]
    compare(figures, engines)
    print(f"{machine()}; model {chosen.model.name}; {chosen.rounds} rounds")
    print("limits: " + ", ".join(f"{name} {rate / 1e9:,.0f} G/s" for name, rate in limits.items()))
    print(table(figures))
    if chosen.json:
        chosen.json.write_text(json.dumps({"limits": limits, "engines": figures}, indent=1))


@dataclass
class Engine:
    """A worker and what it has shown."""

    worker: Worker
    wall: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)
    vectors: dict[str, Vectors] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.worker.name

    @property
    def missing(self) -> str:
        return self.worker.missing

    def embed(self, texts: Sequence[str]) -> Answer:
        return self.worker.ask(list(texts))

    def figures(self, limits: dict[str, float], flop: dict[str, float]) -> dict[str, Any]:
        found: dict[str, Any] = {"name": self.name, "version": self.worker.version}
        if self.missing:
            return {**found, "missing": self.missing}
        for kind, seconds in self.wall.items():
            count = 1 if kind == "alone" else len(self.vectors[kind])
            typical = spread_of([count / one for one in seconds])
            found[kind] = {
                "texts_s": typical["rate"],
                "spread": typical["spread"],
                "cpu_ms": statistics.median(self.cpu[kind]) / count * 1e3,
                "limit": typical["rate"] * flop[kind] / limits[ENGINES[self.name][1]],
            }
        return found


def take_turns(engines: Sequence[Engine], kind: str, texts: Sequence[str], rounds: int) -> None:
    for number in range(rounds + 1):
        for engine in engines:
            answer = engine.embed(texts)
            if engine.missing:
                continue
            if number == 0:  # the first warms
                engine.vectors[kind] = np.load(answer["file"])
                continue
            engine.wall.setdefault(kind, []).append(answer["wall_s"])
            engine.cpu.setdefault(kind, []).append(answer["cpu_s"])


def alone(engines: Sequence[Engine], texts: Sequence[str]) -> None:
    """Text by text: for the latency, and for what company does to a vector."""
    rows: dict[str, list[Vectors]] = {engine.name: [] for engine in engines}
    for text in texts:
        for engine in engines:
            answer = engine.embed([text])
            if engine.missing:
                continue
            engine.wall.setdefault("alone", []).append(answer["wall_s"])
            engine.cpu.setdefault("alone", []).append(answer["cpu_s"])
            rows[engine.name].append(np.load(answer["file"]))
    for engine in engines:
        if not engine.missing:
            engine.vectors["alone"] = np.concatenate(rows[engine.name])


def text_sets(sentences: Sequence[str], count: int) -> dict[str, list[str]]:
    """Texts of each kind, cut from a stream of the sentences' words."""
    chance = random.Random(SEED)
    words = " ".join(sentences).split()
    mixed = [round(chance.lognormvariate(3.3, 0.7)) for _ in range(count)]
    lengths = {
        "short": [WORDS["short"]] * count,
        "medium": [WORDS["medium"]] * count,
        "long": [WORDS["long"]] * (count // 4),
        "mixed": [min(max(length, 3), WORDS["long"]) for length in mixed],
    }
    sets: dict[str, list[str]] = {}
    for kind, wanted in lengths.items():
        starts = [chance.randrange(len(words) - WORDS["long"]) for _ in wanted]
        sets[kind] = [
            " ".join(words[start : start + length])
            for start, length in zip(starts, wanted, strict=True)
        ]
    return sets


def prepared(model: Path, cache: Path, texts: Sequence[str]) -> dict[str, str]:
    """The files that workers read: our fp32 graph, the same with dynamic int8 as everybody makes
    it, with OpenVINO's int8 as its first worker makes it, and as FastEmbed wants it."""
    cache.mkdir(parents=True, exist_ok=True)
    fp32 = model / "onnx" / "fp32" / "pooled.onnx"
    dynamic = cache / f"{model.name}-dynamic-int8.onnx"
    plain = cache / f"{model.name}-plain"
    if fp32.exists() and not dynamic.exists():
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(fp32, dynamic, weight_type=QuantType.QInt8, per_channel=True)
    if fp32.exists() and not (plain / "model.onnx").exists():
        write_plain(model, plain)
    calibration = cache / "calibration.json"
    calibration.write_text(json.dumps(list(texts)[:200]))
    return {
        "model": str(model), "fp32": str(fp32), "dynamic": str(dynamic), "plain": str(plain),
        "openvino": str(cache / f"{model.name}-openvino-int8.xml"),
        "calibration": str(calibration),
    }  # fmt: skip


def write_plain(model: Path, out: Path) -> None:
    """Our fp32 graph of the states under the names that FastEmbed feeds and reads, in one file."""
    import onnx

    out.mkdir(parents=True, exist_ok=True)
    for file in model.glob("*.json"):
        shutil.copy(file, out)
    config = json.loads((model / "tokenizer_config.json").read_text())
    config["model_max_length"] = TOKENS_MAX  # where FastEmbed cuts texts
    (out / "tokenizer_config.json").write_text(json.dumps(config))
    whole = onnx.load(model / "onnx" / "fp32" / "states.onnx")
    graph = whole.graph
    del graph.output[:-1]  # the earlier layers
    names = {"ids": "input_ids", "mask": "attention_mask"}
    names[graph.output[0].name] = "last_hidden_state"
    for value in (*graph.input, *graph.output):
        value.name = names[value.name]
    for node in graph.node:
        for ends in (node.input, node.output):
            ends[:] = [names.get(name, name) for name in ends]
    onnx.save(whole, out / "model.onnx")


def processor_limits() -> dict[str, float]:
    """Operations a second (two a multiplication) of torch's matrix products on all cores."""
    import torch

    left, right = torch.randn(1024, 1024), torch.randn(1024, 1024)
    left_half, right_half = left.bfloat16(), right.bfloat16()
    whole = torch.randint(-100, 100, (1024, 1024), dtype=torch.int8)
    return {
        "fp32": rate(lambda: left @ right),
        "bf16": rate(lambda: left_half @ right_half),
        "int8": rate(lambda: torch._int_mm(whole, whole)),
    }


def rate(multiply: Callable[[], object]) -> float:
    multiply()
    times = []
    for _ in range(15):
        began = time.perf_counter()
        multiply()
        times.append(time.perf_counter() - began)
    return float(2 * 1024**3 / min(times))


def flop_each(model: Path, texts: Sequence[str]) -> float:
    """Each weight multiplies and adds once a token; attention, 4 width tokens² a layer."""
    from tokenizers import Tokenizer

    config = json.loads((model / "config.json").read_text())
    width, layers = config["hidden_size"], config["num_hidden_layers"]
    inner = config["intermediate_size"] * (3 if config["model_type"] == "modernbert" else 2)
    weights = width * (4 * width + inner)
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(TOKENS_MAX)
    lengths = np.array([len(found.ids) for found in tokenizer.encode_batch(list(texts))])
    return float(np.mean(layers * (2 * weights * lengths + 4 * width * lengths**2)))


def compare(figures: list[dict[str, Any]], engines: Sequence[Engine]) -> None:
    """Add fidelity and what company does; ratios to plain onnxruntime and to the fastest peers."""
    known = {engine.name: engine for engine in engines if not engine.missing}
    found = {figure["name"]: figure for figure in figures if figure["name"] in known}
    for name, engine in known.items():
        together, apart = engine.vectors["mixed"][:ALONE_TEXTS], engine.vectors["alone"]
        found[name]["company"] = float(np.abs(together - apart).max())
        if REFERENCE in known:
            reference = known[REFERENCE].vectors["mixed"]
            if reference.shape != engine.vectors["mixed"].shape:
                continue
            cosines = (engine.vectors["mixed"] * reference).sum(axis=1)
            found[name]["cosine"] = [float(cosines.mean()), float(cosines.min())]
    ours = found.get(OURS)
    if ours is None:
        return
    peers = [figure for name, figure in found.items() if not name.startswith("polyseme")]
    true = [figure for figure in peers if is_true(figure)]
    for kind in (*WORDS, "mixed"):
        beside = {PLAIN: found.get(PLAIN)}
        for what, some in (("fastest peer", peers), ("fastest true peer", true)):
            best = max(some, key=lambda figure: figure[kind]["texts_s"], default=None)
            beside[f"{what} ({best['name'] if best else 'none'})"] = best
        ours.setdefault("ratios", {})[kind] = {
            name: ours[kind]["texts_s"] / figure[kind]["texts_s"]
            for name, figure in beside.items()
            if figure is not None
        }


def is_true(figure: dict[str, Any]) -> bool:
    cosines = figure.get("cosine", [0.0])
    return all(cosine >= least for cosine, least in zip(cosines, FIDELITY, strict=False))


def table(figures: Sequence[dict[str, Any]]) -> str:
    kinds = (*WORDS, "mixed")
    head = ["", *(f"{kind} texts/s" for kind in kinds), "one text ms"]
    head += ["CPU ms/text (mixed)", f"limit ({', '.join(kinds)})", "cosine mean / worst", "company"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in figures:
        if "missing" in row:
            lines.append(f"| {row['name']} | {row['missing']} |" + " |" * (len(head) - 2))
            continue
        cells = [f"{row['name']} {row['version']}".strip()]
        cells += [f"{row[kind]['texts_s']:,.0f} ±{row[kind]['spread']:.0%}" for kind in kinds]
        cells += [f"{1e3 / row['alone']['texts_s']:.2f}"]
        cells += [f"{row['mixed']['cpu_ms']:.2f}"]
        cells += [" / ".join(f"{row[kind]['limit']:.0%}" for kind in kinds)]
        cells += [" / ".join(f"{c:.4f}" for c in row.get("cosine", [])), f"{row['company']:.1e}"]
        lines.append("| " + " | ".join(cells) + " |")
    for row in figures:
        for kind, ratios in row.get("ratios", {}).items():
            said = ", ".join(f"{ratio:.2f} times {name}" for name, ratio in ratios.items())
            lines.append(f"\n{row['name']}, {kind}: {said}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
