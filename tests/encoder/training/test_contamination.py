import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder.training.cleaning import clean
from encoder.training.contamination import Filter, Ngrams, evaluation_lines, words_of
from encoder.training.corpus import CorpusInvalid, find_sources
from encoder.training.recipe import Aligned, Evaluation, Recipe, Source

WORDS = st.lists(st.sampled_from(["a", "b", "c", "d", "e", "f"]), max_size=12)
FILLER = [f"This is line number {i} of a text that nobody evaluates on." for i in range(120)]


@given(forbidden=st.lists(WORDS, max_size=4), lines=st.lists(WORDS, max_size=6))
def test_a_line_is_hit_exactly_if_it_shares_a_run_of_words(forbidden, lines):
    ngrams = Ngrams(3)
    for words in forbidden:
        ngrams.add(words)
    ngrams.freeze()

    def runs(words):
        return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}

    bad = set().union(*(runs(words) for words in forbidden))
    assert ngrams.hits(lines) == [bool(runs(line) & bad) for line in lines]


def test_a_run_does_not_reach_from_one_line_into_the_next():
    guard = Filter([("one two three four five six seven eight", 8)])

    assert guard.hits(["one two three four", "five six seven eight"]) == [False, False]


@pytest.mark.parametrize(
    "line",
    [
        "A man, in a BLUE shirt is standing.",
        "a man in a blue shirt is standing",
        "  „A man in a blue shirt is standing“ ...",
        "Ａ man in a blue shirt is standing",  # a full-width A
    ],
)
def test_case_punctuation_and_compatibility_forms_do_not_hide_a_leak(line):
    guard = Filter([("A man in a blue shirt is standing.", 0)])

    assert guard.hits([line, "A man in a red shirt is standing."]) == [True, False]


def test_words_are_unicode_words_without_case():
    assert words_of("Straße, l'été — ﬁn!") == ["strasse", "l", "été", "fin"]


def test_a_very_short_line_is_a_leak_only_beside_its_translation():
    guard = Filter([("Thank you.", 0)])

    assert guard.hits(["Thank you!"]) == [False]
    assert guard.hits(["Thank you!"], words_min=1) == [True]


@pytest.mark.parametrize(
    ("rule", "content", "texts"),
    [
        ({}, "one\ntwo", ["one", "two"]),
        ({"format": "tsv", "columns": (0, 1)}, "a\tb\t4.5", ["a", "b"]),
        ({"format": "tsv"}, "a\tb\tc", ["a", "b", "c"]),
        ({"format": "wsd"}, "4\tan apple a day", ["an apple a day"]),
        (
            {"format": "jsonl"},
            json.dumps({"_id": "1", "title": "T", "text": "body"}),
            ["T", "body"],
        ),
    ],
)
def test_each_format_of_evaluation_file_gives_its_texts(tmp_path, rule, content, texts):
    (tmp_path / "test").write_text(content)

    rules = [Evaluation(paths=("te*",), ngram_words=13, **rule)]

    assert list(evaluation_lines(tmp_path, rules)) == [(text, 13) for text in texts]


def test_a_rule_that_finds_no_file_is_an_error_and_not_a_filter_that_does_nothing(tmp_path):
    with pytest.raises(CorpusInvalid, match=r"sts/\*\.tsv matches no file"):
        list(evaluation_lines(tmp_path, [Evaluation(paths=("sts/*.tsv",))]))


def cleaned(tmp_path, recipe):
    folder, files = clean(tmp_path, find_sources(tmp_path, recipe), tmp_path / "cache")
    return {
        file.source: (folder / file.name).read_text() + (folder / file.held_out_name).read_text()
        for file in files
    }


def test_tatoeba_test_pairs_leave_the_training_pairs_by_either_side(tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(FILLER))
    (tmp_path / "train.tsv").write_text(
        "Tom is here.\tTom ist hier.\nHe has come.\tTom ist da.\nTom left.\tTom ging.\n"
    )
    (tmp_path / "laser.tsv").write_text("Tom ist da!\tTom is here!\n")
    recipe = Recipe(
        sources=(Source(path="text.txt"),),
        pairs=(Source(path="train.tsv"),),
        evaluation=(Evaluation(paths=("laser.tsv",), format="tsv"),),
    )

    assert cleaned(tmp_path, recipe)["train.tsv"] == "Tom left.\tTom ging.\n"


def test_captions_leave_aligned_files_by_eight_words_in_a_row_and_stay_aligned(tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(FILLER))
    (tmp_path / "train.en").write_text(
        "Today a man in a blue shirt stands on a ladder\nTwo dogs run.\n"
    )
    (tmp_path / "train.de").write_text("Ein Mann auf der Leiter heute da\nZwei Hunde rennen.\n")
    (tmp_path / "val.en").write_text("A man in a blue shirt stands on a ladder.\n")
    recipe = Recipe(
        sources=(Source(path="text.txt"),),
        aligned=(Aligned(paths=("train.en", "train.de")),),
        evaluation=(Evaluation(paths=("val.*",), ngram_words=8),),
    )

    assert cleaned(tmp_path, recipe)["train.en"] == "Two dogs run.\tZwei Hunde rennen.\n"


def test_word_sense_sentences_leave_the_text_by_thirteen_words_in_a_row(tmp_path):
    sentence = "my cam is an app for apple 's ios mobile operating system developed by hefei tech ."
    leak = (
        "MyCam aside, my Cam is an app for Apple's iOS mobile operating system developed by Hefei."
    )
    (tmp_path / "text.txt").write_text("\n".join([*FILLER, leak, "My cam is an app for Apple."]))
    (tmp_path / "test.data.txt").write_text(f"6\t{sentence}\n")
    recipe = Recipe(
        sources=(Source(path="text.txt"),),
        evaluation=(Evaluation(paths=("test.data.txt",), format="wsd", ngram_words=13),),
    )

    text = cleaned(tmp_path, recipe)["text.txt"]

    assert leak not in text
    assert "My cam is an app for Apple." in text


def test_passages_of_retrieval_corpora_and_their_questions_leave_the_text(tmp_path):
    passage = "The boundary layer of a flat plate in a shear flow of an incompressible fluid is."
    (tmp_path / "text.txt").write_text("\n".join([*FILLER, f"Note: {passage}", "What is lift?"]))
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"text": passage}) + "\n")
    (tmp_path / "queries.jsonl").write_text(json.dumps({"text": "what is lift"}) + "\n")
    recipe = Recipe(
        sources=(Source(path="text.txt"),),
        evaluation=(Evaluation(paths=("*.jsonl",), format="jsonl", ngram_words=13),),
    )

    kept = cleaned(tmp_path, recipe)["text.txt"].split("\n")

    assert {line for line in kept if line} == set(FILLER)
