"""The evaluation data on disk: read whole, checked, as values. A `.xz` beside a name will do.

sts/stsb/stsb-{en,de,fr}-test.tsv               sentence, sentence, score 0 to 5
parallel/tatoeba-laser-v1/test.{deu,fra}-eng.tsv  sentence, its translation
parallel/ud-pud/test.en-de-fr.tsv               sentence, its two translations
contrastive/multi30k-captions/test_2016.5captions.{en,de}.tsv  five captions of one picture
retrieval/SET/{corpus,queries}.jsonl, qrels/test.tsv  BEIR's layout
wsd/coarsewsd20/WORD/{train,test}.{data,gold}.txt  CoarseWSD-20 as published
lm-eval/wikitext-2/test.txt                     WikiText-2 as published
"""

import json
import lzma
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_GRADED_COLUMNS = 3


class DataMissing(FileNotFoundError):
    """A file of the evaluation data is not there."""

    def __init__(self, file: Path) -> None:
        super().__init__(
            f"{file} (or {file.name}.xz) is missing: --data takes the folder that holds sts/, "
            f"parallel/, contrastive/, retrieval/, wsd/ and lm-eval/; or leave its task out "
            f"with --tasks"
        )
        self.file = file


class DataMalformed(ValueError):
    """A file of the evaluation data is not in its layout."""

    def __init__(self, file: Path, line: int, problem: str) -> None:
        super().__init__(f"{file}, line {line}: {problem}")
        self.file = file
        self.line = line


@dataclass(frozen=True, slots=True)
class GradedPairs:
    """Pairs of sentences with how alike people found them."""

    first: list[str]
    second: list[str]
    grades: NDArray[np.float64]  # (pairs,)


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """Documents, queries that have a relevant one, and the grades of relevance."""

    name: str
    documents: dict[str, str]  # id to title and text
    queries: dict[str, str]
    relevance: Mapping[str, Mapping[str, int]]  # query id to document id to grade


@dataclass(frozen=True, slots=True)
class LabelledSentences:
    """Sentences around one word, with the word's place and its sense in each."""

    sentences: list[str]
    spans: list[tuple[int, int]]  # code points, half open
    senses: NDArray[np.int64]  # (sentences,)


@dataclass(frozen=True, slots=True)
class SenseWord:
    """A word of CoarseWSD-20."""

    word: str
    train: LabelledSentences
    test: LabelledSentences


def present(file: Path) -> bool:
    """Whether `file` is there, compressed or not."""
    return file.is_file() or _compressed(file).is_file()


def require(file: Path) -> Path:
    """`file`, if it is there, compressed or not. Raises DataMissing."""
    if not present(file):
        raise DataMissing(file)
    return file


def read_lines(file: Path) -> list[str]:
    """The lines of a UTF-8 file, or of the `.xz` beside it. Raises DataMissing, DataMalformed."""
    try:
        if file.is_file():
            text = file.read_text("utf-8")
        elif _compressed(file).is_file():
            text = lzma.decompress(_compressed(file).read_bytes()).decode("utf-8")
        else:
            raise DataMissing(file)
    except (UnicodeDecodeError, lzma.LZMAError) as error:
        raise DataMalformed(file, 0, str(error)) from None
    return text.removesuffix("\n").split("\n")  # not splitlines: U+2028 is part of a sentence


def read_graded_pairs(file: Path) -> GradedPairs:
    """Read `sentence TAB sentence TAB grade`. Raises DataMissing, DataMalformed."""
    rows = [_columns(file, number, line, 3) for number, line in _numbered(file)]
    try:
        grades = np.array([float(row[2]) for row in rows])
    except ValueError as error:
        raise DataMalformed(file, 0, str(error)) from None
    return GradedPairs([row[0] for row in rows], [row[1] for row in rows], grades)


def read_translations(file: Path) -> tuple[list[str], list[str]]:
    """Read `sentence TAB translation`. Raises DataMissing, DataMalformed."""
    sentences, translated = read_columns(file, 2)
    return sentences, translated


