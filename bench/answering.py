"""The worker's side of bench/workers.py. For any environment; nothing of the project.

A worker is a table of functions: `serve(ENGINES)` starts the one that the command names, and
answers each line of standard input with what it returns.
"""

# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202
import json
import os
import sys
import time
import traceback
from pathlib import Path


def serve(engines):
    """engines: name → function of the command's arguments that returns (answer, version)."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer

    def say(message):
        print(json.dumps(message), file=answers, flush=True)

    try:
        answer, version = engines[sys.argv[1]](*sys.argv[2:])
    except ImportError as error:
        return say({"missing": f"not installed: {error}"[:200]})
    except Exception as error:  # noqa: BLE001  a peer that fails shall not end the run
        return say(failure(error))
    say({"ready": version})
    for line in sys.stdin:
        try:
            say(answer(json.loads(line)))
        except Exception as error:  # noqa: BLE001  the same
            say(failure(error))
    return None


def failure(error):
    traceback.print_exc()
    return {"missing": f"{type(error).__name__}: {error}"[:200].replace("\n", " ")}


def timed(work):
    """What `work` returns, with the seconds that it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    return found, {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}


def memory(process="self"):
    """Bytes of a process in memory: all, and those that are no copy of a file's."""
    fields = Path(f"/proc/{process}/statm").read_text().split()
    resident, shared = (int(field) * os.sysconf("SC_PAGE_SIZE") for field in fields[1:3])
    return resident, resident - shared
