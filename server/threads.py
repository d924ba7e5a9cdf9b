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

from server.log import log

P = ParamSpec("P")
T = TypeVar("T")

NICENESS_MAX = 19


async def in_thread(
    executor: Executor, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> T:
    """What `function` returns or raises. A caller that is cancelled does not stop it half way."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(executor, partial(function, *args, **kwargs))


def yield_processor(niceness: int) -> None:
    """Let everybody else's threads go before this one and those it starts from now on, of the
    model's runtime too: 10 nicer than they are, it gets a tenth of a core that others want, and all
    that they leave. Only Linux knows the niceness of a thread."""
    if sys.platform != "linux":
        return
    thread = threading.get_native_id()
    try:
        own = os.getpriority(os.PRIO_PROCESS, thread)  # a server may be nice as a whole
        os.setpriority(os.PRIO_PROCESS, thread, min(own + niceness, NICENESS_MAX))
    except OSError as error:  # a sandbox forbids it; the work is done all the same
        log.warning("a thread cannot yield", extra={"fields": {"problem": str(error)}})
