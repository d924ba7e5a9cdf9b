"""The asyncio client is made from the blocking one."""

import importlib.util
from pathlib import Path


def test_the_asyncio_client_is_in_step_with_the_blocking_one():
    path = Path(__file__).with_name("generate_async.py")
    spec = importlib.util.spec_from_file_location("generate_async", path)
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)

    wanted = generate.asynchronous(generate.SOURCE.read_text())

    assert generate.GENERATED.read_text() == wanted, "run tests/clients/generate_async.py"
