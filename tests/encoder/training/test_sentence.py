from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from encoder.checkpoint import load_sentence_encoder, save_directory
from encoder.config import EncoderConfig, Pooling
from encoder.evaluation.data import GradedPairs
from encoder.manifest import read_manifest
from encoder.model import Encoder, SentenceEncoder
from encoder.training.checkpoints import CheckpointRefused
from encoder.training.corpus import CorpusInvalid
from encoder.training.curves import read_curves
from encoder.training.recipe import Sentences, Source
from encoder.training.run import Run
from encoder.training.sentence import SentenceTraining
from encoder.training.sentence_loss import sentence_loss
from encoder.training.sentence_masked import MaskedRows
from encoder.training.sentence_pairs import load_kinds
from encoder.training.sentence_rehearsal import rehearse_sentences, rehearse_teacher
from encoder.training.sentence_run import SentenceRun, digest_of
from encoder.training.sentence_stage import SentenceStage, StageSettings
from encoder.training.sentence_teacher import TorchTeacher
from encoder.training.sentence_vectors import BlankVectors, TeacherVectors
from encoder.training.workers import Workers

RULES = Sentences(
    width=16, dimensions=(16, 8), steps=40, step_pairs=16, text_tokens_max=24, rate=5e-3
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base(tiny_data, tiny_settings, tmp_path_factory):
    out = tmp_path_factory.mktemp("base")
    return Run(*tiny_data, replace(tiny_settings, out=out / "run"), Workers()).train()


@pytest.fixture(scope="module")
def teacher_directory(base, tmp_path_factory):
    torch.manual_seed(5)
    config = EncoderConfig(vocab_size=512, width=16, layers=1, heads=2, inner_width=16)
    directory = tmp_path_factory.mktemp("teacher")
    model = SentenceEncoder(Encoder(config), Pooling.MEAN)
    save_directory(directory, model, tokenizer=base / "tokenizer.json")
    return directory


@pytest.fixture(scope="module")
def sentence_recipe(tiny_recipe):
    return tiny_recipe.model_copy(
        update={
            "sources": (Source(path="a.txt", language="en"),),
            "pairs": (Source(path="b.tsv", language="de-en"),),
            "sentences": RULES,
        }
    )


@pytest.fixture(scope="module")
def kinds(sentence_recipe, tiny_settings):
    return load_kinds(tiny_settings.text, sentence_recipe, tiny_settings.cache)


@pytest.fixture(scope="module")
def teacher(teacher_directory):
    return TorchTeacher(teacher_directory, RULES.text_tokens_max, CPU)


@pytest.fixture(scope="module")
def vectors(teacher, kinds, tmp_path_factory):
    vectors = TeacherVectors(tmp_path_factory.mktemp("vectors"), teacher)
    vectors.compute(text for kind in kinds for text in kind.taught())
    return vectors


@pytest.fixture(scope="module")
def masked_rows(sentence_recipe, tiny_data):
    rules = RULES.model_copy(
        update={"masked_share": 0.25, "masked_rows": 8, "masked_row_tokens": 16}
    )
    recipe, data = tiny_data
    return MaskedRows(recipe.model_copy(update={"sentences": rules}), data)


@pytest.fixture
def start(sentence_recipe, base, vectors, kinds):
    def training(**changes):
        rules = sentence_recipe.sentences.model_copy(update=changes.pop("rules", {}))
        recipe = sentence_recipe.model_copy(update={"sentences": rules})
        return SentenceTraining(recipe, base, vectors, kinds, device=CPU, **changes)

    return training


def test_the_loss_is_least_where_the_vectors_are_the_teachers():
    torch.manual_seed(0)
    rules = RULES.model_copy(update={"contrast_weight": 0.0, "dimensions": (16,)})
    target = F.normalize(torch.randn(12, 16), dim=-1)

    assert float(sentence_loss(3 * target, target, rules).total) == pytest.approx(0, abs=1e-4)
    assert float(sentence_loss(torch.randn(12, 16), target, rules).total) > 0.5


def test_a_twin_does_not_drown_what_the_teacher_says_of_the_others():
    torch.manual_seed(0)
    english = F.normalize(torch.randn(6, 16), dim=-1)
    target = torch.cat([english, english])  # translations: both have the teacher's vector
    guessed = F.normalize(torch.randn(6, 16), dim=-1)

    # Each text beside its twin, but the others anywhere: only the graded rest can be wrong.
    whole = RULES.model_copy(update={"dimensions": (16,)})
    wrong = sentence_loss(torch.cat([guessed, guessed]), target, whole).similar
    right = sentence_loss(target, target, whole).similar

    assert float(wrong) > 0.5
    assert float(right) == pytest.approx(0, abs=1e-4)


def test_every_length_a_vector_may_be_cut_to_is_trained():
    torch.manual_seed(0)
    target = F.normalize(torch.randn(12, 16), dim=-1)
    spoilt = target.clone()
    spoilt[:, :8] = torch.randn(12, 8) * 0.01

    whole = RULES.model_copy(update={"dimensions": (16,), "contrast_weight": 0.0})
    both = RULES.model_copy(update={"dimensions": (16, 8), "contrast_weight": 0.0})

    spoilt_both, spoilt_whole = (sentence_loss(spoilt, target, r).total for r in (both, whole))
    assert float(spoilt_both) > float(spoilt_whole)


def test_a_text_that_the_teacher_finds_the_same_is_no_negative():
    torch.manual_seed(0)
    english = F.normalize(torch.randn(6, 16), dim=-1)
    english[1] = english[0]
    target = torch.cat([english, english])

    strict = RULES.model_copy(update={"dimensions": (16,)})
    lenient = RULES.model_copy(update={"dimensions": (16,), "contrast_same_above": 0.99})

    contrasts = [float(sentence_loss(target, target, r).contrast) for r in (strict, lenient)]
    assert contrasts[0] > contrasts[1]


def test_a_student_comes_nearer_to_its_teacher_and_a_resumed_one_as_near(start, masked_rows):
    count = 80
    rules = {"optimizer": "muon", "matrix_rate": 5e-3, "steps": count}
    settings = {"masked": masked_rows, "rules": rules}
    whole = start(**settings)
    steps = [whole.train() for _ in range(count)]
    begun = start(**settings)
    for _ in range(15):
        begun.train()
    resumed = start(**settings)
    resumed.load(begun.state())
    for _ in range(15, count):
        resumed.train()

    assert sum(step.masked is not None for step in steps) == count // 4
    first, last = steps[:10], steps[-10:]
    assert sum(step.total for step in last) < 0.8 * sum(step.total for step in first)
    assert sum(step.cosine for step in last) < 0.85 * sum(step.cosine for step in first)
    assert whole.evaluate() == resumed.evaluate()
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_words_come_nearer_to_the_teachers_and_a_resumed_run_learns_the_same(start, teacher):
    settings = {"teacher": teacher, "rules": {"word_weight": 4.0}}
    whole = start(**settings)
    steps = [whole.train() for _ in range(RULES.steps)]
    begun = start(**settings)
    for _ in range(15):
        begun.train()
    resumed = start(**settings)
    resumed.load(begun.state())
    for _ in range(15, RULES.steps):
        resumed.train()

    english = [step.words for step in steps if step.words is not None]
    assert 0 < len(english) < len(steps)  # in translations none are taught
    assert sum(english[-4:]) < 0.9 * sum(english[:4])
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_words_need_a_teacher(start):
    with pytest.raises(ValueError, match="word_weight"):
        start(rules={"word_weight": 1.0})


def test_the_projection_begins_as_the_best_linear_map_to_the_teachers_vectors(start):
    training = start()
    fitted = training.evaluate()["pairs"]
    torch.nn.init.normal_(training.model.projection.weight, std=0.1)
    training._average[-1].copy_(training.model.projection.weight)
    random = training.evaluate()["pairs"]

    assert all(fitted[name].cosine > random[name].cosine + 0.3 for name in fitted)


def test_guessing_hidden_tokens_beside_keeps_the_masked_loss_low(start, masked_rows):
    with_rows = start(masked=masked_rows, rules={"masked_weight": 1.0})
    without = start()
    before = with_rows.evaluate()["masked"]["text"]
    for training in (with_rows, without):
        for _ in range(RULES.steps):
            training.train()
    without._masked = masked_rows  # for its evaluation alone

    after = with_rows.evaluate()["masked"]["text"]
    assert after < without.evaluate()["masked"]["text"]
    assert after < before + 0.1


def test_a_packed_text_has_the_vector_that_it_has_alone(start):
    training = start()
    texts = ["the cat sees a dog", "der Hund", "a red apple, 5.", "one bird hears two trees, 77."]

    with training.averaged():
        together = training.embed(texts * 3)
        alone = np.concatenate([training.embed([text]) for text in texts * 3])

    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_graded_pairs_are_scored_at_every_length_of_vector(start):
    graded = GradedPairs(
        ["the cat sees a dog", "der Hund", "a bird"],
        ["the cat sees a dog", "le chat, 3.", "my sister"],
        np.array([5.0, 1.0, 2.0]),
    )

    scores = start(graded={"en": graded}).evaluate()["sts"]["en"]

    assert list(scores) == ["16", "8"]
    assert all(-100 <= value <= 100 for value in scores.values())


def test_a_run_leaves_a_model_that_sentence_transformers_reads_with_equal_vectors(
    start, sentence_recipe, base, tmp_path
):
    from sentence_transformers import SentenceTransformer

    training = start()
    run = SentenceRun(training, sentence_recipe, "ab", tmp_path / "run")
    directory = run.train(resume=False, checkpoint_s=1e-6)

    theirs = SentenceTransformer(str(directory), device="cpu").encode(["the cat sees a dog"])
    with training.averaged():
        ours = training.embed(["the cat sees a dog"])
    np.testing.assert_allclose(theirs, ours, atol=1e-5)
    assert theirs.shape == (1, 16)
    with pytest.raises(CheckpointRefused, match="add --resume"):
        run.train(resume=False, checkpoint_s=1e-6)


def test_a_run_goes_on_only_with_the_text_the_teacher_and_the_weights_it_began_with(
    start, sentence_recipe, base, kinds, tmp_path
):
    weights = base / "model.safetensors"
    digest = digest_of(weights, "teacher", kinds)
    fewer = [replace(kinds[0], pairs=kinds[0].pairs[1:]), *kinds[1:]]
    others = {digest_of(weights, "another", kinds), digest_of(weights, "teacher", fewer)}
    assert digest == digest_of(weights, "teacher", kinds)
    assert len({digest, *others}) == 3
    SentenceRun(start(), sentence_recipe, digest, tmp_path).train(resume=False, checkpoint_s=60)

    for other in others:
        with pytest.raises(CheckpointRefused):
            SentenceRun(start(), sentence_recipe, other, tmp_path).train(
                resume=True, checkpoint_s=60
            )


class Killed(Exception):
    """What a test ends a run with."""


def test_a_run_that_was_killed_goes_on_and_leaves_the_same_model_and_curves(
    start, sentence_recipe, base, tmp_path, monkeypatch
):
    rules = sentence_recipe.sentences.model_copy(update={"steps": 30})
    recipe = sentence_recipe.model_copy(update={"sentences": rules})

    def run(name):
        return SentenceRun(start(rules={"steps": 30}), recipe, "ab", tmp_path / name)

    whole = run("whole").train(resume=False, checkpoint_s=60)
    killed = run("killed")
    save = SentenceRun._save

    def save_and_die(self):
        save(self)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(SentenceRun, "_save", save_and_die)
        with pytest.raises(Killed):
            killed.train(resume=False, checkpoint_s=0.3)
    resumed = run("killed").train(resume=True, checkpoint_s=60)

    assert (resumed / "model.safetensors").read_bytes() == (
        whole / "model.safetensors"
    ).read_bytes()
    steps = [
        [line["step"] for line in read_curves(tmp_path / name / "curves.jsonl")]
        for name in ("whole", "killed")
    ]
    assert steps[0] == steps[1]


def test_the_stage_goes_from_text_to_a_model_and_reads_no_text_twice(
    sentence_recipe, base, teacher_directory, tiny_settings, tmp_path
):
    rules = RULES.model_copy(update={"steps": 8, "masked_share": 0.5, "masked_row_tokens": 16})
    recipe = sentence_recipe.model_copy(update={"sentences": rules})
    settings = StageSettings(
        weights=base,
        teacher=teacher_directory,
        text=tiny_settings.text,
        out=tmp_path / "run",
        cache=tiny_settings.cache,
        device=CPU,
    )
    said = []

    SentenceStage(recipe, settings).rehearse(said.append)
    SentenceStage(recipe, settings).teach(said.append)
    stage = SentenceStage(recipe, settings)
    stage.teach(said.append)
    model = stage.train(resume=False, checkpoint_s=60)

    text = "\n".join(said)
    assert "texts to read" in text
    assert "whole run" in text
    assert "teacher: 0 texts read" in text
    assert load_sentence_encoder(model).width == 16
    assert read_manifest(model).dimensions_choices == RULES.dimensions
    lines = read_curves(tmp_path / "run" / "curves.jsonl")
    assert {"loss", "cosine", "similar", "contrast", "masked"} <= lines[0].keys()
    assert lines[-1]["held_out"]["masked"]["en"] > 0


def test_masked_rows_of_another_tokenizer_are_refused(
    sentence_recipe, base, teacher_directory, tiny_settings, tmp_path
):
    rules = RULES.model_copy(update={"masked_share": 0.5})
    recipe = sentence_recipe.model_copy(update={"sentences": rules})
    other = tmp_path / "base"
    other.mkdir()
    for file in base.iterdir():
        if file.is_file():
            (other / file.name).write_bytes(file.read_bytes())
    (other / "tokenizer.json").write_text((base / "tokenizer.json").read_text() + " ")
    settings = StageSettings(
        weights=other,
        teacher=teacher_directory,
        text=tiny_settings.text,
        out=tmp_path / "run",
        cache=tiny_settings.cache,
        device=CPU,
    )
    stage = SentenceStage(recipe, settings)
    stage.teach(lambda _: None)

    with pytest.raises(CorpusInvalid, match="not the tokenizer"):
        stage.train(resume=False, checkpoint_s=60)


def test_a_teacher_of_another_width_is_refused(sentence_recipe, base, vectors, kinds):
    wide = sentence_recipe.model_copy(update={"sentences": Sentences(width=384)})

    with pytest.raises(ValueError, match="16 values, not 384"):
        SentenceTraining(wide, base, vectors, kinds, device=CPU)


def test_texts_that_the_teacher_has_not_read_are_refused(
    sentence_recipe, base, teacher, kinds, tmp_path
):
    with pytest.raises(KeyError, match="has not read"):
        SentenceTraining(
            sentence_recipe, base, TeacherVectors(tmp_path, teacher), kinds, device=CPU
        )


def test_a_rehearsal_says_what_a_run_takes_before_the_teacher_has_read_anything(
    sentence_recipe, base, teacher, kinds, tmp_path
):
    said = []
    seconds = rehearse_teacher(teacher, TeacherVectors(tmp_path, teacher), kinds, said.append)
    training = SentenceTraining(sentence_recipe, base, BlankVectors(16), kinds, device=CPU)
    rehearse_sentences(training, sentence_recipe.sentences, seconds, said.append)

    assert any("whole run" in line for line in said)
    assert not list(tmp_path.rglob("*.f16"))
