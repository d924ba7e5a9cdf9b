import lzma

import pytest

from encoder.training.corpus import CorpusInvalid
from encoder.training.uses import TooFewUses, find_uses, read_documents, sentences, words_of

NOUNS = ["anchor", "basket", "candle", "dragon", "engine", "feather", "garden", "hammer", "island"]


def document(number, nouns=NOUNS):
    """Two sentences on each noun, and no two the same."""
    lines = [
        f"In story {number} the {noun} was there. Later the old {noun.title()} of {number} broke."
        for noun in nouns
    ]
    return "\n".join(lines)


@pytest.fixture
def text(tmp_path):
    # Documents without any noun, so that no noun is in a fifth of them.
    filler = [
        f"This was the text with number {n} in it. And the end was number {n} with this."
        for n in range(90)
    ]
    content = "\n\n".join([*(document(n) for n in range(14)), *filler])
    (tmp_path / "a.txt").write_text(content, "utf-8")
    return tmp_path


def test_a_word_comes_in_pairs_each_from_one_document(text):
    found = {uses.word: uses for uses in find_uses(text, words_max=50, pairs_max=13, seed=0)}

    assert set(NOUNS) <= set(found)
    uses = found["garden"]
    assert len(uses.sentences) == len(uses.spans) == 26
    for one, other in zip(uses.sentences[::2], uses.sentences[1::2], strict=True):
        number = one.split()[2]
        assert f"of {number} broke" in other  # of the same document
    for sentence, (start, end) in zip(uses.sentences, uses.spans, strict=True):
        assert sentence[start:end].casefold() == "garden"


def test_the_same_seed_finds_the_same_uses_and_another_one_others(text):
    def chosen(seed):
        return find_uses(text, words_max=4, pairs_max=12, seed=seed)

    assert chosen(0) == chosen(0)
    assert [uses.word for uses in chosen(0)] != [uses.word for uses in chosen(3)]
    assert len(chosen(0)) == 4


def test_words_of_most_documents_are_grammar_and_left_out(text):
    words = {uses.word for uses in find_uses(text, words_max=99, pairs_max=12, seed=0)}

    assert not {"the", "was", "this", "number"} & words


def test_sentences_are_cut_at_their_ends_and_are_of_ordinary_length():
    paragraph = (
        "Short one. This sentence here has exactly seven words. “Is this one a sentence, too, "
        "perhaps?” Yes, 3.5 per cent of it was not cut in two. " + "Word " * 60 + "end."
    )

    assert sentences(paragraph) == [
        "This sentence here has exactly seven words.",
        "“Is this one a sentence, too, perhaps?”",
        "Yes, 3.5 per cent of it was not cut in two.",
    ]


def test_words_are_case_folded_and_not_tiny():
    assert words_of("Die Straße, the ÄPFEL: of 12 apples") == {
        "die", "strasse", "the", "äpfel", "apples",
    }  # fmt: skip


def test_a_sentence_twice_is_no_second_use(tmp_path):
    (tmp_path / "a.txt").write_text("The same old anchor was there again.\n" * 3)

    assert list(read_documents(tmp_path)) == [["The same old anchor was there again."]]


def test_compressed_files_are_read_too(text, tmp_path_factory):
    other = tmp_path_factory.mktemp("xz")
    (other / "a.txt.xz").write_bytes(lzma.compress((text / "a.txt").read_bytes()))

    choose = {"words_max": 9, "pairs_max": 12, "seed": 0}
    assert find_uses(other, **choose) == find_uses(text, **choose)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, CorpusInvalid, "has no text"),
        (b"", TooFewUses, "0 words come twice"),
        (b"One line of text that is hardly enough.", TooFewUses, "give more text"),
        (b"caf\xe9 " * 20, CorpusInvalid, "is not UTF-8"),
    ],
)
def test_text_that_teaches_nothing_is_refused(tmp_path, content, error, message):
    if content is not None:
        (tmp_path / "a.txt").write_bytes(content)

    with pytest.raises(error, match=message):
        find_uses(tmp_path, words_max=9, pairs_max=12, seed=0)
