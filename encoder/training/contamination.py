"""Keeps the sentences of evaluation sets out of the training text.

Two rules (the filters of GPT-3's appendix C, on words instead of bytes): a line goes if, after
normalisation, it equals a line of an evaluation set, or if it shares n words in a row with one.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoder.training.corpus import CorpusInvalid, read_lines
from encoder.training.recipe import Evaluation

WORD = re.compile(r"\w+")
EXACT_WORDS_MIN = 3
TABLE_BITS = 24  # of a first, coarse table of hashes: 2 MB that answer nearly every question
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so multiplying loses nothing


def words_of(text: str) -> list[str]:
    """The words that decide equality: no case, no punctuation, no compatibility forms."""
    return WORD.findall(unicodedata.normalize("NFKC", text).casefold())


class Ngrams:
    """The runs of `size` words that occur in evaluation sets, as hashes of 64 bits.

    A chance hit has odds of about (training words x evaluation runs) / 2^64: one in 10^5 for
    10^8 words and 10^6 runs, and costs one line.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._ids: dict[str, int] = {}
        self._parts: list[NDArray[np.uint64]] = []
        self._hashes: NDArray[np.uint64] = np.empty(0, dtype=np.uint64)
        self._coarse: NDArray[np.bool_] = np.zeros(1 << TABLE_BITS, dtype=np.bool_)

    def add(self, words: Sequence[str]) -> None:
        """Forbid the runs of these words."""
        ids = [self._ids.setdefault(word, len(self._ids) + 1) for word in words]
        self._parts.append(self._runs(np.array(ids, dtype=np.uint64)))

    def freeze(self) -> None:
        """Make the table that `hit` reads; to be called after the last `add`."""
        parts = self._parts or [self._hashes]
        self._hashes = np.unique(np.concatenate(parts))
        self._parts = []
        self._coarse[_coarse(self._hashes)] = True

    def hits(self, lines: Sequence[Sequence[str]]) -> list[bool]:
        """For each line, given as its words, whether it holds a forbidden run."""
        lengths = np.array([len(line) for line in lines])
        get = self._ids.get
        ids = np.array([get(word, 0) for line in lines for word in line], dtype=np.uint64)
        runs = self._runs(ids)
        if not len(runs):
            return [False] * len(lines)
        line_of = np.repeat(np.arange(len(lines)), lengths)
        whole = line_of[: len(runs)] == line_of[self.size - 1 :]  # a run stays in its line
        near = np.flatnonzero(whole & self._coarse[_coarse(runs)])
        places = np.searchsorted(self._hashes, runs[near])
        places[places == len(self._hashes)] = 0
        found = near[self._hashes[places] == runs[near]] if len(self._hashes) else near[:0]
        bad = set(line_of[found].tolist())
        return [index in bad for index in range(len(lines))]

    def _runs(self, ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """A hash of every run of `size` ids (Horner's rule modulo 2^64, each id scattered)."""
        count = max(0, len(ids) - self.size + 1)
        total = np.zeros(count, dtype=np.uint64)
        scattered = ids * MULTIPLIER
        scattered ^= scattered >> np.uint64(29)
        for offset in range(self.size):
            total = total * np.uint64(0xD1342543DE82EF95) + scattered[offset : offset + count]
        return total ^ (total >> np.uint64(31))


def _coarse(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    return (hashes >> np.uint64(64 - TABLE_BITS)).astype(np.int64)


class Filter:
    """Tells which lines of the training text belong to evaluation sets."""

    def __init__(self, rules: Iterable[tuple[str, int]]) -> None:
        """rules: evaluation lines, each with its n (0: only the whole line counts)."""
        self._exact: set[str] = set()
        self._ngrams: dict[int, Ngrams] = {}
        for line, size in rules:
            words = words_of(line)
            if words:
                self._exact.add(" ".join(words))
            if size:
                self._ngrams.setdefault(size, Ngrams(size)).add(words)
        for ngrams in self._ngrams.values():
            ngrams.freeze()

    def hits(self, lines: Sequence[str], words_min: int = EXACT_WORDS_MIN) -> list[bool]:
        """For each line, whether it must not be trained on.

        words_min: a line with fewer words is never found equal to an evaluation line: "Thank
        you." in a novel is no leak, beside its translation it is
        """
        if not self._exact and not self._ngrams:
            return [False] * len(lines)
        words = [words_of(line) for line in lines]
        bad = [len(line) >= words_min and " ".join(line) in self._exact for line in words]
        for ngrams in self._ngrams.values():
            bad = [a or b for a, b in zip(bad, ngrams.hits(words), strict=True)]
        return bad


def evaluation_lines(root: Path, rules: Sequence[Evaluation]) -> Iterator[tuple[str, int]]:
    """The lines of the evaluation sets, each with the n of its rule.

    Raises CorpusInvalid for a glob that finds nothing: a filter that silently does nothing is
    worse than none.
    """
    for rule in rules:
        for path in evaluation_files(root, rule):
            for line in read_lines(path):
                for text in _texts(path, line, rule):
                    yield text, rule.ngram_words


def evaluation_files(root: Path, rule: Evaluation) -> list[Path]:
    """The files a rule names. Raises CorpusInvalid for a glob without any."""
    files: list[Path] = []
    for pattern in rule.paths:
        found = sorted(root.glob(pattern))
        if not found:
            raise CorpusInvalid(f"evaluation: {pattern} matches no file in {root}")
        files += found
    return files


def _texts(path: Path, line: str, rule: Evaluation) -> list[str]:
    match rule.format:
        case "lines":
            return [line]
        case "tsv":
            cells = line.split("\t")
            columns = range(len(cells)) if rule.columns is None else rule.columns
            return [cells[column] for column in columns if column < len(cells)]
        case "wsd":  # the index of the word, a tab, the sentence
            return [line.partition("\t")[2]]
        case "jsonl":
            return _json_texts(path, line)


def _json_texts(path: Path, line: str) -> list[str]:
    if not line.strip():
        return []
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise CorpusInvalid(f"{path}: a line is not JSON: {error}") from None
    return [str(record[key]) for key in ("title", "text") if record.get(key)]
