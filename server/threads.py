"""Threads beside the event loop, and who of them goes first."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(
    executor: Executor, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> T:
    """What `function` returns or raises. A caller that is cancelled does not stop it half way."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(executor, partial(function, *args, **kwargs))


def yield_processor(niceness: int) -> None:
    """Let everybody else's threads go before this one and those it starts from now on, of the
    model's runtime too: at 10 it gets a tenth of a core that others want, and all that they leave.
    Only Linux knows the niceness of a thread."""
    if sys.platform != "linux":
        return
    thread = threading.get_native_id()
    # Less nice than it is, only a privileged process may become.
    if niceness > os.getpriority(os.PRIO_PROCESS, thread):
        os.setpriority(os.PRIO_PROCESS, thread, niceness)
