"""The server's process: started, killed, asked to stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

from server.settings import PREFIX

# On a machine that others use too, a start of one CPU second can take minutes.
START_S_MAX = 1200.0
START_CPU_S_MAX = 60.0
STOP_S_MAX = 600.0
POLL_S = 0.01
LOG_LINES_SHOWN = 5


class VictimEnded(Exception):
    """The server ended, or does not serve, without having been killed."""


class Victim:
    """One process from its start to its end, on the data directory of those before it."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self.ending = False  # from now on, calls may fail

    @classmethod
    async def start(cls, *, data: Path, model: Path, log: Path) -> Victim:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
        with log.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "server.command", "serve"),
                *("--address", "127.0.0.1:0", "--threads", "1"),
                *("--data", str(data), "--model", str(model)),
                stderr=stderr,
                stdin=asyncio.subprocess.DEVNULL,
                env=environment,
            )
        return cls(process, log)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def serving(self) -> int:
        """Wait until it serves; gives the port. Raises VictimEnded."""
        limit = time.monotonic() + START_S_MAX
        while time.monotonic() < limit:
            lines = self._lines()
            if any(line.get("message") == "serving" for line in lines):
                return next(int(str(line["port"])) for line in lines if "port" in line)
            self.check_alive()
            await asyncio.sleep(POLL_S)
            if self._cpu_s() > START_CPU_S_MAX:
                raise VictimEnded(f"it did not serve with {START_CPU_S_MAX:g} s of CPU time")
        raise VictimEnded(f"it did not serve within {START_S_MAX:g} s")

    def check_alive(self) -> None:
        """Raises VictimEnded."""
        if self._process.returncode is not None and not self.ending:
            shown = self._log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
            raise VictimEnded(f"exit status {self._process.returncode}; " + " | ".join(shown))

    async def kill(self) -> None:
        """kill -9. Raises VictimEnded if it was dead already."""
        self.check_alive()
        self.ending = True
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def stop(self) -> None:
        """SIGTERM. Raises VictimEnded for another exit status than 0."""
        self.check_alive()
        self.ending = True
        self._process.send_signal(signal.SIGTERM)
        try:
            status = await asyncio.wait_for(self._process.wait(), STOP_S_MAX)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
            raise VictimEnded(f"SIGTERM did not end it within {STOP_S_MAX:g} s") from None
        if status != 0:
            raise VictimEnded(f"after SIGTERM its exit status was {status}")

    async def bury(self) -> None:
        """Whatever happened, nothing of it is left running."""
        self.ending = True
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    def _cpu_s(self) -> float:
        """What the process has computed so far; 0 when it is gone."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _lines(self) -> list[dict[str, object]]:  # all its lines are JSON, the last may be cut
        whole = self._log.read_bytes().rpartition(b"\n")[0].splitlines()
        return [json.loads(line) for line in whole if line.startswith(b"{")]
