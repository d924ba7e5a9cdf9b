from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from encoder.checkpoint import save_directory
from encoder.config import EncoderConfig, Pooling
from encoder.model import Encoder, SentenceEncoder
from encoder.training.checkpoints import CheckpointRefused
from encoder.training.corpus import CorpusInvalid
from encoder.training.recipe import Recipe, Sentences, Source
from encoder.training.run import Run
from encoder.training.sentence import SentenceTraining, Teacher, sentence_loss
from encoder.training.sentence_pairs import Kind, PairBatches, load_kinds
from encoder.training.sentence_run import SentenceRun
from encoder.training.workers import Workers

RULES = Sentences(
    width=16, dimensions=(16, 8), steps=60, step_pairs=16, text_tokens_max=24, rate=5e-3
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


@pytest.fixture
def start(sentence_recipe, base, teacher_directory, kinds):
    def training():
        teacher = Teacher(teacher_directory, RULES.text_tokens_max, CPU)
        return SentenceTraining(sentence_recipe, base, teacher, kinds, device=CPU)

    return training


def test_translations_come_with_english_first_and_lines_with_a_lower_cased_copy(
    kinds, tiny_settings
):
    translations, lines = kinds

    raw = (tiny_settings.text / "b.tsv").read_text().split("\n")
    turned = {tuple(reversed(line.split("\t"))) for line in raw}
    assert set(translations.pairs) <= turned
    assert translations.same
    assert lines.same
    assert all(second == second.lower() for _, second in lines.pairs)
    assert len(translations.pairs) + len(translations.held_out) == 200
    assert len(lines.pairs) + len(lines.held_out) == 600


def test_questions_and_answers_are_pairs_whatever_their_lengths(
    sentence_recipe, tiny_settings, tmp_path
):
    (tmp_path / "a.txt").write_text((tiny_settings.text / "a.txt").read_text())
    (tmp_path / "b.tsv").write_text((tiny_settings.text / "b.tsv").read_text())
    rows = [f"What is {i}?\t" + f"It is the number {i}. " * 20 for i in range(150)]
    (tmp_path / "qa.tsv").write_text("\n".join(rows))
    rules = RULES.model_copy(update={"pairs": (Source(path="qa.tsv", language="en-en"),)})
    recipe = sentence_recipe.model_copy(update={"sentences": rules})

    kinds = {kind.name: kind for kind in load_kinds(tmp_path, recipe, tmp_path / "cache")}

    pairs = kinds["pairs"]
    assert len(pairs.pairs) + len(pairs.held_out) == 150
    assert not pairs.same


def test_text_without_english_is_refused(sentence_recipe, tiny_settings, tmp_path):
    german = sentence_recipe.model_copy(
        update={"sources": (Source(path="a.txt", language="de"),), "pairs": ()}
    )

    with pytest.raises(CorpusInvalid, match="no 16 English lines"):
        load_kinds(tiny_settings.text, german, tmp_path)


def test_the_pairs_of_a_step_follow_from_its_number_and_kinds_keep_their_shares():
    kinds = [
        Kind(name, [(f"{name}{i}", f"{i}") for i in range(50)], [], True, share)
        for name, share in (("t", 0.7), ("l", 0.3))
    ]
    batches = [PairBatches(kinds, 8, seed=1).read(step) for step in range(200)]

    again = PairBatches(kinds, 8, seed=1).read(123)
    assert batches[123] == again
    assert len(set(again.firsts)) == 8
    counts = np.mean([batch.firsts[0].startswith("t") for batch in batches])
    assert abs(counts - 0.7) < 0.02


def test_the_loss_is_least_where_the_vectors_are_the_teachers():
    torch.manual_seed(0)
    rules = RULES.model_copy(update={"contrast_weight": 0.0, "dimensions": (16,)})
    target = F.normalize(torch.randn(12, 16), dim=-1)

    assert float(sentence_loss(3 * target, target, rules)) == pytest.approx(0, abs=1e-4)
    assert float(sentence_loss(torch.randn(12, 16), target, rules)) > 0.5


def test_every_length_a_vector_may_be_cut_to_is_trained():
    torch.manual_seed(0)
    target = F.normalize(torch.randn(12, 16), dim=-1)
    spoilt = target.clone()
    spoilt[:, :8] = torch.randn(12, 8) * 0.01

    whole = RULES.model_copy(update={"dimensions": (16,), "contrast_weight": 0.0})
    both = RULES.model_copy(update={"dimensions": (16, 8), "contrast_weight": 0.0})

    assert float(sentence_loss(spoilt, target, both)) > float(sentence_loss(spoilt, target, whole))


def test_a_student_comes_nearer_to_its_teacher_and_a_resumed_one_as_near(start):
    whole = start()
    before = whole.evaluate()["lines"].cosine
    for _ in range(RULES.steps):
        whole.train()
    begun = start()
    for _ in range(25):
        begun.train()
    resumed = start()
    resumed.load(begun.state())
    for _ in range(25, RULES.steps):
        resumed.train()

    assert whole.evaluate()["lines"].cosine > before + 0.2
    assert whole.evaluate() == resumed.evaluate()
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_run_leaves_a_model_that_sentence_transformers_reads_with_equal_vectors(
    start, sentence_recipe, base, tmp_path
):
    from sentence_transformers import SentenceTransformer

    training = start()
    run = SentenceRun(training, sentence_recipe, base, tmp_path / "run")
    directory = run.train(resume=False, checkpoint_s=1e-6)

    theirs = SentenceTransformer(str(directory), device="cpu").encode(["the cat sees a dog"])
    with training.averaged(), torch.no_grad():
        ours = training._encode(["the cat sees a dog"])
    np.testing.assert_allclose(theirs, ours.numpy(), atol=1e-5)
    assert theirs.shape == (1, 16)
    with pytest.raises(CheckpointRefused, match="add --resume"):
        run.train(resume=False, checkpoint_s=1e-6)


def test_a_teacher_of_another_width_is_refused(sentence_recipe, base, teacher_directory, kinds):
    wide = sentence_recipe.model_copy(update={"sentences": Sentences(width=384)})

    with pytest.raises(ValueError, match="16 values, not 384"):
        SentenceTraining(wide, base, Teacher(teacher_directory, 24, CPU), kinds, device=CPU)


def test_the_sentence_stage_is_no_part_of_the_pretrainings_hash():
    assert Recipe(sentences=RULES).sha256 == Recipe().sha256
