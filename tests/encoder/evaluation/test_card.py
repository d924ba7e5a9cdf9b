import json

import pytest

from encoder.evaluation import card
from encoder.evaluation.result import Evaluation, Score, Task, TaskResult
from encoder.evaluation.table import as_json, markdown, text
from encoder.manifest import read_manifest, verify


def evaluation(partial=""):
    torch = TaskResult([Score("sts.en", "STS-B test en, Spearman", 71.25)], ["A note."])
    int8 = TaskResult([Score("sts.en", "STS-B test en, Spearman", 70.5)], ["A note."])
    loss = TaskResult([Score("mlm.loss", "MLM loss, nats", 4.1234)])
    return Evaluation(
        model="tiny",
        weights_sha256="ab",
        columns=("torch fp32", "onnx int8"),
        results={
            Task.MLM: {"torch fp32": loss},
            Task.STS: {"torch fp32": torch, "onnx int8": int8},
        },
        seed=0,
        command="polyseme-model evaluate tiny --data DIR",
        partial=partial,
    )


@pytest.fixture
def directory(exported, tmp_path):
    import shutil

    return shutil.copytree(exported, tmp_path / "tiny")


def test_the_table_has_both_columns_the_floor_and_the_anchors():
    line = next(row for row in markdown(evaluation()).splitlines() if "STS-B" in row)

    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:4] == ["STS-B test en, Spearman", "71.2", "70.5", "70"]
    assert cells[4].startswith("MiniLM-L6 82.0")


def test_a_score_that_one_column_lacks_is_a_dash():
    shown = text(evaluation())

    loss = next(line for line in shown.splitlines() if "MLM loss" in line)
    assert "4.12" in loss
    assert "–" in loss
    assert shown.count("A note.") == 1


def test_a_partial_table_says_so():
    shown = text(evaluation(partial="at most 5 of each set"))

    assert "PARTIAL, not the benchmark's numbers: at most 5 of each set." in shown


def test_the_json_has_every_digit():
    columns = as_json(evaluation())["columns"]

    assert columns["torch fp32"]["mlm"]["scores"]["mlm.loss"]["value"] == 4.1234
    assert "mlm" not in columns["onnx int8"]


def test_an_evaluation_is_put_at_the_end_of_a_card_and_then_replaced():
    first = card.with_section("# tiny\n\nWords.\n", "old")
    second = card.with_section(first + "\nMore words.\n", "new")

    assert first.startswith("# tiny\n\nWords.\n\n<!--")
    assert "old" not in second
    assert second.count(card.BEGIN) == second.count(card.END) == 1
    assert second.endswith("\nMore words.\n")
    assert second.startswith("# tiny\n\nWords.\n")


@pytest.mark.parametrize("marks", [card.BEGIN, card.END, card.END + card.BEGIN, card.BEGIN * 2])
def test_a_card_with_broken_marks_is_refused(marks):
    with pytest.raises(card.CardDamaged, match="two marks"):
        card.with_section(f"# tiny\n{marks}\n", "new")


def test_a_written_model_still_passes_its_own_checks(directory):
    (directory / "README.md").write_text("---\nlicense: apache-2.0\n---\n# tiny\n", "utf-8")

    written = card.write(directory, evaluation())

    assert [file.name for file in written] == ["README.md", "evaluation.json"]
    verify(directory, read_manifest(directory))
    assert "evaluation.json" in read_manifest(directory).files
    shown = (directory / "README.md").read_text("utf-8")
    assert shown.startswith("---\nlicense: apache-2.0\nmodel-index:\n")
    assert "| STS-B test en, Spearman | 71.2 | 70.5 | 70 |" in shown
    assert json.loads((directory / "evaluation.json").read_text("utf-8"))["model"] == "tiny"


def test_a_partial_evaluation_is_never_written(directory):
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}

    with pytest.raises(ValueError, match="partial"):
        card.write(directory, evaluation(partial="at most 5 of each set"))

    assert before == {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_broken_card_stops_the_writing_before_it_begins(directory):
    (directory / "README.md").write_text(card.BEGIN, "utf-8")

    with pytest.raises(card.CardDamaged):
        card.write(directory, evaluation())

    assert not (directory / "evaluation.json").exists()
