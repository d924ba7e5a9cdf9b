"""The demo, from the server's start to its end."""

import re
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def demo(*args):
    return subprocess.run(
        [sys.executable, "-m", "clients.demo", *map(str, args)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def test_the_demo_shows_everything_in_100_columns_of_plain_text(model_directory, tmp_path):
    lines = (ROOT / "clients" / "samples" / "wikipedia.jsonl").read_text().splitlines(True)
    corpus = tmp_path / "few.jsonl"
    banks = [line for line in lines if '"bank"' in line][:12]
    corpus.write_text("".join({*banks, *lines[:12]}))

    done = demo(
        "--address", free_address(), "--model", model_directory, "--precision", "fp32",
        "--corpus", corpus,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    for part in (
        "documents/s",
        "by meaning",
        "by words",
        "word in context",
        "bank",
        "labelled",
        "median",
    ):
        assert part in done.stdout
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_the_demo_translates_where_the_model_can(translating_directory, tmp_path):
    corpus = tmp_path / "few.jsonl"
    lines = (ROOT / "clients" / "samples" / "wikipedia.jsonl").read_text().splitlines(True)
    corpus.write_text("".join(lines[:3]))

    done = demo(
        "--address", free_address(), "--model", translating_directory, "--precision", "fp32",
        "--corpus", corpus,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    assert "Je suis étudiant.  I am a student." in done.stdout
    assert re.search(r"\w+ < \w+ \d+%", done.stdout)


def test_an_address_in_use_and_a_missing_model_are_told_in_words(model_directory, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        in_use = demo("--address", address, "--model", model_directory, "--precision", "fp32")
    missing = demo("--model", tmp_path / "nothing")

    assert (in_use.returncode, missing.returncode) == (1, 1)
    assert "the server ended" in in_use.stderr
    assert "no model in" in missing.stderr
    assert "Traceback" not in in_use.stderr + missing.stderr
