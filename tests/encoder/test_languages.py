"""Languages told apart."""

import pytest

from encoder.languages import detect

EVERY = ("de", "en", "fr")


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Je suis étudiant", "fr"),
        ("Ich bin gestern nach Hause gegangen", "de"),
        ("The weather is nice today", "en"),
    ],
)
def test_the_language_of_a_sentence_is_found(text, language):
    found = detect(text, EVERY)

    assert found.language == language
    assert found.confidence > 0.9
    assert found.foreign == ""


@pytest.mark.parametrize(
    ("text", "language"),
    [("Привет мир, как дела?", "ru"), ("Hola, me llamo Juan y soy estudiante", "es")],
)
def test_a_language_that_is_none_of_those_is_named(text, language):
    assert detect(text, EVERY).foreign == language


@pytest.mark.parametrize("text", ["", "OK", "12:30", "Ciao bella", "🙂"])
def test_what_could_be_anything_is_not_foreign(text):
    found = detect(text, EVERY)

    assert found.foreign == ""
    assert found.language in EVERY
    assert 0 <= found.confidence <= 1


def test_a_language_that_is_unlikely_to_be_meant_must_be_sure():
    assert detect("Haus", EVERY).language == "de"
    assert detect("Haus", EVERY, unlikely="de").language != "de"
    assert detect("Das ist ein schönes Haus", EVERY, unlikely="de").language == "de"


def test_a_megabyte_is_no_slower_than_its_beginning():
    assert detect("Le chat voit la maison. " * 50_000, EVERY).language == "fr"
