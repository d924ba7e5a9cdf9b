"""The client's README, run as it stands."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "clients" / "python" / "README.md"
EXAMPLES = re.findall(r"^## ([^\n]+)\n.*?^```python\n(.*?)^```", README.read_text(), re.M | re.S)


def test_there_are_examples_to_run():
    assert len(EXAMPLES) == 7


@pytest.mark.parametrize("code", [pytest.param(code, id=name) for name, code in EXAMPLES])
def test_an_example_of_the_readme_runs(code, server_address, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # one of them saves a file
    here = code.replace("127.0.0.1:50051", server_address)

    exec(compile(here, str(README), "exec"), {"__name__": "__main__"})

    assert capsys.readouterr().out
