import shutil
from dataclasses import replace

import numpy as np
import pytest

from encoder.evaluation import card
from encoder.evaluation.command import Evaluate
from encoder.evaluation.data import DataMissing
from encoder.evaluation.result import Form, Task
from encoder.evaluation.suite import Plan, evaluate
from encoder.evaluation.torch_model import TorchModel
from encoder.manifest import read_manifest, write_manifest
from encoder.runtime import Encoder, Precision
from encoder.sense_space import SenseSpace, write_space
from encoder.tokenizer import Truncation
from encoder.whitening import Whitening


def plan(directory, data, **changes):
    whole = Plan(
        directory=directory,
        data=data,
        tasks=tuple(Task),
        forms=(Form.TORCH, Form.FP32),
        limit=None,
        seed=0,
        command="polyseme-model evaluate tiny --data DIR",
    )
    return replace(whole, **changes)


@pytest.fixture(scope="module")
def evaluation(exported, data):
    return evaluate(plan(exported, data))


def test_torch_answers_as_the_runtime_does(exported):
    torch, onnx = TorchModel(exported), Encoder.load(exported, precision=Precision.FP32)
    encoded = torch.tokenizer.encode(
        ["the apple was juicy", "bank"], tokens_max=16, truncation=Truncation.ERROR
    )
    windows = [text.windows[0] for text in encoded]

    np.testing.assert_allclose(torch.pooled(windows), onnx.pooled(windows), atol=1e-5)
    for ours, theirs in zip(
        torch.states(windows, [0, 2]), onnx.states(windows, [0, 2]), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    np.testing.assert_array_equal(torch.static(windows[0].ids), onnx.static(windows[0].ids))


def test_both_forms_of_one_model_get_the_same_scores(evaluation):
    assert evaluation.columns == ("torch fp32", "onnx fp32")
    assert evaluation.partial == ""
    for task in (Task.SENSES, Task.STS, Task.TATOEBA, Task.RETRIEVAL, Task.CROSSLINGUAL):
        torch, onnx = (evaluation.results[task][column] for column in evaluation.columns)
        assert [s.key for s in torch.scores] == [s.key for s in onnx.scores]
        for ours, theirs in zip(torch.scores, onnx.scores, strict=True):
            assert ours.value == pytest.approx(theirs.value, abs=0.01), ours.key


def test_the_masked_language_model_is_scored_in_torch_alone(evaluation):
    assert list(evaluation.results[Task.MLM]) == ["torch fp32"]
    assert evaluation.results[Task.MLM]["torch fp32"].scores


def test_a_model_without_a_translator_has_no_alignment_and_a_note_says_so(evaluation):
    assert list(evaluation.results[Task.ALIGNMENT]) == ["torch fp32"]
    assert evaluation.results[Task.ALIGNMENT]["torch fp32"].scores == []
    assert "no translator" in evaluation.results[Task.ALIGNMENT]["torch fp32"].notes[0]


def test_search_across_languages_is_in_the_table_and_on_the_card(exported, tmp_path, evaluation):
    directory = shutil.copytree(exported, tmp_path / "tiny")

    card.write(directory, evaluation)

    shown = (directory / "README.md").read_text("utf-8")
    assert "| Captions, de in en, recall@10 | 100.0 | 100.0 |" in shown
    assert "type: ud-pud" in shown
    assert "crosslingual.sentences.fr-de.recall_at_1" in (directory / card.DATA).read_text("utf-8")


def test_apple_has_a_line_of_its_own_and_every_shot_a_deviation(evaluation):
    scores = {s.key: s for s in evaluation.results[Task.SENSES]["torch fp32"].scores}

    assert "senses.contextual.lda.apple" in scores
    assert "senses.static-the-word-alone.1nn.macro" not in scores  # nothing to compare
    for shots in (1, 3, 10, 30):
        assert scores[f"senses.contextual.lda.{shots}-shot"].deviation is not None
        assert scores[f"senses.as-served-for-senses.1nn.{shots}-shot"].deviation is not None
    for rule in ("1nn", "lda"):
        for measure in ("macro", "micro", "apple"):
            assert f"senses.as-served-for-senses.{rule}.{measure}" in scores
    assert scores["senses.contextual.lda.macro"].deviation is None


def test_the_same_seed_gives_the_same_evaluation(exported, data, evaluation):
    again = evaluate(plan(exported, data, tasks=(Task.SENSES,), forms=(Form.TORCH,)))

    assert (
        again.results[Task.SENSES]["torch fp32"].scores
        == evaluation.results[Task.SENSES]["torch fp32"].scores
    )


def test_a_whole_evaluation_goes_on_the_card_with_its_plot(exported, tmp_path, evaluation):
    directory = shutil.copytree(exported, tmp_path / "tiny")

    card.write(directory, evaluation)

    shown = (directory / "README.md").read_text("utf-8")
    assert card.PLOT in shown
    assert "| vectors | 1 | 3 | 10 | 30 | all |" in shown
    assert "contextual, whitened + sentence" in (directory / card.PLOT).read_text("utf-8")


def test_results_on_the_card_are_kept_while_what_they_were_measured_on_stays(
    exported, data, tmp_path, evaluation
):
    directory = shutil.copytree(exported, tmp_path / "tiny")
    card.write(directory, evaluation)
    few = plan(directory, data, tasks=(Task.STS,))

    again = evaluate(few)

    assert again.partial == ""
    assert list(again.results) == list(evaluation.results)
    for task, by_column in evaluation.results.items():
        for name, result in by_column.items():
            assert again.results[task][name].scores == result.scores
    assert "without mlm" in evaluate(replace(few, seed=1)).partial
    assert "without mlm" in evaluate(replace(few, forms=(Form.TORCH,))).partial
    manifest = read_manifest(directory)
    write_manifest(directory, manifest.model_copy(update={"dense_share": 0.9}))
    changed = evaluate(few)
    assert "without mlm, senses" in changed.partial
    assert "alignment" not in changed.partial  # a translator's own files are what they were


def test_the_models_own_whitening_is_used_for_what_is_served_and_a_note_says_so(
    exported, data, tmp_path, evaluation
):
    directory = shutil.copytree(exported, tmp_path / "tiny")
    space = SenseSpace((1,), 2)
    rows = np.random.default_rng(0).normal(size=(40, space.dimensions(16)))
    write_space(directory, space.layers, Whitening.fit([rows]), {"uses": "40", "words": "1"})
    write_manifest(directory, read_manifest(directory))

    own = evaluate(plan(directory, data, tasks=(Task.SENSES,), forms=(Form.TORCH,)))

    result, plain = (e.results[Task.SENSES]["torch fp32"] for e in (own, evaluation))
    assert any("fitted on 40 unlabelled uses of 1 words" in note for note in result.notes)
    assert any("not whitened" in note for note in plain.notes)
    theirs = {score.key: score for score in plain.scores}
    for score in result.scores:
        if "as-served" not in score.key:
            assert score == theirs[score.key]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"limit": 3}, "at most 3 of each set"),
        (
            {"tasks": (Task.STS, Task.SENSES)},
            "without mlm, tatoeba, retrieval, crosslingual, translation, alignment",
        ),
    ],
)
def test_less_than_all_of_it_is_partial(exported, data, changes, why):
    assert evaluate(plan(exported, data, forms=(Form.TORCH,), **changes)).partial == why


