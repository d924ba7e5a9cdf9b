"""How many texts a second do 32 callers get, one text a call, from each server?

    python bench/crowd.py --model models/all-minilm-l6-v2 --texts FILE \\
        [--infinity PYTHON] [--callers 32] [--rounds 5] [--json FILE]

polyseme through gRPC (the blocking client, a thread a caller); the same ONNX graph in process,
all texts at once, as the limit: as the engine batches and as plain onnxruntime in batches of 32;
infinity, of the environment `--infinity`, and sentence-transformers behind uvicorn
(bench/http_peer.py), both through HTTP with kept connections. They take turns, and each server runs
in a process of its own, idle when it is not asked; the callers share the machine's cores with them.
"p50" is of a lone caller, and what it is above the engine's.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from engine_worker import polyseme
from service import PlainRuntime, machine, read_texts, seconds, serving, spread_of

START_S_MAX = 300.0
ALONE = 100
ENGINE = "engine in process"
Embed = Callable[[str], object]
Way = tuple[Callable[[Sequence[str]], object], Embed]  # many texts, a text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--infinity", help="Python that has infinity-emb; left out without it")
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--count", type=int, default=512, help="texts a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    chosen = parser.parse_args()

    short = [text for text in read_texts(chosen.texts, 8_000) if 40 <= len(text) <= 70]
    texts = short[: chosen.count]
    model = str(chosen.model)
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(chosen.callers))
        data = stack.enter_context(tempfile.TemporaryDirectory(prefix="polyseme-bench-"))
        client = stack.enter_context(serving(chosen.model, "int8", Path(data)))
        asked: dict[str, Embed | None] = {"polyseme, gRPC": lambda text: client.embed([text])}
        peer = [sys.executable, str(Path(__file__).with_name("http_peer.py")), model, "50981"]
        asked["sentence-transformers, HTTP"] = stack.enter_context(http_server(peer, 50_981))
        if chosen.infinity:
            program = str(Path(chosen.infinity).with_name("infinity_emb"))
            peer = [program, "v2", "--model-id", model, "--port"]
            peer += ["50982", "--engine", "torch", "--device", "cpu", "--no-bettertransformer"]
            asked["infinity, HTTP"] = stack.enter_context(http_server(peer, 50_982))
        ways = {name: by_callers(pool, embed) for name, embed in asked.items() if embed is not None}
        engine, plain = polyseme("int8")({"model": model})[0], PlainRuntime(chosen.model, "int8")
        ways[ENGINE] = engine, lambda text: engine([text])
        ways["plain onnxruntime in process"] = plain.embed, lambda text: plain.embed([text])
        rates, alone = measure(ways, texts, chosen.rounds)
    rows = [
        {"name": name, **spread_of(found), "p50_ms": statistics.median(alone[name]) * 1e3}
        for name, found in rates.items()
    ]
    print(f"{machine()}; {chosen.callers} callers, {chosen.rounds} rounds of {len(texts)} texts")
    print(table(rows))
    for name in asked.keys() - ways.keys():
        print(f"{name}: not installed, or it does not start")
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=1))


def by_callers(pool: ThreadPoolExecutor, embed: Embed) -> Way:
    return lambda texts: list(pool.map(embed, texts)), embed


def measure(
    ways: dict[str, Way], texts: Sequence[str], rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Texts a second of each round with all callers, and seconds of single calls."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    alone: dict[str, list[float]] = {name: [] for name in ways}
    for number, (name, (embed_many, _)) in itertools.product(range(rounds + 1), ways.items()):
        spent = seconds(lambda: embed_many(texts))  # noqa: B023  called at once
        if number:  # the first warms
            rates[name].append(len(texts) / spent)
    for text, (name, (_, embed)) in itertools.product(texts[:ALONE], ways.items()):
        alone[name].append(seconds(lambda: embed(text)))  # noqa: B023  called at once
    return rates, alone


@contextmanager
def http_server(command: Sequence[str], port: int) -> Iterator[Embed | None]:
    """Start it, wait until it embeds; gives a function that embeds a text, None if it ends."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    own = threading.local()

    def ask(text: str) -> Any:
        try:
            return post(text)
        except ConnectionError:  # the server closed what was idle between two rounds
            own.connection.close()
            return post(text)

    def post(text: str) -> Any:
        if not hasattr(own, "connection"):
            own.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        body = json.dumps({"input": [text], "model": "default"})
        own.connection.request("POST", "/embeddings", body, {"Content-Type": "application/json"})
        reply = own.connection.getresponse()
        content = reply.read()
        if reply.status != 200:
            raise RuntimeError(f"port {port} answered {reply.status}: {content[:200]!r}")
        return json.loads(content)["data"][0]["embedding"]

    try:
        deadline = time.monotonic() + START_S_MAX
        serves = False
        while not serves and process.poll() is None and time.monotonic() < deadline:
            try:
                ask("ready?")
                serves = True
            except OSError:
                del own.connection
                time.sleep(0.5)
        yield ask if serves else None
    finally:
        process.terminate()
        process.wait(60)


def table(rows: Sequence[dict[str, Any]]) -> str:
    ours = rows[0]["rate"]
    engine_ms = next(row["p50_ms"] for row in rows if row["name"] == ENGINE)
    lines = ["| | texts/s | polyseme to it | one caller, p50 ms | above the engine, ms |"]
    lines += ["|---" * 5 + "|"]
    lines += [
        f"| {row['name']} | {row['rate']:,.0f} ±{row['spread']:.0%} | {ours / row['rate']:.2f} "
        f"| {row['p50_ms']:.2f} | {row['p50_ms'] - engine_ms:+.2f} |"
        for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
