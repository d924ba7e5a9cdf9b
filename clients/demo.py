"""A server, a corpus, and what a vector knows about a word: `make demo`.

python -m clients.demo --address 127.0.0.1:50061 --model models/polyseme-nano
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from polyseme import Client, FailedPrecondition, PolysemeError, SearchResult, field
from polyseme.cli import heat, tables
from polyseme.cli.senses import read_labelled

ROOT = Path(__file__).parents[1]
CORPUS = ROOT / "clients" / "samples" / "wikipedia.jsonl"
LABELLED = ROOT / "clients" / "samples" / "senses.tsv"
WIDTH = 100  # columns
START_S_MAX = 120.0
STOP_S_MAX = 20.0
TIMED_CALLS = 30
COLLECTION = "wikipedia"

SEARCHES = (
    "the person who throws the ball in baseball",
    "how courts decide about schools",
    "fruit trees",
)
APPLES = (
    ("fruit", "Apple was juicy"),
    ("fruit", "She peeled an apple and ate it"),
    ("fruit", "The apple fell from the tree"),
    ("company", "Apple stock crashed today"),
    ("company", "Apple announced a new phone"),
    ("company", "Investors sold their Apple shares"),
)
BANKS = (
    "They sat on the grassy bank and watched the boats on the river",
    "The bank raised its interest rates again",
)
UNSEEN = (  # none of them is among the labelled ones
    "Apple was juicy",
    "Apple stock crashed today",
    "A heron stood motionless on the far bank",
    "The bank raised its interest rates again",
)
GUESSED = (
    "He opened the [MASK] and went in.",
    "Er ist Mitglied der [MASK] des Bundestages.",
    "Il a bu un verre de [MASK].",
)
TRANSLATED = (
    ("Je suis étudiant.", "en"),
    ("Two dogs are running across the snow.", "de"),
    ("Eine Frau mit Hut liest auf einer Bank ein Buch.", "fr"),
)
REFERENCE, PRONOUN = "The animal did not cross the street because it was too tired", "it"


class DemoFailed(Exception):
    """Something that the demo needs is not there; the message says what to do."""


def main() -> int:
    """Run the demo; the result is the exit status."""
    options = _options()
    # Whoever ends the demo ends its server too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    out = Console(
        width=min(WIDTH, Console().width) if sys.stdout.isatty() else WIDTH, highlight=False
    )
    try:
        with _serving(options, out) as client:
            documents = _index(client, options.corpus, out)
            for query in SEARCHES:
                _search(client, query, out)
            _compare(client, out)
            _senses(client, documents, out)
            _told(client, out)
            _guesses(client, out)
            _attention(client, out)
            _translations(client, out)
            _timing(client, documents, out)
    except KeyboardInterrupt:
        out.print("interrupted; the server is stopped and its data removed")
        return 130
    except (DemoFailed, PolysemeError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m clients.demo", description=__doc__)
    parser.add_argument("--address", default="127.0.0.1:50061", help="where the server listens")
    parser.add_argument("--model", type=Path, required=True, help="model directory")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="JSONL: id, text, metadata")
    parser.add_argument("--precision", help="default: the server's")
    return parser.parse_args()


# The server


@contextmanager
def _serving(options: argparse.Namespace, out: Console) -> Iterator[Client]:
    """A server of the demo's own, its data in a temporary directory, gone afterwards."""
    if not options.model.is_dir():
        raise DemoFailed(f"there is no model in {options.model}: name another with --model")
    with tempfile.TemporaryDirectory(prefix="polyseme-demo-") as scratch:
        log = Path(scratch) / "server.log"
        with log.open("wb") as stream:
            # Its own process group: Ctrl-C is for the demo, which then stops the server itself.
            server = subprocess.Popen(
                _command(options, Path(scratch) / "data"),
                cwd=ROOT,
                env={k: v for k, v in os.environ.items() if not k.startswith("POLYSEME_")},
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            with Client(options.address) as client:
                _wait(client, server, log, out)
                yield client
        finally:
            _stop(server)


def _command(options: argparse.Namespace, data: Path) -> list[str]:
    command = [sys.executable, "-m", "server.command", "serve", "--address", options.address]
    command += ["--model", str(options.model), "--data", str(data)]
    return [*command, "--precision", options.precision] if options.precision else command


def _wait(client: Client, server: subprocess.Popen[bytes], log: Path, out: Console) -> None:
    began = time.monotonic()
    while server.poll() is None:
        try:
            client.wait_until_serving(timeout_s=0.5)
        except PolysemeError as error:
            if time.monotonic() - began > START_S_MAX:
                raise DemoFailed(f"the server did not serve within {START_S_MAX:.0f} s") from error
            continue
        # Somebody else's server on this address would answer too, while ours dies of it.
        if server.poll() is None:
            break
    else:
        raise DemoFailed(f"the server ended with status {server.returncode}:\n{_tail(log)}")
    model = client.info().model
    took = time.monotonic() - began
    out.print(
        f"[bold]polyseme[/] serves {model.name} ({model.fingerprint.numeric_class}, "
        f"{model.dimensions} dimensions) after {took:.1f} s"
    )


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-5:])


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(STOP_S_MAX)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


