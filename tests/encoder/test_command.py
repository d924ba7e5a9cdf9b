import subprocess
import sys

import pytest

from encoder.command import main


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["polyseme-model", *map(str, arguments)])
    main()


def test_a_model_comes_in_is_exported_and_looked_at(monkeypatch, capsys, saved, tmp_path):
    out = tmp_path / "model"

    run(monkeypatch, "import", saved("bert"), "--out", out, "--name", "tiny-bert")
    run(monkeypatch, "export", out, "--precision", "int8", "--precision", "fp32")
    run(monkeypatch, "info", out)

    printed = capsys.readouterr()
    assert "int8         cosine to torch 0.99" in printed.out
    assert "name         tiny-bert" in printed.out
    assert "int8: writing graphs" in printed.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["import", "/nowhere", "--out", "/nowhere/too"], "no config.json"),
        (["import", "/nowhere"], "import: --out: field required"),
        (["export", "/nowhere"], "no polyseme.json"),
        (["export", "/nowhere", "--precision", "int9"], "--precision: input should be 'fp32'"),
        (["info", "/nowhere"], "no polyseme.json"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_1(monkeypatch, arguments, sentence):
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, *arguments)

    message = str(end.value.code)
    assert sentence in message
    assert "\n" not in message


def test_help_teaches_and_does_not_wait_for_torch():
    program = """
import sys
from encoder.command import main
sys.argv = ["polyseme-model", "export", "--help"]
try:
    main()
except SystemExit:
    print("torch" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout.endswith("False\n")
    assert "int8" in done.stdout
