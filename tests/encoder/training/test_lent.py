"""Training on a lent machine: parcels and results, and all of it in two folders."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder.training.lent.packing import tree_bytes
from encoder.training.lent.parcels import (
    SHARD_BYTES,
    ParcelDamaged,
    Shard,
    cut,
    fill,
    receive,
    write_parcel,
)
from encoder.training.lent.pipeline import Pipeline
from encoder.training.lent.plan import MARGIN_S, Plan, load_plan, save_plan
from encoder.training.lent.results import PART_BYTES, collect, give

REPOSITORY = Path(__file__).parents[3]


def noise(count, seed=0):
    return random.Random(seed).randbytes(count)


def shard(size):
    return Shard("a", 0, size, f"{size}.raw", size, "")


@pytest.fixture
def folder(tmp_path):
    """A folder of files, large, small, empty and deep."""
    root = tmp_path / "packed"
    (root / "a" / "b").mkdir(parents=True)
    (root / "large.txt").write_bytes(noise(1000) * (SHARD_BYTES // 1000 * 2))
    (root / "a" / "b" / "weights.safetensors").write_bytes(noise(3_000_000))
    (root / "a" / "empty.txt").touch()
    return root


def packed(root, out, bytes_max):
    files = sorted(path for path in root.rglob("*") if path.is_file())
    parcels = fill(cut(root, files, out / "shards"), bytes_max)
    for number, shards in enumerate(parcels):
        write_parcel(out / str(number), shards, out / "shards")
    return [out / str(number) for number in range(len(parcels))]


def content(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_parcels_come_out_as_they_went_in_in_any_order_and_twice(folder, tmp_path):
    parcels = packed(folder, tmp_path / "out", bytes_max=3_000_500)

    assert len(parcels) >= 2
    for parcel in (*reversed(parcels), parcels[0]):
        receive(parcel, tmp_path / "there")

    assert content(tmp_path / "there") == content(folder)


def test_equal_files_may_be_cut_at_the_same_moment(tmp_path, monkeypatch):
    both_written = threading.Barrier(2)
    write = Path.write_bytes

    def write_and_wait(path, data):
        write(path, data)
        both_written.wait(10)

    root = tmp_path / "root"
    root.mkdir()
    files = [root / "a.txt", root / "b.txt"]
    for file in files:
        file.write_bytes(b"the same")
    monkeypatch.setattr(Path, "write_bytes", write_and_wait)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)

    shards = cut(root, files, tmp_path / "store")

    assert [shard.path for shard in shards] == ["a.txt", "b.txt"]
    assert len({shard.stored for shard in shards}) == len(list((tmp_path / "store").iterdir())) == 1


def test_a_changed_parcel_is_refused_and_named(folder, tmp_path):
    (parcel,) = packed(folder, tmp_path / "out", bytes_max=10**9)
    victim = max(parcel.glob("*.raw"))
    victim.unlink()  # linked with the store
    victim.write_bytes(b"else")

    with pytest.raises(ParcelDamaged, match=victim.name):
        receive(parcel, tmp_path / "there")
    with pytest.raises(ParcelDamaged, match="is no parcel"):
        receive(tmp_path, tmp_path / "there")


@given(sizes=st.lists(st.integers(1, 100)), bytes_max=st.integers(100, 300))
def test_parcels_keep_order_lose_nothing_and_fit_the_limit(sizes, bytes_max):
    parcels = fill([shard(size) for size in sizes], bytes_max)

    assert [s.bytes for parcel in parcels for s in parcel] == sizes
    assert all(sum(s.stored_bytes for s in parcel) <= bytes_max for parcel in parcels)


def test_a_shard_above_the_limit_is_refused():
    with pytest.raises(ValueError, match="fits no parcel"):
        fill([shard(11)], 10)


def test_results_come_back_in_small_files_and_whole(folder, tmp_path):
    (folder / "noise.bin").write_bytes(noise(PART_BYTES + 1))

    parts = give(folder, tmp_path / "out", "model")

    files = list((tmp_path / "out").iterdir())
    assert len(files) == parts + 1
    assert max(file.stat().st_size for file in files) <= PART_BYTES
    (joined,) = collect([tmp_path / "out"], tmp_path / "home")
    assert content(joined) == content(folder)


def test_a_result_without_one_of_its_parts_is_refused(folder, tmp_path):
    give(folder, tmp_path / "out", "model")
    (tmp_path / "out" / "model.00").unlink()

    with pytest.raises(ParcelDamaged, match=r"model\.00"):
        collect([tmp_path / "out"], tmp_path / "home")
    with pytest.raises(ParcelDamaged, match="no results"):
        collect([tmp_path / "home"], tmp_path / "home")


def test_a_result_that_is_too_large_is_not_begun(tmp_path):
    (tmp_path / "folder").mkdir()
    for number in range(5):
        (tmp_path / "folder" / str(number)).write_bytes(noise(PART_BYTES, number))

    with pytest.raises(ValueError, match="4 parts"):
        give(tmp_path / "folder", tmp_path / "out", "model")
    assert not (tmp_path / "out").exists()


def test_a_plan_is_kept_and_leaves_time_for_both_parts(tmp_path):
    plan = Plan.of(now=1000.0, minutes=20.0, sentences_share=0.25)
    save_plan(tmp_path, plan)

    assert load_plan(tmp_path) == plan
    assert plan.pretraining_s(1000.0) == 900 - MARGIN_S
    assert plan.pretraining_s(1900.0) == 0
    assert plan.sentence_steps(1900.0, step_s=0.1, steps_max=10**6) == (300 - MARGIN_S) * 10
    assert plan.sentence_steps(1900.0, step_s=0.1, steps_max=50) == 50
    assert plan.sentence_steps(9999.0, step_s=0.1, steps_max=50) == 1


def test_too_few_minutes_are_refused():
    with pytest.raises(ValueError, match="too few"):
        Plan.of(0.0, minutes=0.5, sentences_share=0.25)


def test_a_second_attempt_at_a_run_that_never_began_is_not_compiled(tmp_path):
    plan = Plan.of(time.time(), minutes=10.0, sentences_share=0.25)
    pipeline = Pipeline(tmp_path, plan, ["--compiled", "--threads", "1"])

    first, second = pipeline._pretraining(0), pipeline._pretraining(1)
    pipeline.pretrained.parent.mkdir(parents=True)
    (pipeline.pretrained.parent / "checkpoint.pt").touch()
    third = pipeline._pretraining(1)

    assert "--compiled" in first
    assert "--compiled" not in second
    assert "--threads" in second
    assert {"--compiled", "--resume"} <= set(third)


RECIPE = """
name = "tiny"
micro_tokens = 512
[model]
width = 32
layers = 2
heads = 2
inner_width = 32
tokens_max = 32
[vocabulary]
size = 600
[[stages]]
row_tokens = 16
step_rows = 16
tokens = 6000
[[stages]]
row_tokens = 32
step_rows = 16
tokens = 4000
[sentences]
width = 32
dimensions = [32, 16]
steps = 60
step_pairs = 8
[[sentences.pairs]]
path = "c.tsv"
language = "en-en"
[[sources]]
path = "a.txt"
language = "en"
[[pairs]]
path = "b.tsv"
language = "en-de"
[[evaluation]]
paths = ["test.txt"]
"""


class Machine:
    """The other machine: its own copy of the repository and a folder that outlives a call."""

    def __init__(self, root, home):
        self.repository = root / "repository"
        self.work = root / "work"
        self.home = home
        self.calls = 0
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "encoder", "recipes"],
            cwd=REPOSITORY,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
        self.files = [name for name in listed if (REPOSITORY / name).is_file()]

    def call(self, command, carry=None):
        """As the other machine is called: the repository and what is carried go there, files of
        limited size come back. Returns what was said and the folder of files."""
        shutil.rmtree(self.repository, ignore_errors=True)
        for name in self.files:
            (self.repository / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, self.repository / name)
        if carry is not None:
            target = self.repository / "runs" / "lent" / "tiny" / carry.name
            shutil.copytree(carry, target)
        self.calls += 1
        out = self.home / f"out-{self.calls}"
        out.mkdir()
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHON": os.environ.get("PYTHON_THERE", sys.executable),
            "RECIPE": "tiny.toml",
            "WORK": str(self.work),
            "OUT": str(out),
            "MINUTES": os.environ.get("MINUTES", "2.5"),
            "OPTIONS": os.environ.get("OPTIONS", "--threads 1"),
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        ended = subprocess.run(
            ["bash", "-c", command],
            cwd=self.repository,
            env=environment,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        said = ended.stdout
        print(f"$ {command}\n{said}", flush=True)
        assert ended.returncode == 0
        files = list(out.iterdir())
        assert len(files) <= 8
        assert all(file.stat().st_size <= 16 * 2**20 for file in files)
        return said, out


def sentences(count, seed):
    rng = random.Random(seed)
    words = ("the", "red", "green", "apple", "dog", "cat", "tree", "sees", "likes", "bird", "stone")
    return [" ".join(rng.choices(words, k=8)) + f" {rng.randint(0, 99)}." for _ in range(count)]


def write_text(root):
    root.mkdir()
    (root / "a.txt").write_text("\n".join(sentences(1500, 0)), "utf-8")
    for name, seed in (("b.tsv", 1), ("c.tsv", 3)):
        pairs = zip(sentences(400, seed), sentences(400, seed + 1), strict=True)
        (root / name).write_text("\n".join("\t".join(pair) for pair in pairs), "utf-8")
    (root / "test.txt").write_text("nobody trains on this sentence here\n", "utf-8")


def write_teacher(directory, tokenizer):
    import torch

    from encoder.checkpoint import save_directory
    from encoder.config import EncoderConfig, Pooling
    from encoder.model import Encoder, SentenceEncoder
    from encoder.tokenizer import Tokenizer

    torch.manual_seed(1)
    config = EncoderConfig(
        vocab_size=Tokenizer(tokenizer).vocab_size,
        width=32,
        layers=1,
        heads=2,
        inner_width=32,
        tokens_max=32,
    )
    save_directory(directory, SentenceEncoder(Encoder(config), Pooling.MEAN), tokenizer=tokenizer)


@pytest.fixture
def parcels(tmp_path):
    """What `pack` makes of a tiny recipe; text and teacher stay behind. Cut so that the
    teacher has a parcel of its own."""
    from encoder.training.lent.packing import pack
    from encoder.training.recipe import load_recipe
    from encoder.training.run import Settings, prepare

    home = tmp_path / "home"
    home.mkdir()
    (home / "tiny.toml").write_text(RECIPE, "utf-8")
    write_text(home / "text")
    settings = Settings(text=home / "text", out=home / "out", cache=home / "cache")
    _, data = prepare(load_recipe(home / "tiny.toml"), settings)
    write_teacher(home / "teacher", data.folder / "tokenizer.json")
    wheels = REPOSITORY / "runs" / "lent" / "wheels"
    pack(
        home / "tiny.toml",
        text=home / "text",
        cache=home / "cache",
        teacher=home / "teacher",
        wheels=wheels if "PYTHON_THERE" in os.environ else None,
        out=home / "parcels",
        tree=REPOSITORY,
        say=print,
    )
    (parcel,) = sorted((home / "parcels").glob("[0-9]"))
    return split(parcel, home / "parcels")


def split(parcel, out):
    entries = [Shard(**entry) for entry in json.loads((parcel / "parcel.json").read_text())]
    halves = [
        [e for e in entries if e.path.startswith("teacher") is late] for late in (False, True)
    ]
    for number, shards in enumerate(halves, start=1):
        write_parcel(out / str(number), shards, out / "shards")
    return [out / "1", out / "2"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_recipe_is_trained_there_and_comes_back_whole_after_a_kill(parcels, tmp_path):
    machine = Machine(tmp_path / "there", tmp_path / "home")
    first, second = parcels

    begin = "bash recipes/lent.sh receive 1 && WAIT_S=1 bash recipes/lent.sh visit"
    machine.call(begin, carry=first)
    pipeline = int((machine.work / "pid").read_text())
    checkpoint = machine.work / "runs" / "pretrained" / "checkpoint.pt"
    given = wait_for_checkpoint_or_end(checkpoint, machine)
    os.kill(pipeline, signal.SIGKILL)  # alone: what it started is left behind
    said, middle = machine.call(
        "bash recipes/lent.sh receive 2 last && WAIT_S=5 bash recipes/lent.sh visit", carry=second
    )
    assert "running" in said
    folders = [middle]
    while "pipeline: done" not in said:
        assert "STOPPED" not in said
        said, out = machine.call("WAIT_S=60 bash recipes/lent.sh visit")
        folders.append(out)
    said, out = machine.call("WAIT_S=1 bash recipes/lent.sh visit")
    folders.append(out)

    results = {path.name: path for path in collect(folders, tmp_path / "results")}
    assert given
    assert {"pretrained", "sentences"} <= set(results)
    check_model(results["sentences"], width=32)
    log = (results["sentences"] / "log.txt").read_text("utf-8")
    assert "--resume" in log
    assert not (machine.work / "text" / "a.txt").exists()


def wait_for_checkpoint_or_end(checkpoint, machine):
    end = time.monotonic() + 240
    while time.monotonic() < end and not checkpoint.exists():
        time.sleep(1)
    return checkpoint.exists() and (machine.work / "pid").exists()


def check_model(result, width):
    from encoder.checkpoint import load_language_model, load_sentence_encoder

    assert load_sentence_encoder(result / "model").width == width
    assert load_language_model(result / "model").encoder.config.width == 32
    lines = (result / "curves.jsonl").read_text("utf-8").splitlines()
    assert json.loads(lines[-1])["step"] > 0


def test_what_git_ignores_does_not_travel(tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").write_text("/runs/\n", "utf-8")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "large").write_bytes(bytes(1000))
    (tmp_path / "new.txt").write_bytes(bytes(50))

    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "weights").write_bytes(bytes(300))

    assert tree_bytes(tmp_path) == 350 + len("/runs/\n")
    assert tree_bytes(tmp_path, aside="models") == 50 + len("/runs/\n")