def test_the_command_prints_a_quick_look_and_writes_nothing(exported, data, capsys):
    before = {path: path.read_bytes() for path in exported.rglob("*") if path.is_file()}

    Evaluate(model=exported, data=data, tasks=["sts"], forms=["torch"], limit=20).cli_cmd()

    printed = capsys.readouterr().out
    assert "STS-B test en" in printed
    assert "PARTIAL" in printed
    assert "Nothing was written" in printed
    assert before == {path: path.read_bytes() for path in exported.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("task", "lost", "message"),
    [
        ("senses", "wsd", "WORD/train.data.txt"),
        ("tatoeba", "parallel/tatoeba-laser-v1/test.fra-eng.tsv", "test.fra-eng.tsv"),
        ("retrieval", "retrieval/tiny/corpus.jsonl", "tiny/corpus.jsonl"),
        ("crosslingual", "parallel/ud-pud/test.en-de-fr.tsv", "test.en-de-fr.tsv"),
        ("retrieval", "retrieval", "retrieval/SET/qrels/test.tsv"),
    ],
)
def test_missing_data_is_found_before_any_work(  # noqa: PLR0917  (three are fixtures)
    exported, data, tmp_path, task, lost, message
):
    root = shutil.copytree(data, tmp_path / "data")
    gone = root / lost
    if gone.is_dir():
        shutil.rmtree(gone)
    else:
        gone.unlink()

    with pytest.raises(DataMissing, match=message):
        evaluate(plan(exported, root, tasks=(Task.STS, Task(task)), forms=()))


def test_a_broken_card_is_found_before_any_work(exported, data, tmp_path):
    directory = shutil.copytree(exported, tmp_path / "tiny")
    (directory / "README.md").write_text(card.BEGIN, "utf-8")

    with pytest.raises(SystemExit, match=r"README\.md must hold the two marks"):
        Evaluate(model=directory, data="nowhere", forms=["torch"]).cli_cmd()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "nowhere"}, r"nowhere/sts/stsb/stsb-en-test\.tsv .*missing.*--tasks"),
        ({"model": "nowhere"}, r"nowhere has no polyseme\.json; make one"),
        ({"forms": ["int8"]}, r"has no int8 graphs.*polyseme-model export"),
    ],
)
def test_the_command_ends_in_one_sentence_that_says_what_to_do(exported, data, changes, message):
    command = Evaluate(
        **{"model": exported, "data": data, "tasks": ["sts"], "forms": ["torch"], **changes}
    )

    with pytest.raises(SystemExit, match=message):
        command.cli_cmd()
