"""Search across languages: who asks, who answers, and what counts."""

import numpy as np
import pytest

from encoder.evaluation.crosslingual import crosslingual
from encoder.evaluation.data import DataMalformed, DataMissing
from encoder.evaluation.scores import recall

CAPTIONS = "contrastive/multi30k-captions/test_2016.5captions"


def values(result):
    return {score.key.removeprefix("crosslingual."): score.value for score in result.scores}


@pytest.fixture
def model(exported):
    from encoder.evaluation.torch_model import TorchModel

    return TorchModel(exported)


def test_texts_that_are_their_own_translation_are_all_found(model, data):
    found = values(crosslingual(model, data, column="test", limit=None))

    captions, sentences = ("en-en", "de-en", "de-de", "en-de"), ("de-en", "fr-en", "en-de")
    assert all(found[f"captions.{one}.recall_at_1"] == 100 for one in captions)
    assert all(found[f"sentences.{one}.recall_at_1"] == 100 for one in sentences)
    assert len(found) == 2 * (4 + 6)


def test_only_where_the_languages_differ_is_the_answer_lost(model, data, tmp_path):
    """German pictures in another order: in German each caption finds the fifth, in English not."""
    import shutil

    root = shutil.copytree(data, tmp_path / "data")
    german = root / f"{CAPTIONS}.de.tsv"
    lines = german.read_text("utf-8").splitlines(keepends=True)
    german.write_text("".join([*lines[1:], lines[0]]), "utf-8")

    found = values(crosslingual(model, root, column="test", limit=None))

    assert [found[f"captions.{one}.recall_at_1"] for one in ("en-en", "de-de")] == [100, 100]
    assert [found[f"captions.{one}.recall_at_1"] for one in ("de-en", "en-de")] == [0, 0]


def test_four_captions_ask_for_the_fifth(model, data, tmp_path):
    import shutil

    root = shutil.copytree(data, tmp_path / "data")
    english = root / f"{CAPTIONS}.en.tsv"
    rows = [line.split("\t") for line in english.read_text("utf-8").splitlines()]
    lost = [[first, rows[number - 1][0], *rest[1:]] for number, (first, *rest) in enumerate(rows)]
    english.write_text("".join("\t".join(row) + "\n" for row in lost), "utf-8")

    found = values(crosslingual(model, root, column="test", limit=None))

    assert found["captions.en-en.recall_at_1"] == 75


def test_a_quick_look_takes_the_first_of_both_sides(model, data):
    found = values(crosslingual(model, data, column="test", limit=3))

    assert set(found.values()) == {100}


def test_both_languages_need_the_same_pictures(model, data, tmp_path):
    import shutil

    root = shutil.copytree(data, tmp_path / "data")
    german = root / f"{CAPTIONS}.de.tsv"
    german.write_text("\n".join(german.read_text("utf-8").splitlines()[1:]), "utf-8")

    with pytest.raises(DataMalformed, match="the English file has 8 lines"):
        crosslingual(model, root, column="test", limit=None)
    german.unlink()
    with pytest.raises(DataMissing, match=r"5captions\.de\.tsv"):
        crosslingual(model, root, column="test", limit=None)


def test_recall_counts_who_is_among_the_first():
    cosines = np.array([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.2, 0.3, 0.3]], np.float32)
    right = np.array([0, 2, 2])

    assert recall(cosines, right, 1) == pytest.approx(1 / 3)
    assert recall(cosines, right, 2) == pytest.approx(2 / 3)  # equals: the earlier is first
    assert recall(cosines, right, 3) == 1.0
