"""Engines in processes of their own, maybe of another environment, asked a line at a time."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Answer = dict[str, Any]


class Worker:
    """A process that answers, or the reason why there is none."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.name = name
        self._process = process
        first = self._read()
        self.missing: str = first.get("missing", "")
        self.version: str = first.get("ready", "")

    def ask(self, question: Any) -> Answer:
        """Its answer; empty, with the reason in `missing`, if it cannot give one."""
        if self.missing:
            return {}
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self.missing = "it ended"
            return {}
        answer = self._read()
        self.missing = answer.get("missing", "")
        return {} if self.missing else answer

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _read(self) -> Answer:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        found: Answer = json.loads(line) if line else {"missing": "it ended"}
        return found


@contextmanager
def worker(python: str, script: Path, name: str, *arguments: str) -> Iterator[Worker]:
    """`script name arguments…` run by `python`, with the project on its path."""
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "TOKENIZERS_PARALLELISM": "true"}
    process = subprocess.Popen(
        [python, str(script), name, *arguments], env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    started = Worker(name, process)
    try:
        yield started
    finally:
        started.close()
