"""The translator on onnxruntime against the one in torch, and against itself in company."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder.beam import BeamPlan
from encoder.manifest import ModelDamaged, ModelNotFound, Precision
from encoder.runtime import PrecisionMissing
from encoder.sentences import Splitting
from encoder.tokenizer import Window
from encoder.translated import Assembly, assemble, prepare, translate_texts
from encoder.translation import PairMissing, Translator
from encoder.translator import greedy, load_translator

TEXTS = [
    "Le chat voit la maison.",
    "Je suis étudiant",
    "Der Hund sieht ein Apfel",
    "An apple sees the dog.",
    "zzz qqq.",
    "The cat",
]


@pytest.fixture(scope="module")
def torch_model(translating_directory):
    return load_translator(translating_directory)


@pytest.fixture(scope="module", params=[Precision.FP32, Precision.INT8])
def translator(request, translating_directory):
    return Translator.load(translating_directory, precision=request.param)


@pytest.fixture(scope="module")
def exact(translating_directory):
    return Translator.load(translating_directory, precision=Precision.FP32)


def windows(translator, texts=TEXTS):
    return [prepare(translator, text, source="fr", target="en").windows[0] for text in texts]


def outcome(found):
    return [(one.ids, one.score, one.log_probability, one.finished) for one in found]


def test_greedy_writes_what_torch_writes(exact, torch_model):
    for window in windows(exact):
        ids = torch.from_numpy(window.ids)[None]
        for target in ("en", "de", "fr"):
            begin = [torch_model.config.begin_ids[target]]
            longest = min(2 * len(window.ids) + 16, 64)
            (theirs,) = greedy(torch_model, ids, ids > 0, begin, tokens_max=longest)
            ((ours,),) = exact.translate([window], [target], BeamPlan(beams=1))

            assert list(ours.ids) == theirs.ids
            assert ours.log_probability == pytest.approx(theirs.log_probability, abs=1e-3)
            assert ours.finished == theirs.finished


@given(
    order=st.permutations(range(len(TEXTS))),
    count=st.integers(1, len(TEXTS)),
    beams=st.sampled_from([1, 2, 4]),
)
@settings(max_examples=15, deadline=None)
def test_neighbours_change_nothing_to_the_last_bit(exact, order, count, beams):
    chosen = [windows(exact)[number] for number in order[:count]]
    targets = ["en", "de", "fr", "en", "de", "fr"][:count]
    plan = BeamPlan(beams=beams, alternatives=beams)

    together = exact.translate(chosen, targets, plan)

    for window, target, company in zip(chosen, targets, together, strict=True):
        (alone,) = exact.translate([window], [target], plan)
        assert outcome(alone) == outcome(company)


def test_int8_translates_what_it_knows_by_heart(translator):
    found = translate_texts(translator, TEXTS[:2], target="en", plan=BeamPlan(beams=4))

    assert [one.text for one in found] == ["The cat sees the house.", "I am a student"]


def test_attention_is_of_the_source_tokens(exact):
    (window,) = windows(exact, ["Le chat voit la maison."])

    ((best,),) = exact.translate([window], ["en"], BeamPlan(beams=3), attention=True)

    assert best.attention.shape == (len(best.ids), len(window.ids))
    np.testing.assert_allclose(best.attention.sum(axis=1), 1.0, atol=1e-5)


def test_a_sentence_that_nobody_wants_is_not_finished(exact):
    found = exact.translate(
        windows(exact)[:2], ["en", "en"], BeamPlan(beams=2), wanted=lambda number: number == 0
    )

    assert found[0]
    assert found[1] == []


def test_the_longest_length_is_kept_and_told(exact, torch_model, monkeypatch):
    monkeypatch.setattr("encoder.translation.LENGTH_RATIO_MAX", 0)
    monkeypatch.setattr("encoder.translation.LENGTH_EXTRA_TOKENS", 3)
    (window,) = windows(exact, ["Le chat voit la maison."])

    ((best,),) = exact.translate([window], ["en"], BeamPlan(beams=1))

    assert len(best.ids) == 3
    assert not best.finished


def test_no_windows_are_no_translations(exact):
    assert exact.translate([], [], BeamPlan()) == []


def test_what_the_model_cannot_do_is_refused(exact):
    (window,) = windows(exact, ["Le chat"])
    long = Window(*(np.repeat(part, 40) for part in (window.ids, window.starts, window.ends)))

    with pytest.raises(PairMissing, match="'xx'"):
        exact.translate([window], ["xx"], BeamPlan())
    with pytest.raises(PairMissing, match="'ja'"):
        prepare(exact, "x", source="ja", target="en")
    with pytest.raises(ValueError, match="tokens; this model reads 64"):
        exact.translate([long], ["en"], BeamPlan())


def test_a_directory_that_is_not_whole_is_refused(translating_directory, tmp_path):
    import shutil

    copy = tmp_path / "model"
    shutil.copytree(translating_directory, copy)
    with pytest.raises(PrecisionMissing, match="fp16"):
        Translator.load(copy, precision=Precision.FP16)
    weights = copy / "translation" / "onnx" / "int8" / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x07")
    with pytest.raises(ModelDamaged, match=r"weights\.bin"):
        Translator.load(copy)
    (copy / "translation" / "translation.json").unlink()
    with pytest.raises(ModelNotFound, match="polyseme-model export"):
        Translator.load(copy)


def test_a_text_is_put_together_as_it_was(exact):
    text = "  <p>Je suis étudiant.</p>\n\n\tLe chat voit la maison. 12:30\r\n"

    (found,) = translate_texts(exact, [text], target="en", plan=BeamPlan(beams=2))

    assert found.text == "  <p>I am a student.</p>\n\n\tThe cat sees the house. 12:30\r\n"
    for sentence in found.sentences:
        target, source = sentence.target, sentence.source
        assert (
            found.text.encode()[target.byte_start : target.byte_end].decode()
            == (found.text[target.start : target.end])
        )
        assert (
            text.encode()[source.byte_start : source.byte_end].decode()
            == (text[source.start : source.end])
        )
    assert [bool(sentence.written) for sentence in found.sentences] == [True, True, False]


@pytest.mark.parametrize("text", ["a-" * 150, "x, " * 100, "le chat " * 60 + "q" * 99])
def test_the_longest_words_are_cut_and_nothing_is_lost(exact, text):
    prepared = prepare(exact, text, source="fr", target="en")

    assert len(prepared.parts) > 1
    assert all(len(window.ids) <= exact.tokens_max for window in prepared.windows)
    kept = "".join(part.piece.of(text) for part in prepared.parts)
    assert kept.replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize(
    ("splitting", "several"), [(Splitting.SENTENCES, True), (Splitting.NONE, False)]
)
def test_what_is_longer_than_anything_it_learnt_from_is_read_in_parts_unless_told_not_to(
    exact, monkeypatch, splitting, several
):
    monkeypatch.setattr(exact, "fluent_tokens_max", 8)
    text = "Je suis étudiant, le chat voit la maison, le chat voit la maison."

    prepared = prepare(exact, text, source="fr", target="en", splitting=splitting)

    assert (len(prepared.parts) > 1) is several
    assert all(len(window.ids) <= 8 for window in prepared.windows) is several
    assert " ".join(part.piece.of(text) for part in prepared.parts) == text


@pytest.mark.parametrize(
    ("text", "prose"),
    [
        ('<div class="container"><span>Guten Morgen</span></div>', "Guten Morgen"),
        (
            '<a href="https://www.example.com/the/house/with/many/words">Hallo Welt</a>',
            "Hallo Welt",
        ),
        ("https://www.example.com/the/house/with/many/words Hallo Welt", "Hallo Welt"),
    ],
)
def test_neither_tags_nor_addresses_tell_a_language(exact, text, prose):
    prepared = prepare(exact, text, target="en")
    alone = prepare(exact, prose, target="en")

    assert prepared.source == "de"
    assert prepared.confidence > 0.9 * alone.confidence


def test_a_text_of_an_address_alone_is_still_in_some_language(exact):
    assert prepare(exact, "https://example.com/a", target="en").source in {"de", "en", "fr"}


HOSTILE = ["a", "é", "日", "🙂", " ", "\n", ". ", "<b>", "</b>", "-", "12", "ﷺ", "\u0301", "\u202e",
           "\x1f", "&amp;", "Mr. ", '"', "<", ">", "le chat "]  # fmt: skip


@given(
    text=st.lists(st.sampled_from(HOSTILE), max_size=200).map("".join),
    splitting=st.sampled_from(Splitting),
)
@settings(max_examples=40, deadline=None)
def test_a_text_whose_sentences_stay_as_they_are_stays_as_it_is(exact, text, splitting):
    prepared = prepare(exact, text, source="fr", target="en", splitting=splitting)

    assert all(len(window.ids) <= exact.tokens_max for window in prepared.windows)
    assert assemble(exact, prepared, [[] for _ in prepared.windows]).text == text


def test_sentences_have_the_same_places_while_the_text_grows(exact):
    prepared = prepare(exact, "Je suis étudiant. Le chat voit la maison.", target="de")
    written = exact.translate(prepared.windows, ["de"] * 2, BeamPlan(beams=1))
    assembly = Assembly(exact, prepared, alignment=False)

    growing = tuple(assembly.add(one) for one in written)

    assert growing == assemble(exact, prepared, written).sentences


def test_a_fingerprint_tells_precisions_apart(translating_directory):
    one, other = (
        Translator.load(translating_directory, precision=precision).fingerprint()
        for precision in (Precision.FP32, Precision.INT8)
    )

    assert one.differences(other) == ["weights_sha256", "numeric_class"]
    assert replace(one, numeric_class="int8", weights_sha256=other.weights_sha256) == other
