"""Search across languages judged, by the vectors alone: no translator takes part.

Captions (Multi30k, the pictures of test 2016; English and German): what crossing costs. The first
of a picture's five captions is the document; each of the four others asks for it, in the
documents' own language and in the other one. People wrote all of them from the picture; none is
a translation, so that a question in the other language is of the same kind. There are no such
captions in French.

Sentences (UD's PUD treebanks, news and Wikipedia; English, German and French): each asks for its
translation among all those of the other language. In its own language it would find itself, so
there is nothing to hold this against but the other directions.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from encoder.evaluation.data import DataMalformed, read_columns
from encoder.evaluation.result import Score, TaskResult
from encoder.evaluation.retrieval import DOCUMENT_PROMPTS, QUERY_PROMPTS, prompt_of
from encoder.evaluation.scores import recall
from encoder.evaluation.vectors import Subject, embed

Vectors: TypeAlias = NDArray[np.float32]

RANKS = (1, 10)

_CAPTIONS = 5  # of a picture
_SENTENCE_LANGUAGES = ("en", "de", "fr")  # the columns of the file

_NOTE = (
    "Search across languages, by dense vectors: `de in en` asks in German for English. Captions: "
    "four of a picture's captions each ask for the fifth, whose language is theirs or another; "
    "none is a translation. Sentences: each asks for its translation."
)


def crosslingual_files(data: Path) -> list[Path]:
    """What must be there."""
    return [*_caption_files(data).values(), _sentence_file(data)]


def crosslingual(subject: Subject, data: Path, *, column: str, limit: int | None) -> TaskResult:
    """Recall of the one right text at RANKS, by direction. Raises DataMissing, DataMalformed."""
    return TaskResult(
        [
            *_captions(subject, data, column=column, limit=limit),
            *_sentences(subject, data, column=column, limit=limit),
        ],
        [_NOTE],
    )


def _caption_files(data: Path) -> dict[str, Path]:
    """By language: a line a picture, the same in both."""
    folder = data / "contrastive" / "multi30k-captions"
    return {language: folder / f"test_2016.5captions.{language}.tsv" for language in ("en", "de")}


def _sentence_file(data: Path) -> Path:
    return data / "parallel" / "ud-pud" / "test.en-de-fr.tsv"


def _captions(subject: Subject, data: Path, *, column: str, limit: int | None) -> list[Score]:
    documents, queries = {}, {}
    pictures = 0
    for language, file in _caption_files(data).items():
        first, *others = read_columns(file, _CAPTIONS)
        if pictures not in {0, len(first)}:
            raise DataMalformed(file, len(first), f"the English file has {pictures} lines")
        pictures = len(first)
        asked = [text for texts in others for text in texts[:limit]]
        label = f"captions {language}, {column}"
        documents[language] = _embedded(subject, first[:limit], DOCUMENT_PROMPTS, label)
        queries[language] = _embedded(subject, asked, QUERY_PROMPTS, label)
    directions = [("en", "en"), ("de", "en"), ("de", "de"), ("en", "de")]
    return list(_scores("captions", documents, queries, directions))


def _sentences(subject: Subject, data: Path, *, column: str, limit: int | None) -> list[Score]:
    columns = read_columns(_sentence_file(data), len(_SENTENCE_LANGUAGES))
    documents, queries = {}, {}
    for language, texts in zip(_SENTENCE_LANGUAGES, columns, strict=True):
        label = f"sentences {language}, {column}"
        documents[language] = _embedded(subject, texts[:limit], DOCUMENT_PROMPTS, label)
        queries[language] = _embedded(subject, texts[:limit], QUERY_PROMPTS, label)
    directions = [(a, b) for b in _SENTENCE_LANGUAGES for a in _SENTENCE_LANGUAGES if a != b]
    return list(_scores("sentences", documents, queries, directions))


def _embedded(subject: Subject, texts: list[str], prompts: tuple[str, ...], label: str) -> Vectors:
    return embed(subject, texts, label=label, prompt=prompt_of(subject, prompts))


def _scores(
    texts: str,
    documents: Mapping[str, Vectors],
    queries: Mapping[str, Vectors],
    directions: Iterable[tuple[str, str]],
) -> Iterator[Score]:
    """Query i of n times as many queries as documents asks for document i modulo documents."""
    for asking, asked in directions:
        cosines = queries[asking] @ documents[asked].T
        right = np.arange(len(queries[asking])) % len(documents[asked])
        for ranks in RANKS:
            yield Score(
                f"crosslingual.{texts}.{asking}-{asked}.recall_at_{ranks}",
                f"{texts.capitalize()}, {asking} in {asked}, recall@{ranks}",
                100 * recall(cosines, right, ranks),
            )
