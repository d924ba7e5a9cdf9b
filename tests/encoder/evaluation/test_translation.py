import shutil
import sys

import numpy as np
import pytest
import torch

from encoder.checkpoint import read_config, save_directory
from encoder.config import EncoderConfig, Pooling
from encoder.evaluation import bleu, translation
from encoder.evaluation.bleu import ScorerMissing, score
from encoder.evaluation.data import DataMalformed, DataMissing
from encoder.evaluation.model_index import place_of
from encoder.evaluation.result import Form
from encoder.evaluation.translation import captions, read_captions, translate
from encoder.importing import import_directory
from encoder.manifest import Precision
from encoder.model import MaskedLanguageModel, SentenceEncoder
from encoder.tokenizer import Tokenizer
from encoder.training.vocabulary import SPECIAL_TOKENS, train_vocabulary
from encoder.translation_config import TranslationConfig
from encoder.translation_export import export_translator
from encoder.translator import begin_translator, save_translator

LINES = {
    "en": ["A man eats an apple.", "The dog runs.", "Two children play in a big field."],
    "de": ["Ein Mann isst einen Apfel.", "Der Hund rennt.", "Zwei Kinder spielen auf einem Feld."],
    "fr": ["Un homme mange une pomme.", "Le chien court.", "Deux enfants jouent dans l'herbe."],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    folder = root / "parallel" / "multi30k"
    folder.mkdir(parents=True)
    for language, lines in LINES.items():
        (folder / f"test_2016_flickr.{language}").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A model directory without a translator."""
    folder = tmp_path_factory.mktemp("model")
    every = [line for lines in LINES.values() for line in lines]
    tokenizer = train_vocabulary(every, 420, progress=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(3)
    model = MaskedLanguageModel(
        EncoderConfig(
            vocab_size=tokenizer.get_vocab_size(), width=32, layers=2, heads=4, inner_width=32,
            tokens_max=64, initializer_range=0.2,
        )
    )  # fmt: skip
    save_directory(
        folder / "source",
        SentenceEncoder(model.encoder, Pooling.MEAN),
        tokenizer=folder / "tokenizer.json",
        language_model=model,
        special_tokens=SPECIAL_TOKENS,
    )
    import_directory(folder / "source", folder / "model", name="tiny")
    return folder / "model"


@pytest.fixture(scope="module")
def directory(plain, tmp_path_factory):
    """The same with a random translator, exported in fp32."""
    directory = tmp_path_factory.mktemp("translator") / "model"
    shutil.copytree(plain, directory)
    source = read_config(plain)
    config = TranslationConfig(
        encoder=source,
        decoder=source,
        shared_layers=1,
        begin_ids={"en": 5, "de": 6},
        end_id=3,
        pairs=(("en", "de"), ("de", "en")),
    )
    model = begin_translator(config, directory)
    with torch.no_grad():
        model.decoder.bias[3] = 1.5
    save_translator(directory, model.eval())
    export_translator(directory, precisions=[Precision.FP32])
    return directory


def test_equal_texts_score_100_and_signatures_say_how():
    found = score(LINES["fr"], LINES["fr"], "fr")

    assert (found.bleu, found.chrf, found.lowered) == pytest.approx((100, 100, 100))
    assert "case:mixed" in found.signatures[0]
    assert "tok:13a" in found.signatures[0]
    assert "case:lc" in found.signatures[2]
    assert "sacremoses" in found.signatures[2]


def test_lower_case_matters_to_the_cased_score_alone():
    found = score([line.lower() for line in LINES["de"]], LINES["de"], "de")

    assert found.bleu < 60
    assert found.lowered == pytest.approx(100)


def test_french_elisions_are_words_of_their_own_for_moses_alone():
    hypotheses = ["dans l'eau de la mer bleue"]

    found = score(hypotheses, ["dans l'eau de la mer bleue et"], "fr")

    assert "dans l' eau" not in hypotheses[0]
    assert found.lowered > found.bleu  # seven tokens of eight are right, not six of seven


def test_scores_of_every_direction_that_the_model_has(directory, data):
    forms = {form: captions(directory, data, form, limit=None, seed=1) for form in FORMS}

    for result in forms.values():
        assert [score.key for score in result.scores] == [
            f"translation.{direction}.{metric}"
            for direction in ("en-de", "de-en")
            for metric in ("bleu", "chrf", "lowered")
        ]
        assert all(0 <= score.value <= 100 for score in result.scores)
        assert "tok:13a" in result.notes[0]
        (first, *_) = result.details["samples"]["en-de"]
        assert first["source"] in LINES["en"]
    assert "greedy" in forms[Form.TORCH].notes[0]
    assert "a beam of 4" in forms[Form.FP32].notes[0]
    assert place_of(forms[Form.TORCH].scores[0].key).task == "translation"


FORMS = (Form.TORCH, Form.FP32)


class Echo:
    """Says each window's text again, in capitals."""

    tokens_max = 64

    def __init__(self, directory):
        self.tokenizer = Tokenizer(directory / "tokenizer.json")

    def say(self, windows, target):
        return [self.tokenizer.decode(window.ids).upper() for window in windows]


def test_translations_come_in_the_order_of_the_texts(plain, monkeypatch):
    monkeypatch.setattr(translation, "BATCH_TEXTS", 2)
    texts = [*LINES["de"], *LINES["en"], "A"]

    assert translate(Echo(plain), texts, "de") == [text.upper() for text in texts]


def test_a_model_without_a_translator_is_not_scored(plain, data):
    result = captions(plain, data, Form.TORCH, limit=None, seed=1)

    assert result.scores == []
    assert "has no translator" in result.notes[0]


def test_missing_and_uneven_data_are_named(tmp_path, data):
    with pytest.raises(DataMissing, match=r"test_2016_flickr\.en"):
        read_captions(tmp_path, None)
    assert {language: len(lines) for language, lines in read_captions(data, 2).items()} == {
        "en": 2, "de": 2, "fr": 2,
    }  # fmt: skip
    folder = tmp_path / "parallel" / "multi30k"
    folder.mkdir(parents=True)
    for language, count in (("en", 3), ("de", 3), ("fr", 2)):
        (folder / f"test_2016_flickr.{language}").write_text("a\n" * count)
    with pytest.raises(DataMalformed, match=r"\.fr, line 2: the English file has 3 lines"):
        read_captions(tmp_path, None)


def test_a_scorer_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)

    with pytest.raises(ScorerMissing, match="sacrebleu, which is not installed"):
        bleu.score(["a"], ["a"], "en")


def test_greedy_torch_and_a_beam_of_one_say_the_same(directory, data, monkeypatch):
    monkeypatch.setattr(translation, "PLAN", translation.BeamPlan(beams=1))
    texts = read_captions(data, None)["en"]

    said = [translate(translation.speaker_of(directory, form), texts, "de") for form in FORMS]

    assert said[0] == said[1]
    assert len(np.unique(said[0])) > 1
