import json
import shutil
from pathlib import Path

import pytest
import yaml
from pydantic_settings import CliApp

from encoder.evaluation import card
from encoder.evaluation.command import Card
from encoder.evaluation.head import split
from encoder.evaluation.model_index import place_of
from encoder.evaluation.provenance import licences_of, mean_watts, stage_of, texts_of
from encoder.evaluation.result import Evaluation, Score, Task, TaskResult
from encoder.manifest import read_manifest, verify

RECIPES = Path(__file__).parents[3] / "recipes"


@pytest.fixture
def directory(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "tiny")


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    lines = [
        {"step": 10, "tokens": 1_000_000, "loss": 5.0, "tokens_per_s": 1000},
        {"step": 20, "tokens": 3_000_000, "loss": 4.0, "tokens_per_s": 2000},
        {"step": 20, "tokens": 3_000_000, "held_out": {"mean": 4.1}},
    ]
    (folder / "curves.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "curves.svg").write_text("<svg/>")
    return folder


def evaluation():
    torch = TaskResult([Score("sts.en", "STS-B test en, Spearman", 71.254)])
    int8 = TaskResult([Score("sts.en", "STS-B test en, Spearman", 70.5)])
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
    )


def describe(directory, run, *more):
    recipe = RECIPES / "polyseme-nano.toml"
    arguments = [str(directory), "--recipe", str(recipe), "--run", f"masked words={run}"]
    CliApp.run(Card, cli_args=[*arguments, "--teacher", "org/teacher", *more])
    return (directory / "README.md").read_text("utf-8")


@pytest.mark.parametrize("name", ["polyseme-nano", "polyseme-m"])
def test_every_source_of_our_recipes_has_its_licence(name):
    texts = texts_of(RECIPES / f"{name}.toml")

    assert len(texts) > 40
    assert [text.path for text in texts if text.licence == "not stated"] == []


def test_a_licence_is_the_comment_beside_the_table_head():
    recipe = '[[sources]] # CC0\npath = "a/b.txt"\n[[pairs]]\npath = "c"\n[text] # no\nx = 1\n'

    assert licences_of(recipe) == {"a/b.txt": "CC0"}


def test_the_time_of_a_run_follows_from_its_curves(run):
    stage = stage_of(run, "masked words")

    assert (stage.steps, stage.tokens, stage.seconds) == (20, 3_000_000, 2000.0)
    assert stage.kilowatt_hours(watts_stated=90.0) == pytest.approx(0.05)
    with pytest.raises(FileNotFoundError, match=r"is .* the folder of a run"):
        stage_of(run / "nothing", "none")


def test_measured_power_goes_before_stated_power(run):
    rows = "timestamp, power.draw [W], utilization.gpu [%]\n1, 100.0, 99\n2, 300.0, 99\n3, 4"
    (run / "power.csv").write_text(rows)

    assert mean_watts(run / "power.csv") == pytest.approx((100 + 300 + 4) / 3)
    assert stage_of(run, "x").kilowatt_hours(1.0) == pytest.approx(2000 * 404 / 3 / 3.6e6)


def test_the_card_says_what_the_model_is_made_of(directory, run):
    shown = describe(directory, run)

    assert (
        "| parallel/tatoeba-manythings/train.eng-deu.tsv.xz | en-de | translations | CC BY 2.0"
        in (shown)
    )
    assert "| masked words | 20 | 3 M | 33 min 20 s | 0.033 kWh |" in shown
    assert "a stated 60 W, not a measurement" in shown
    assert "![Curves of masked words](training-1.svg)" in shown
    assert "German, French; of others" in shown
    verify(directory, read_manifest(directory))
    assert "training-1.svg" in read_manifest(directory).files


def test_description_and_evaluation_keep_out_of_one_another(directory, run):
    describe(directory, run)
    card.write(directory, evaluation())
    both = (directory / "README.md").read_text("utf-8")
    again = describe(directory, run)

    assert again == both
    head = yaml.safe_load("\n".join(split(both)[0]))
    assert head["language"] == ["en", "de", "fr"]
    assert head["license"] == "apache-2.0"
    assert head["base_model"] == ["org/teacher"]
    assert {"multi30k", "tatoeba-manythings", "classic-books-en"} <= set(head["datasets"])
    assert both.index("## Training") < both.index("## Evaluation")


def test_the_description_stands_first_though_the_evaluation_came_before(directory, run):
    (directory / "README.md").unlink(missing_ok=True)
    card.write(directory, evaluation())

    text = describe(directory, run)

    _, body = split(text)
    assert body.lstrip().startswith("<!-- polyseme-model card")
    assert text.count(f"# {read_manifest(directory).name}\n") == 1
    assert text.index("## Data") < text.index("## Evaluation")


def test_hugging_face_reads_the_card_and_its_results(directory, run):
    hub = pytest.importorskip("huggingface_hub")
    describe(directory, run)
    card.write(directory, evaluation())

    data = hub.ModelCard.load(directory / "README.md").data

    assert data.model_name == "tiny"
    assert data.library_name == "sentence-transformers"
    found = {(r.dataset_type, r.metric_name): r.metric_value for r in data.eval_results}
    assert found == {
        ("stsb", "STS-B test en, Spearman (torch fp32)"): 71.25,
        ("stsb", "STS-B test en, Spearman (onnx int8)"): 70.5,
        ("wikitext", "MLM loss, nats (torch fp32)"): 4.12,
    }
    sts = next(r for r in data.eval_results if r.dataset_type == "stsb")
    assert (sts.task_type, sts.dataset_split, sts.dataset_config) == (
        "sentence-similarity",
        "test",
        "en",
    )


@pytest.mark.parametrize(
    ("key", "dataset", "metric"),
    [
        ("tatoeba.de-en.f1", "tatoeba", "f1"),
        ("tatoeba.de-en", "tatoeba", "accuracy"),
        ("retrieval.cisi.dense", "cisi", "ndcg_at_10_dense"),
        (
            "senses.contextual+sentence.1nn.apple",
            "coarsewsd-20",
            "accuracy_contextual+sentence_1nn",
        ),
        ("senses.contextual.lda.macro", "coarsewsd-20", "f1_contextual_lda"),
        ("crosslingual.captions.de-en.recall_at_10", "multi30k-captions", "recall_at_10"),
        ("mlm.whole", "wikitext", "loss_whole"),
    ],
)
def test_scores_find_their_place_in_the_index(key, dataset, metric):
    place = place_of(key)

    assert (place.dataset, place.metric) == (dataset, metric)


def test_scores_of_few_examples_are_left_to_the_table():
    assert place_of("senses.contextual.lda.3-shot") is None
    assert place_of("senses.served.lda.macro") is None


def test_a_model_that_is_none_is_refused_in_one_line(tmp_path, run):
    with pytest.raises(SystemExit, match=r"polyseme-model: .* has no polyseme\.json"):
        describe(tmp_path / "none", run)
