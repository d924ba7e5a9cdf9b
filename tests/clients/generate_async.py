"""Make clients/python/polyseme/aclient.py out of client.py: the same methods, awaited.

python tests/clients/generate_async.py [--check]
"""

import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "clients" / "python" / "polyseme"
SOURCE, GENERATED = PACKAGE / "client.py", PACKAGE / "aclient.py"

WORDS = [
    ('"""The blocking client."""', '"""The asyncio client; made from client.py, do not edit."""'),
    ("from polyseme.blocking import BlockingDriver", "from polyseme.aio import AsyncDriver"),
    ("BlockingDriver(", "AsyncDriver("),
    ("class Client:", "class AsyncClient:"),
    ("-> Client:", "-> AsyncClient:"),
    ("    with Client(", "    async with AsyncClient("),
    ("= client.embed(", "= await client.embed("),
    ("= client.fit_senses(", "= await client.fit_senses("),
    (
        "Threads may share one; use it in a `with`, or `close` it.",
        "It belongs to one loop; use it in an `async with`, or `close`.",
    ),
    ("calls that run in other threads", "calls that are running"),
    ("    def __enter__", "    async def __aenter__"),
    ("    def __exit__", "    async def __aexit__"),
    ("    def close(", "    async def close("),
    ("        self.close()", "        await self.close()"),
    ("self._driver.close()", "await self._driver.close()"),
    ("self._driver.run(", "await self._driver.run("),
    ("-> Iterator[", "-> AsyncIterator["),
    (
        "import Callable, Iterable, Iterator, Sequence",
        "import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence",
    ),
    (
        'documents: Iterable[DocumentLike],\n        *,\n        mode: WriteMode = "upsert",\n'
        "        batch",
        "documents: Iterable[DocumentLike] | AsyncIterable[DocumentLike],\n        *,\n"
        '        mode: WriteMode = "upsert",\n        batch',
    ),
    (
        "texts: Iterable[str],\n        *,\n        batch",
        "texts: Iterable[str] | AsyncIterable[str],\n        *,\n        batch",
    ),
]


def asynchronous(source: str) -> str:
    """The asyncio client's source."""
    for blocking, awaited in WORDS:
        assert blocking in source, f"client.py no longer has {blocking!r}"
        source = source.replace(blocking, awaited)
    methods = re.split(r"(?m)^(?=    def |    async def |    @)", source)
    return formatted("".join(map(_method, methods)))


def formatted(source: str) -> str:
    """As `make format` would leave it."""
    ruff = [sys.executable, "-m", "ruff"]
    for step in (["check", "--fix", "--select", "I", "--quiet"], ["format", "--quiet"]):
        command = [*ruff, *step, "--stdin-filename", str(GENERATED), "-"]
        source = subprocess.run(
            command, input=source, capture_output=True, text=True, check=True
        ).stdout
    return source


def _method(text: str) -> str:
    overloaded = text.startswith("    def words(")  # its overloads have no body to await in
    if text.startswith("    def ") and (overloaded or "await self._driver" in text):
        return "    async " + text.removeprefix("    ")
    return text


def main() -> None:
    """Write the file, or with --check say whether it is in step."""
    wanted = asynchronous(SOURCE.read_text())
    if "--check" in sys.argv:
        if GENERATED.read_text() != wanted:
            sys.exit(f"{GENERATED} is not what client.py makes: run {Path(__file__).name}")
    else:
        GENERATED.write_text(wanted)


if __name__ == "__main__":
    main()
