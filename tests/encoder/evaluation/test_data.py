import lzma

import numpy as np
import pytest

from encoder.evaluation.data import (
    DataMalformed,
    DataMissing,
    read_graded_pairs,
    read_lines,
    read_retrieval_set,
    read_sense_words,
    read_translations,
    retrieval_folders,
    word_span,
)


def write(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content, "utf-8")
    return file


def test_a_compressed_file_is_read_in_place_of_a_plain_one(tmp_path):
    (tmp_path / "a.tsv.xz").write_bytes(lzma.compress("Größe\tsize\n".encode()))

    assert read_translations(tmp_path / "a.tsv") == (["Größe"], ["size"])


def test_a_missing_file_is_named_with_what_to_do(tmp_path):
    with pytest.raises(DataMissing, match=r"stsb-en-test\.tsv.*\.xz.*missing.*--data.*--tasks"):
        read_graded_pairs(tmp_path / "sts" / "stsb-en-test.tsv")


def test_lines_end_at_line_feeds_alone(tmp_path):
    assert read_lines(write(tmp_path / "a", "one\u2028still one\ntwo\n")) == [
        "one\u2028still one",
        "two",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [("a\tb\n", "line 1: 2 columns; 3"), ("a\tb\tgood\n", "could not convert")],
)
def test_a_malformed_line_is_named(tmp_path, content, message):
    with pytest.raises(DataMalformed, match=message):
        read_graded_pairs(write(tmp_path / "a.tsv", content))


def test_bytes_that_are_not_utf8_are_refused(tmp_path):
    (tmp_path / "a.tsv").write_bytes(b"\xff\tb\t1\n")

    with pytest.raises(DataMalformed, match="utf-8"):
        read_graded_pairs(tmp_path / "a.tsv")


def test_a_document_is_its_title_and_text_and_unjudged_queries_are_left_out(tmp_path):
    write(
        tmp_path / "corpus.jsonl",
        '{"_id": "d1", "title": "Apple", "text": "A fruit."}\n{"_id": "d2", "text": "Stock."}\n',
    )
    write(
        tmp_path / "queries.jsonl",
        '{"_id": "q1", "text": "fruit?"}\n{"_id": "q2", "text": "?"}\n{"_id": "q3", "text": "!"}\n',
    )
    write(tmp_path / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t2\nq2\td2\t0\n")

    read = read_retrieval_set(tmp_path)

    assert read.documents == {"d1": "Apple A fruit.", "d2": "Stock."}
    assert read.queries == {"q1": "fruit?"}
    assert read.relevance == {"q1": {"d1": 2}}


def test_a_corpus_line_without_an_id_is_named(tmp_path):
    write(tmp_path / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore\nq\td\t1\n")
    write(tmp_path / "corpus.jsonl", '{"text": "lost"}\n')

    with pytest.raises(DataMalformed, match=r"corpus\.jsonl, line 1: an object with _id"):
        read_retrieval_set(tmp_path)


def test_a_folder_without_retrieval_sets_is_refused(tmp_path):
    with pytest.raises(DataMissing, match="retrieval"):
        retrieval_folders(tmp_path)


def test_a_word_of_coarsewsd_is_read_with_its_place_and_sense(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / "apple" / f"{split}.data.txt", "1\tthe apple fell\n0\tapple sells\n")
        write(tmp_path / "apple" / f"{split}.gold.txt", "1\n0\n")

    (word,) = read_sense_words(tmp_path)

    assert word.word == "apple"
    assert word.train.spans == [(4, 9), (0, 5)]
    np.testing.assert_array_equal(word.test.senses, [1, 0])


@pytest.mark.parametrize(
    ("data", "gold", "message"),
    [("9\tthe apple\n", "1\n", "word 9 of a sentence of 2"), ("1\ta b\n", "1\n0\n", "as many")],
)
def test_a_word_that_does_not_add_up_is_refused(tmp_path, data, gold, message):
    write(tmp_path / "apple" / "train.data.txt", data)
    write(tmp_path / "apple" / "train.gold.txt", gold)

    with pytest.raises(DataMalformed, match=message):
        read_sense_words(tmp_path)


def test_a_words_place_counts_code_points_and_every_space():
    sentence = "un  été rouge"  # two spaces: an empty word between them

    start, end = word_span(sentence, 2)

    assert sentence[start:end] == "été"
