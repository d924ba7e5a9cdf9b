"""How many texts a second does each engine embed, and how true are its vectors?

    python bench/engine.py --model models/all-minilm-l6-v2 --texts FILE \\
        [--peers /tmp/peers/bin/python] [--infinity PYTHON] [--rounds 5] [--json FILE]

Texts in, vectors out, in process: tokenizing, batching, the model, pooling, length 1. Each engine
is a process of its own (bench/engine_worker.py) with the same weights and texts; they take turns,
one works while the others wait. `--peers` is the Python of an environment with openvino, nncf,
fastembed and onnxruntime, `--infinity` of one with infinity-emb; what is not there has a row that
says so. Texts are made of the lines of FILE: short (about 13 tokens), medium (40), long (250),
mixed (log-normal, 44 on average).

Columns: texts/s is the median of the rounds, ± half the range between quartiles; "CPU" is
processor time a text, which says more than texts/s on a machine that does other work; "limit" is
the share of what this processor multiplies in the engine's number format, measured in the same
run. Fidelity is the cosine to sentence-transformers fp32: mean, and worst. "Company" is the
largest difference of a value between a text alone and in a batch: 0 means that a text's vector
does not depend on its neighbours.
"""

# ruff: noqa: PLC0415  torch is imported only by who needs it
from __future__ import annotations

import argparse
import json
import random
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
    "onnxruntime fp32": ("own", "fp32"),
    "OpenVINO fp32": ("peers", "fp32"),
    "OpenVINO bf16": ("peers", "bf16"),
    "OpenVINO int8 static": ("peers", "int8"),
    REFERENCE: ("own", "fp32"),
    "sentence-transformers bf16": ("own", "bf16"),
    "FastEmbed": ("peers", "fp32"),
    "infinity": ("infinity", "fp32"),
}
WORDS = {"short": 9, "medium": 29, "long": 190}  # about 1.35 tokens each
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
    it, and a plain graph with the usual inputs for FastEmbed."""
    cache.mkdir(parents=True, exist_ok=True)
    fp32 = model / "onnx" / "fp32" / "pooled.onnx"
    dynamic = cache / f"{model.name}-dynamic-int8.onnx"
    if not dynamic.exists():
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(fp32, dynamic, weight_type=QuantType.QInt8, per_channel=True)
    plain = cache / f"{model.name}-plain"
    if not (plain / "model.onnx").exists():
        export_plain(model, plain)
    calibration = cache / "calibration.json"
    calibration.write_text(json.dumps(list(texts)[:200]))
    return {
        "model": str(model), "fp32": str(fp32), "dynamic": str(dynamic), "plain": str(plain),
        "calibration": str(calibration),
    }  # fmt: skip


def export_plain(model: Path, out: Path) -> None:
    """transformers' model as torch exports it: what FastEmbed downloads for other models."""
    import shutil

    import torch
    from transformers import AutoModel

    out.mkdir(parents=True, exist_ok=True)
    for file in model.glob("*.json"):
        shutil.copy(file, out)
    names = ["input_ids", "attention_mask", "token_type_ids"]
    network = AutoModel.from_pretrained(model, attn_implementation="eager").eval()

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            given = dict(zip(names, inputs, strict=True))
            states: torch.Tensor = self.network(**given).last_hidden_state
            return states

    ids = torch.ones(2, 8, dtype=torch.int64)
    free = {0: "batch", 1: "tokens"}
    torch.onnx.export(
        Plain(), (ids, ids, ids * 0), out / "model.onnx", dynamo=False, opset_version=17,
        input_names=names, output_names=["last_hidden_state"],
        dynamic_axes=dict.fromkeys([*names, "last_hidden_state"], free),
    )  # fmt: skip


def processor_limits() -> dict[str, float]:
    """Operations a second (two a multiplication) of torch's matrix products on all cores."""
    import torch

    left, right = torch.randn(1024, 1024), torch.randn(1024, 1024)
    whole = torch.randint(-100, 100, (1024, 1024), dtype=torch.int8)
    return {
        "fp32": rate(lambda: left @ right),
        "bf16": rate(lambda: left.bfloat16() @ right.bfloat16()),
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
    """Of a BERT layout: 24 width² a token and layer, and 4 width tokens² for attention."""
    from tokenizers import Tokenizer

    config = json.loads((model / "config.json").read_text())
    width, layers = config["hidden_size"], config["num_hidden_layers"]
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    lengths = np.array([len(found.ids) for found in tokenizer.encode_batch(list(texts))])
    return float(np.mean(layers * (24 * width**2 * lengths + 4 * width * lengths**2)))


def compare(figures: list[dict[str, Any]], engines: Sequence[Engine]) -> None:
    """Add fidelity and what company does; ratios to plain onnxruntime and to the fastest peer."""
    known = {engine.name: engine for engine in engines if not engine.missing}
    found = {figure["name"]: figure for figure in figures if figure["name"] in known}
    for name, engine in known.items():
        together, apart = engine.vectors["mixed"][:ALONE_TEXTS], engine.vectors["alone"]
        found[name]["company"] = float(np.abs(together - apart).max())
        if REFERENCE in known:
            reference = known[REFERENCE].vectors["mixed"]
            cosines = (engine.vectors["mixed"] * reference).sum(axis=1)
            found[name]["cosine"] = [float(cosines.mean()), float(cosines.min())]
    ours = found.get(OURS)
    if ours is None:
        return
    for kind in (*WORDS, "mixed"):
        peers = [f[kind]["texts_s"] for n, f in found.items() if not n.startswith("polyseme")]
        ratios = {"fastest peer": max(peers)} if peers else {}
        if PLAIN in found:
            ratios[PLAIN] = found[PLAIN][kind]["texts_s"]
        ours.setdefault("ratios", {})[kind] = {
            name: ours[kind]["texts_s"] / rate for name, rate in ratios.items()
        }


def table(figures: Sequence[dict[str, Any]]) -> str:
    kinds = (*WORDS, "mixed")
    head = ["", *(f"{kind} texts/s" for kind in kinds), "one text ms"]
    head += ["CPU ms/text (mixed)", "limit (mixed)", "cosine mean / worst", "company"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in figures:
        if "missing" in row:
            lines.append(f"| {row['name']} | {row['missing']} |" + " |" * (len(head) - 2))
            continue
        cells = [f"{row['name']} {row['version']}".strip()]
        cells += [f"{row[kind]['texts_s']:,.0f} ±{row[kind]['spread']:.0%}" for kind in kinds]
        cells += [f"{1e3 / row['alone']['texts_s']:.2f}"]
        cells += [f"{row['mixed']['cpu_ms']:.2f}", f"{row['mixed']['limit']:.0%}"]
        cells += [" / ".join(f"{c:.4f}" for c in row.get("cosine", [])), f"{row['company']:.1e}"]
        lines.append("| " + " | ".join(cells) + " |")
    for row in figures:
        for kind, ratios in row.get("ratios", {}).items():
            said = ", ".join(f"{ratio:.2f} times {name}" for name, ratio in ratios.items())
            lines.append(f"\n{row['name']}, {kind}: {said}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