# What it shows


def _index(client: Client, corpus: Path, out: Console) -> int:
    try:
        lines = corpus.read_text(encoding="utf-8").splitlines()
        documents = [json.loads(line) for line in lines]
    except (OSError, json.JSONDecodeError) as error:
        raise DemoFailed(f"{corpus}: {error}") from error
    client.create_collection(COLLECTION, description=f"from {corpus.name}")
    if not out.is_terminal:
        out.print(f"indexing {len(documents):,} texts, which takes a minute or two on two cores")
    began = time.monotonic()
    bar = Progress(
        TextColumn("indexing"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=out,
        transient=True,
        disable=not out.is_terminal,
    )
    with bar:
        task = bar.add_task("indexing", total=len(documents))
        client.write(
            COLLECTION,
            documents,
            batch_documents=64,
            on_progress=lambda done: bar.update(task, completed=done.documents),
        )
    seconds = time.monotonic() - began
    rate = len(documents) / seconds
    out.print(
        f"indexed {len(documents):,} texts of {corpus.name} in {seconds:.1f} s: "
        f"[bold]{rate:,.0f} documents/s[/], each on the disk before it counted"
    )
    return len(documents)


def _search(client: Client, query: str, out: Console) -> None:
    out.print()
    out.rule(f"search: [bold]{query}[/]", align="left", characters="─")
    out.print(Text("by meaning", style="dim"))
    out.print(_dense(client.search(COLLECTION, query, k=3, highlight=True), out))
    out.print(Text("by words, for contrast", style="dim"))
    lexical = client.search(COLLECTION, query, k=3, mode="lexical")
    out.print(_lexical(lexical) if len(lexical) else "nothing: no text has one of these words")


def _dense(result: SearchResult, out: Console) -> Table:
    rows = tables.grid()
    for hit in result:
        title = Text(str(hit.document.metadata.get("title", hit.id)), style="bold")
        text = tables.snippet(hit, colour=out.is_terminal, characters=170)
        rows.add_row(f"{hit.score:.3f}", Text.assemble(title, "\n", text))
    return rows


def _lexical(result: SearchResult) -> Table:
    rows = tables.grid()
    for hit in result:
        title = str(hit.document.metadata.get("title", hit.id))
        rest = Text(f"{title}: {hit.text}", overflow="ellipsis", no_wrap=True)
        rows.add_row(f"{hit.score:.1f}", rest)
    return rows


def _compare(client: Client, out: Console) -> None:
    out.print()
    out.rule("one word, two senses: [bold]apple[/]", align="left", characters="─")
    senses, sentences = zip(*APPLES, strict=True)
    out.print(tables.comparison(client.compare("apple", sentences, senses=senses)))


def _senses(client: Client, documents: int, out: Console) -> None:
    """Each use of `bank` in the corpus, ordered by how near its vector is to one in a sentence."""
    found = client.documents(COLLECTION, filter=field("senses") == "bank")
    texts = [d.text for d in found if re.search(r"\bbank\b", d.text, re.IGNORECASE)]
    if not texts:
        return
    places = [[slice(*_first(text, "bank"))] for text in texts]
    uses = [words[0] for words in client.words(texts, places, truncation="windows")]
    vectors = np.stack([use.vector for use in uses])
    out.print()
    out.rule(
        f"which [bold]bank[/]? the nearest of {len(texts)} uses in the corpus",
        align="left",
        characters="─",
    )
    for sentence in BANKS:
        cosines = vectors @ client.words(sentence, "bank")[0].vector
        out.print(Text(sentence, style="italic"))
        rows = tables.grid()
        for i in np.argsort(-cosines, kind="stable")[:3]:
            start, end = uses[i].span.start, uses[i].span.end
            before, after = texts[i][:start][-44:], texts[i][end:][:36]
            shown = Text.assemble(before, (f"[{texts[i][start:end]}]", "bold green"), after)
            rows.add_row(f"{cosines[i]:.3f}", shown)
        out.print(rows)


def _first(text: str, word: str) -> tuple[int, int]:
    match = re.search(rf"\b{word}\b", text, re.IGNORECASE)
    assert match is not None
    return match.span()


def _told(client: Client, out: Console) -> None:
    """Senses learnt from a handful of labelled sentences, told in others."""
    _, examples = read_labelled(LABELLED.read_text(encoding="utf-8").splitlines())
    inventory = client.fit_senses(examples)
    out.print()
    out.rule(
        f"senses learnt from [bold]{len(examples)}[/] labelled sentences",
        align="left",
        characters="─",
    )
    for word in inventory.words:
        taught = ", ".join(f"{sense.name} ({sense.examples})" for sense in word.senses)
        check = f"{word.checked_right} of {word.checked} told right when left out"
        out.print(Text.assemble((word.word, "bold"), f": {taught}; {check}"))
    rows = tables.grid()
    for told in client.classify_senses(inventory, UNSEEN):
        share = told.probabilities[told.sense]
        rows.add_row(f"{share:.0%}", Text.assemble((told.sense, "bold green"), f"  {told.text}"))
    out.print(rows)


def _guesses(client: Client, out: Console) -> None:
    """Masked words, where the model has kept the head that it was pretrained with."""
    try:
        filled = client.fill_mask(GUESSED, k=4)
    except FailedPrecondition:
        return
    out.print()
    out.rule("guessed: [bold]what stands behind the mask?[/]", align="left", characters="─")
    rows = tables.grid()
    for each in filled:
        guesses = ", ".join(f"{g.text} {g.probability:.0%}" for g in each.masks[0].guesses)
        rows.add_row(each.text, Text(guesses, style="bold green"))
    out.print(rows)


def _attention(client: Client, out: Console) -> None:
    found = client.attention(REFERENCE, kind="mean", layers=[-1], words=[PRONOUN])
    out.print()
    out.rule(f"what [bold]{PRONOUN}[/] attends to in the last layer", align="left", characters="─")
    out.print(Text(REFERENCE, style="italic"))
    out.print(heat.bars(found.tokens, found.shares[0, 0].mean(axis=0), bars_max=5))


def _translations(client: Client, out: Console) -> None:
    """Sentences translated, each word beside the one it comes from, where the model can."""
    try:
        targets = {target for _, target in client.language_pairs()}
    except FailedPrecondition:
        return
    out.print()
    out.rule("translated, and what [bold]each word comes from[/]", align="left", characters="─")
    for text, to in TRANSLATED:
        if to not in targets:
            continue
        [found] = client.translate([text], to, alignment=True)
        out.print(Text.assemble((text, "italic"), "  ", (found.text, "bold green")))
        sources = [
            f"{target.of(one.text)} < {source.of(text)} {weight:.0%}"
            for sentence in found.sentences
            for one in sentence.hypotheses[:1]
            if one.alignment is not None
            for source, target, weight in one.alignment.pairs
        ]
        out.print(Text(", ".join(sources), style="dim"))


def _timing(client: Client, documents: int, out: Console) -> None:
    embed = _milliseconds(lambda text: client.embed([text]), SEARCHES)
    search = _milliseconds(lambda text: client.search(COLLECTION, text), SEARCHES)
    out.print()
    out.rule("timing, as this client sees it", align="left", characters="─")
    rows = tables.grid()
    for label, times in (("embed one sentence", embed), (f"search {documents:,} texts", search)):
        middle, worst = np.percentile(times, [50, 95])
        rows.add_row(f"{middle:.1f} ms", f"{label} (median; 95 % under {worst:.1f} ms)")
    out.print(rows)


def _milliseconds(call: Callable[[str], object], texts: Sequence[str]) -> list[float]:
    """How long each of `TIMED_CALLS` calls took, the texts in turn."""
    times = []
    for i in range(TIMED_CALLS):
        began = time.perf_counter()
        call(texts[i % len(texts)])
        times.append(1000 * (time.perf_counter() - began))
    return times


if __name__ == "__main__":
    sys.exit(main())
