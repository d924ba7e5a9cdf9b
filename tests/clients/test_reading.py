"""Lines of files to documents."""

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyseme.cli.reading import BadRow, Row, Shape, rows


def read(text, format, **shape):
    data = text if isinstance(text, bytes) else text.encode()
    return list(rows(io.BytesIO(data), "f", format, Shape(**shape)))


def test_plain_lines_are_texts_with_the_same_ids_in_every_run():
    found = read("one\n\ntwo\r\n", "text")

    assert [(r.line, dict(r.document)) for r in found] == [
        (1, {"id": "f:1", "text": "one"}),
        (3, {"id": "f:3", "text": "two"}),
    ]


def test_jsonl_takes_metadata_or_else_all_other_fields():
    lines = '{"id": "a", "text": "b", "metadata": {"n": 1}}\n{"id": 7, "text": "b", "n": 2}\n'

    first, second = read(lines, "jsonl")

    assert first.document["metadata"] == {"n": 1}
    assert second.document["id"] == "7"
    assert second.document["metadata"] == {"n": 2}


def test_fields_are_chosen_by_name():
    line = '{"sku": "s1", "about": "red", "price": 3, "secret": true}'

    (row,) = read(line, "jsonl", id_field="sku", text_field="about", metadata_fields=("price",))

    assert row.document == {"id": "s1", "text": "red", "metadata": {"price": 3}}


def test_csv_has_numbers_booleans_quotes_and_line_breaks():
    text = '\ufeffid,text,price,zip,new\n1,"two\nlines, and ""quotes""",3.5,01234,true\n'

    (row,) = read(text, "csv")

    assert row.document["id"] == "1"
    assert row.document["text"] == 'two\nlines, and "quotes"'
    assert row.document["metadata"] == {"price": 3.5, "zip": "01234", "new": True}


@pytest.mark.parametrize(
    ("text", "format", "problem"),
    [
        ("{", "jsonl", "not JSON"),
        ("[1]", "jsonl", "not a JSON object"),
        ('{"id": "a"}', "jsonl", "has no 'text'"),
        ('{"text": 3}', "jsonl", "'text' is int"),
        ('{"text": "a", "metadata": [1]}', "jsonl", "'metadata' is list"),
        ('{"vector": ["x"]}', "jsonl", "vector"),
        (f'{{"text": "a", "n": {"9" * 5000}}}', "jsonl", "digits"),
        ('{"vector_base64": "!"}', "jsonl", "base64"),
        (b"\xff\n", "jsonl", "not UTF-8"),
        (b"\xff\n", "text", "not UTF-8"),
        ("id,text\n1\n", "csv", "1 cells"),
    ],
)
def test_a_bad_line_is_told_with_its_problem_and_the_next_is_read(text, format, problem):
    bad = read(text, format)[0]

    assert isinstance(bad, BadRow)
    assert problem in bad.problem


@pytest.mark.parametrize(
    ("bad", "line", "problem"),
    [
        (b"b,caf\xe9\n", 3, "not UTF-8 at byte 5"),
        (b'b,"two\ncaf\xe9\nlines"\n', 4, "not UTF-8 at byte 3"),
        (b'b,"quoted" badly\n', 3, "is not CSV"),
    ],
)
def test_csv_goes_on_behind_a_line_that_is_not_understood(bad, line, problem):
    first, told, last = read(b"id,text\na,one\n" + bad + b"c,three\n", "csv")

    assert (first.document["id"], last.document["id"]) == ("a", "c")
    assert (told.line, told.last) == (line, False)
    assert problem in told.problem


@pytest.mark.parametrize(
    ("text", "rows", "line"),
    [
        (b'id,text\na,one\nb,"never closed\nc,three\n', 1, 3),
        (b'id,text\nb,"closed by\nc,"another\nd,four\n', 0, 2),
        (b"id,t\xe9xt\na,one\n", 0, 1),
        (b"id,text\ra,one\r", 0, 1),
    ],
)
def test_csv_that_cannot_be_followed_ends_with_the_line_where_it_was_lost(text, rows, line):
    *good, lost = read(text, "csv")

    assert len(good) == rows
    assert (lost.line, lost.last) == (line, True)
    assert "nothing after it was read" in lost.problem


def test_a_csv_cell_may_be_as_long_as_a_text():
    (row,) = read("id,text\na," + "x" * 2**20, "csv")

    assert len(row.document["text"]) == 2**20


@pytest.mark.parametrize(
    "cell", ["NaN", "Infinity", "-Infinity", "1e400", "9007199254740993", "9" * 5000, "[" * 9999]
)
def test_a_csv_cell_that_no_double_holds_stays_a_string(cell):
    (row,) = read(f"text,n\na,{cell}\n", "csv")

    assert row.document["metadata"] == {"n": cell}


def test_bad_lines_do_not_hide_good_ones():
    found = read('{\n{"id": "a", "text": "b"}\n', "jsonl")

    assert [(type(r), r.line) for r in found] == [(BadRow, 1), (Row, 2)]


@given(st.lists(st.dictionaries(st.text(), st.text(min_size=1)), max_size=5))
def test_any_json_line_becomes_a_row_or_a_told_problem(records):
    text = "".join(json.dumps(r) + "\n" for r in records)

    found = read(text, "jsonl")

    assert [r.line for r in found] == list(range(1, len(records) + 1))


def test_a_vector_comes_as_numbers_or_in_base64():
    lines = '{"id": "a", "vector": [1, 0.5]}\n{"id": "b", "vector_base64": "AACAPwAAAD8="}\n'

    vectors = [r.document["vector"] for r in read(lines, "jsonl")]

    np.testing.assert_array_equal(vectors, [[1, 0.5], [1, 0.5]])