def read_columns(file: Path, count: int) -> list[list[str]]:
    """Read `text TAB text ...`: the texts of each column. Raises DataMissing, DataMalformed."""
    rows = [_columns(file, number, line, count) for number, line in _numbered(file)]
    return [list(column) for column in zip(*rows, strict=True)]


def retrieval_folders(data: Path) -> list[Path]:
    """The folders of the retrieval sets, in order. Raises DataMissing if there is none."""
    folders = sorted(path.parents[1] for path in (data / "retrieval").glob("*/qrels/test.tsv"))
    if not folders:
        raise DataMissing(data / "retrieval" / "SET" / "qrels" / "test.tsv")
    return folders


def read_retrieval_set(folder: Path) -> RetrievalSet:
    """Read BEIR's layout; queries without a relevant document are left out, as BEIR does.

    A document's text is its title, a space and its text. Raises DataMissing, DataMalformed.
    """
    relevance: dict[str, dict[str, int]] = {}
    judgements = folder / "qrels" / "test.tsv"
    for number, line in _numbered(judgements)[1:]:  # the first line names the columns
        query, document, grade = _columns(judgements, number, line, _GRADED_COLUMNS)
        relevance.setdefault(query, {})[document] = int(grade)
    judged = {query: grades for query, grades in relevance.items() if max(grades.values()) > 0}
    documents = {
        row["_id"]: f"{row.get('title', '')} {row['text']}".strip()
        for row in _json_rows(folder / "corpus.jsonl")
    }
    queries = {row["_id"]: row["text"] for row in _json_rows(folder / "queries.jsonl")}
    return RetrievalSet(
        name=folder.name,
        documents=documents,
        queries={id: text for id, text in queries.items() if id in judged},
        relevance=judged,
    )


def read_sense_words(folder: Path) -> list[SenseWord]:
    """Every word of a CoarseWSD-20 folder, in order. Raises DataMissing, DataMalformed."""
    return [
        SenseWord(word.name, _read_labelled(word, "train"), _read_labelled(word, "test"))
        for word in sense_folders(folder)
    ]


def sense_folders(folder: Path) -> list[Path]:
    """The folders of CoarseWSD-20's words, in order. Raises DataMissing if there is none."""
    words = sorted(path.parent for path in folder.glob("*/train.data.txt"))
    if not words:
        raise DataMissing(folder / "WORD" / "train.data.txt")
    return words


def _read_labelled(folder: Path, split: str) -> LabelledSentences:
    file, gold = folder / f"{split}.data.txt", folder / f"{split}.gold.txt"
    senses = [int(line) for line in read_lines(gold)]
    sentences, spans = [], []
    for number, line in _numbered(file):
        position, sentence = _columns(file, number, line, 2)
        sentences.append(sentence)
        try:
            spans.append(word_span(sentence, int(position)))
        except ValueError as error:
            raise DataMalformed(file, number, str(error)) from None
    if len(senses) != len(sentences):
        raise DataMalformed(gold, len(senses), f"{len(sentences)} sentences need as many senses")
    return LabelledSentences(sentences, spans, np.array(senses, dtype=np.int64))


def word_span(sentence: str, position: int) -> tuple[int, int]:
    """Where the `position`-th (from 0) word of a space-separated sentence stands.

    Raises ValueError if the sentence has fewer words.
    """
    words = sentence.split(" ")
    if not 0 <= position < len(words):
        raise ValueError(f"word {position} of a sentence of {len(words)} words")
    start = sum(len(word) + 1 for word in words[:position])
    return start, start + len(words[position])


def _compressed(file: Path) -> Path:
    return file.with_name(file.name + ".xz")


def _numbered(file: Path) -> list[tuple[int, str]]:
    return list(enumerate(read_lines(file), start=1))


def _columns(file: Path, number: int, line: str, expected: int) -> list[str]:
    columns = line.split("\t")
    if len(columns) != expected:
        raise DataMalformed(file, number, f"{len(columns)} columns; {expected} are expected")
    return columns


def _json_rows(file: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in _numbered(file):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataMalformed(file, number, f"not JSON: {error}") from None
        if not isinstance(row, dict) or not {"_id", "text"} <= row.keys():
            raise DataMalformed(file, number, "an object with _id and text is expected")
        rows.append(row)
    return rows
