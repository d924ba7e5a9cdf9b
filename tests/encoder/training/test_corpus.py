import lzma
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder.training.corpus import (
    LINE_CHARACTERS_MAX,
    PASSAGE_LINES,
    CorpusInvalid,
    find_sources,
    passages,
    pieces,
    read_lines,
    read_pairs,
)
from encoder.training.recipe import Aligned, Recipe, Source

LINES = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=8))


@given(lines=LINES)
def test_passages_lose_no_line_and_cross_no_blank_one(lines):
    found = list(passages(lines))

    assert [line for p in found for line in p.lines] == [s.strip() for s in lines if s.strip()]
    assert all(0 < len(p.lines) <= PASSAGE_LINES for p in found)
    documents = sum(
        bool(line.strip()) and not before.strip()
        for before, line in zip(["", *lines], lines, strict=False)
    )
    assert sum(p.ends for p in found) == documents


@given(length=st.integers(0, 3 * LINE_CHARACTERS_MAX), word=st.integers(1, 50))
def test_a_long_line_is_cut_at_spaces_and_loses_no_word(length, word):
    line = ("x" * word + " ") * (length // (word + 1))

    cut = list(pieces(line))

    assert " ".join(cut).split() == line.split()
    assert all(len(piece) <= LINE_CHARACTERS_MAX for piece in cut)


def test_lines_are_in_nfc_whatever_the_file_holds(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffCafe\u0301\r\nété\n".encode())

    assert list(read_lines(tmp_path / "a.txt")) == ["Café", "été"]
    assert all(unicodedata.is_normalized("NFC", line) for line in read_lines(tmp_path / "a.txt"))


def test_a_compressed_file_reads_as_the_plain_one(tmp_path):
    (tmp_path / "a.txt.xz").write_bytes(lzma.compress(b"eins\nzwei\n"))

    assert list(read_lines(tmp_path / "a.txt.xz")) == ["eins", "zwei"]


def test_a_file_that_is_not_utf_8_is_named_with_the_place_of_the_byte(tmp_path):
    file = tmp_path / "latin.txt"
    file.write_bytes(b"erste Zeile\n" + "Käse\n".encode("latin-1"))

    with pytest.raises(CorpusInvalid, match=r"latin\.txt is not UTF-8: byte 13 is 0xe4"):
        list(read_lines(file))


@pytest.mark.parametrize("content", [b"plain text", lzma.compress(b"text" * 999)[:-20]])
def test_a_damaged_archive_is_named(tmp_path, content):
    (tmp_path / "a.txt.xz").write_bytes(content)

    with pytest.raises(CorpusInvalid, match=r"a\.txt\.xz is not an xz file"):
        list(read_lines(tmp_path / "a.txt.xz"))


def test_pairs_whose_lengths_cannot_be_a_translation_are_left_out(tmp_path):
    (tmp_path / "p.tsv").write_text("Hello there\tGuten Tag\nHi\t" + "lang " * 40 + "\n\tleer\n")

    assert list(read_pairs(tmp_path, Source(path="p.tsv"))) == [("Hello there", "Guten Tag")]


def test_a_line_without_a_tab_is_named_by_file_and_number(tmp_path):
    (tmp_path / "p.tsv").write_text("a\tb\nonly one\n")

    with pytest.raises(CorpusInvalid, match=r"p\.tsv, line 2: 1 columns"):
        list(read_pairs(tmp_path, Source(path="p.tsv")))


def test_aligned_files_of_unequal_length_are_refused(tmp_path):
    (tmp_path / "a.en").write_text("one\ntwo\n")
    (tmp_path / "a.de").write_text("eins\n")

    with pytest.raises(CorpusInvalid, match="unequal"):
        list(read_pairs(tmp_path, Aligned(paths=("a.en", "a.de"))))


def test_without_sources_every_text_below_the_folder_is_one(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.txt", "sub/a.txt.xz", "pairs.tsv", "ignored.md"):
        (tmp_path / name).write_bytes(b"x")

    recipe = find_sources(tmp_path, Recipe())

    assert [source.path for source in recipe.sources] == ["b.txt", "sub/a.txt.xz"]
    assert [source.path for source in recipe.pairs] == ["pairs.tsv"]


def test_a_folder_without_text_is_refused_with_what_to_put_there(tmp_path):
    with pytest.raises(CorpusInvalid, match=r"no text: put files there that end in \.txt"):
        find_sources(tmp_path, Recipe())
    with pytest.raises(CorpusInvalid, match="is not a folder"):
        find_sources(tmp_path / "none", Recipe())


def test_a_source_that_is_missing_is_named(tmp_path):
    with pytest.raises(CorpusInvalid, match=r"en/books\.txt"):
        find_sources(tmp_path, Recipe(sources=(Source(path="en/books.txt"),)))
