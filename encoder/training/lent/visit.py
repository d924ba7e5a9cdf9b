"""One call to the lent machine: see that the pipeline runs, wait, give back what is new."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO

from encoder.training.lent.pipeline import LATEST, PRETRAINED, SENTENCES, lay_out
from encoder.training.lent.plan import Plan, load_plan, save_plan
from encoder.training.lent.results import give

PACKAGE = Path(__file__).parents[2]  # encoder/
POLL_S = 2.0
POWER = ("nvidia-smi", "--query-gpu=timestamp,power.draw,utilization.gpu", "--format=csv,nounits")
POWER_INTERVAL_S = 5


def visit(
    work: Path,
    out: Path,
    *,
    minutes: float,
    sentences_share: float,
    wait_s: float,
    options: list[str],
) -> bool:
    """Start the pipeline if it is neither running nor done, follow it for `wait_s`, and write
    into `out` one result that was not given before; returns whether all is done.

    minutes, sentences_share: of the plan; they count in the first visit alone
    """
    plan = load_plan(work)
    if plan is None:
        plan = Plan.of(time.time(), minutes, sentences_share)
        save_plan(work, plan)
    end = time.monotonic() + wait_s
    log = work / "log.txt"
    log.touch()
    process = None
    if not _done(work) and not _alive(work):
        process = _start(work, options)
    with log.open("rb") as lines:
        lines.seek(max(0, log.stat().st_size - 2000))
        while True:
            sys.stdout.write(lines.read().decode("utf-8", "replace"))
            sys.stdout.flush()
            ended = process.poll() is not None if process else not _alive(work)
            if _done(work) or ended or time.monotonic() >= end:
                break
            time.sleep(POLL_S)
    _give_what_is_new(work, out)
    left = (plan.sentences - time.time()) / 60
    state = "done" if _done(work) else "running" if _alive(work) else "STOPPED before its end"
    print(f"pipeline: {state}; {left:.1f} minutes of the plan left", flush=True)
    return _done(work)


def _done(work: Path) -> bool:
    return (work / "results" / SENTENCES).exists()


def _alive(work: Path) -> bool:
    try:
        number = int((work / "pid").read_text())
        os.kill(number, 0)
        state = Path(f"/proc/{number}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
    except (OSError, ValueError):
        return False
    return state != "Z"  # ended, but not yet waited for


def _start(work: Path, options: list[str]) -> subprocess.Popen[bytes]:
    _end_remains(work)
    # A later call brings the repository anew, under the feet of what runs: that has its own.
    code = work / "code"
    shutil.rmtree(code, ignore_errors=True)
    shutil.copytree(PACKAGE, code / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    arguments = [sys.executable, "-u", "-m", "encoder.training.lent", "pipeline", str(work)]
    with (work / "log.txt").open("ab") as log:
        process = _detached([*arguments, *(f"--option={option}" for option in options)], log, code)
    (work / "pid").write_text(str(process.pid))
    if shutil.which(POWER[0]) and not (work / "power.csv").exists():
        with (work / "power.csv").open("ab") as power:
            _detached([*POWER, "-l", str(POWER_INTERVAL_S)], power, code)
    return process


def _detached(command: list[str], output: BinaryIO, folder: Path) -> subprocess.Popen[bytes]:
    """In a session of its own: what a call leaves running in its own session ends with it."""
    return subprocess.Popen(
        command,
        cwd=folder,
        stdout=output,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


def _end_remains(work: Path) -> None:
    """What a killed pipeline had started goes on without it, and would train beside the next."""
    with contextlib.suppress(OSError, ValueError):
        os.killpg(int((work / "pid").read_text()), signal.SIGKILL)


def _give_what_is_new(work: Path, out: Path) -> None:
    """The last result that was not given; while there is none, the last checkpoint's model."""
    results, given = work / "results", work / "given"
    given.mkdir(exist_ok=True)
    for name in (SENTENCES, PRETRAINED):
        if (results / name).exists() and not (given / name).exists():
            parts = give(results / name, out, name)
            (given / name).touch()
            print(f"given back: {name}, {parts} parts")
            return
    if not (results / PRETRAINED).exists():
        _give_latest(work, out)


def _give_latest(work: Path, out: Path) -> None:
    """What the last checkpoint has: should the machine be lost, it is not all lost."""
    run, target = work / "runs" / PRETRAINED, work / "results" / LATEST
    if not (run / LATEST).exists():
        return
    shutil.rmtree(target, ignore_errors=True)
    try:
        lay_out(run, run / LATEST, target, work)
    except OSError as error:  # the run replaces it this moment; the next visit will do
        print(f"not given back: {LATEST}, which is being written ({error})")
        return
    print(f"given back: {LATEST}, {give(target, out, LATEST)} parts")
