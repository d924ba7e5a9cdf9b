"""Uses of words in plain text, in pairs from one document: what a whitening is fitted on.

Nobody has labelled them. But a word that comes twice in a document nearly always means the same
there (Gale, Church and Yarowsky 1992), and in another document perhaps not; so vectors that tell
two uses in one document from uses in others know something of senses, and their choice needs no
licensed sense inventory.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import regex

from encoder.training.corpus import TEXT_SUFFIXES, CorpusInvalid, passages, read_lines

CHARACTERS_MAX = 24_000_000  # of text held in memory, shared evenly among the files
SENTENCE_WORDS_MIN, SENTENCE_WORDS_MAX = 6, 40
WORD_LETTERS_MIN = 3
PAIRS_MIN = 12  # documents that use a word twice; words with fewer say too little
DOCUMENTS_SHARE_MAX = 0.2  # words in a larger share of the documents are grammar, not meaning
WORDS_MIN = 8

_SENTENCE_END = regex.compile(r"(?<=[.!?…]['\"”’)]?)\s+(?=[\p{Lu}\p{N}\"“‘(])")
_WORD = regex.compile(r"\p{L}+")


class TooFewUses(CorpusInvalid):
    """The text is too short, or its documents too alike, to learn how words vary."""


@dataclass(frozen=True, slots=True)
class Uses:
    """One word in pairs of sentences, each pair from a document of its own.

    sentences: 2 * pairs, mates side by side
    spans:     the word's place in each, in code points
    """

    word: str
    sentences: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]


Document = list[str]  # its sentences


def find_uses(text: Path, *, words_max: int, pairs_max: int, seed: int) -> list[Uses]:
    """Up to `words_max` words of the text below `text`, each in PAIRS_MIN to `pairs_max` pairs.

    The same text and seed give the same uses. Raises CorpusInvalid for a folder without text, for
    what is not UTF-8, and TooFewUses.
    """
    documents = list(read_documents(text))
    random = np.random.default_rng(seed)
    twice = _twice(documents)
    words = sorted(word for word, places in twice.items() if len(places) >= PAIRS_MIN)
    if len(words) < WORDS_MIN:
        raise TooFewUses(
            f"{text}: {len(words)} words come twice in each of {PAIRS_MIN} documents, at least "
            f"{WORDS_MIN} are needed: give more text, with a blank line between documents"
        )
    chosen = sorted(random.permutation(len(words))[:words_max])
    found = []
    for word in (words[index] for index in chosen):
        places = sorted(random.permutation(len(twice[word]))[:pairs_max])
        found.append(_uses(word, documents, [twice[word][place] for place in places]))
    return found


def read_documents(text: Path) -> Iterator[Document]:
    """The documents below the folder `text`, up to CHARACTERS_MAX, each as its sentences."""
    files = text_files(text)
    if not files:
        raise CorpusInvalid(
            f"{text} has no text: put files there that end in .txt or .txt.xz, one paragraph per "
            "line and a blank line between documents"
        )
    for file in files:
        yield from _documents(file, CHARACTERS_MAX // len(files))


def text_files(text: Path) -> list[Path]:
    """The files below the folder `text` that are read, in order."""
    return sorted(p for p in text.rglob("*") if p.is_file() and p.name.endswith(TEXT_SUFFIXES))


def _documents(file: Path, characters_max: int) -> Iterator[Document]:
    seen = 0
    document: Document = []
    for passage in passages(read_lines(file)):
        seen += sum(map(len, passage.lines))
        document += [sentence for line in passage.lines for sentence in sentences(line)]
        if passage.ends or seen > characters_max:
            yield list(dict.fromkeys(document))  # the same sentence twice is no second use
            document = []
        if seen > characters_max:
            return
    if document:
        yield list(dict.fromkeys(document))


def sentences(paragraph: str) -> list[str]:
    """The sentences of a paragraph that are of ordinary length."""
    return [
        sentence
        for sentence in _SENTENCE_END.split(paragraph)
        if SENTENCE_WORDS_MIN <= sentence.count(" ") + 1 <= SENTENCE_WORDS_MAX
    ]


Place = tuple[int, int, int]  # a document, and two of its sentences


def _twice(documents: Sequence[Document]) -> dict[str, list[Place]]:
    """Each word's documents with two sentences that have it, the first two."""
    places: dict[str, list[Place]] = defaultdict(list)
    frequency: Counter[str] = Counter()
    for number, document in enumerate(documents):
        first: dict[str, int] = {}
        done: set[str] = set()
        for index, sentence in enumerate(document):
            for word in words_of(sentence):
                if word not in first:
                    first[word] = index
                elif word not in done:
                    done.add(word)
                    places[word].append((number, first[word], index))
        frequency.update(first.keys())
    most = DOCUMENTS_SHARE_MAX * len(documents)
    return {word: found for word, found in places.items() if frequency[word] <= most}


def words_of(sentence: str) -> set[str]:
    """The words of a sentence, case folded, that are long enough to mean something."""
    found: Iterable[str] = _WORD.findall(sentence)
    return {word.casefold() for word in found if len(word) >= WORD_LETTERS_MIN}


def _uses(word: str, documents: Sequence[Document], places: Sequence[Place]) -> Uses:
    chosen = [documents[number][index] for number, *pair in places for index in pair]
    return Uses(word, tuple(chosen), tuple(_span(sentence, word) for sentence in chosen))


def _span(sentence: str, word: str) -> tuple[int, int]:
    return next(m.span() for m in _WORD.finditer(sentence) if m.group().casefold() == word)
