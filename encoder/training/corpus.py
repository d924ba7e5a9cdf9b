"""A folder of text as documents and translation pairs, checked and in Unicode's NFC."""

import hashlib
import io
import lzma
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from encoder.training.recipe import Aligned, Recipe, Source

TEXT_SUFFIXES = (".txt", ".txt.xz")
PAIR_SUFFIXES = (".tsv", ".tsv.xz")
LINE_CHARACTERS_MAX = 20_000  # a longer line becomes several: it is a dump, not a paragraph
PASSAGE_LINES = 32  # a document is held out or trained on in pieces of so many lines
PAIR_RATIO_MAX = 3.0  # translations whose lengths differ by more are misaligned
PAIR_SLACK_CHARACTERS = 20  # which short ones are forgiven
CLEANED = "cleaned.json"  # in place of text that was cleaned elsewhere (`cleaning.stand_in`)

Pair = tuple[str, str]


class CorpusInvalid(ValueError):
    """The text cannot be trained on; the message names the file and what to do."""


@dataclass(frozen=True, slots=True)
class Passage:
    """Consecutive paragraphs of one document; `ends` where the document does."""

    lines: tuple[str, ...]
    ends: bool


def find_sources(root: Path, recipe: Recipe) -> Recipe:
    """`recipe` with the files it reads: those it names, or else all below `root`.

    Raises CorpusInvalid for a file that is missing and for a folder without text.
    """
    if not root.is_dir():
        raise CorpusInvalid(f"{root} is not a folder")
    if recipe.sources and (root / CLEANED).exists():
        return recipe
    if recipe.sources:
        named = [source.path for source in (*recipe.sources, *recipe.pairs)]
        named += [path for aligned in recipe.aligned for path in aligned.paths]
        for path in named:
            if not (root / path).is_file():
                raise CorpusInvalid(f"the recipe reads {path}, which is not in {root}")
        return recipe
    found = sorted(path for path in root.rglob("*") if path.is_file())
    sources = tuple(_source(root, path) for path in found if path.name.endswith(TEXT_SUFFIXES))
    pairs = tuple(_source(root, path) for path in found if path.name.endswith(PAIR_SUFFIXES))
    if not sources:
        raise CorpusInvalid(
            f"{root} has no text: put files there that end in .txt or .txt.xz, one paragraph "
            "per line and a blank line between documents"
        )
    return recipe.model_copy(update={"sources": sources, "pairs": recipe.pairs or pairs})


def _source(root: Path, path: Path) -> Source:
    return Source(path=path.relative_to(root).as_posix())


def file_sha256(path: Path) -> str:
    """Of the file as it lies there, compressed or not."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_text(path: Path) -> BinaryIO:
    """The bytes of a file, decompressed if it ends in .xz."""
    if path.suffix == ".xz":
        return io.BufferedReader(lzma.open(path, "rb"))
    return path.open("rb")


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, in NFC, without their ends; a very long one in pieces.

    Raises CorpusInvalid, with the offset of the byte, where the file is not UTF-8.
    """
    offset = 0
    try:
        with open_text(path) as file:
            for line in file:
                try:
                    text = line.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise CorpusInvalid(
                        f"{path} is not UTF-8: byte {offset + error.start} is "
                        f"0x{line[error.start]:02x}; convert the file first (iconv -t utf-8)"
                    ) from None
                offset += len(line)
                text = text.rstrip("\r\n").removeprefix("\ufeff")
                yield from pieces(unicodedata.normalize("NFC", text))
    except (lzma.LZMAError, EOFError) as error:
        raise CorpusInvalid(f"{path} is not an xz file, or is cut short: {error}") from None


def pieces(line: str) -> Iterator[str]:
    """`line`, cut at spaces where it is longer than LINE_CHARACTERS_MAX."""
    while len(line) > LINE_CHARACTERS_MAX:
        space = line.rfind(" ", 1, LINE_CHARACTERS_MAX)
        cut = space if space > 0 else LINE_CHARACTERS_MAX
        yield line[:cut]
        line = line[cut:].lstrip(" ")
    yield line


def passages(lines: Iterable[str]) -> Iterator[Passage]:
    """Cut documents, which a blank line ends, into passages."""
    waiting: list[str] = []
    for line in lines:
        text = line.strip()
        if text and len(waiting) < PASSAGE_LINES:
            waiting.append(text)
        elif text:
            yield Passage(tuple(waiting), ends=False)
            waiting = [text]
        elif waiting:
            yield Passage(tuple(waiting), ends=True)
            waiting = []
    if waiting:
        yield Passage(tuple(waiting), ends=True)


def read_pairs(root: Path, source: Source | Aligned) -> Iterator[Pair]:
    """Translations, misaligned ones left out; or pairs of one language ("en-en"), all of them.

    Raises CorpusInvalid for a TSV line with too few columns, and for aligned files of which
    one is shorter.
    """
    one, _, other = source.language.partition("-")
    question_and_answer = bool(one) and one == other  # whose lengths may differ
    for first, second in _raw_pairs(root, source):
        if first and second and (question_and_answer or plausible(first, second)):
            yield first, second


def plausible(first: str, second: str) -> bool:
    """Whether the lengths, in characters, may be those of a text and its translation."""
    short, long = sorted((len(first), len(second)))
    return long <= PAIR_RATIO_MAX * short + PAIR_SLACK_CHARACTERS


def _raw_pairs(root: Path, source: Source | Aligned) -> Iterator[Pair]:
    if isinstance(source, Aligned):
        left, right = (read_lines(root / path) for path in source.paths)
        try:
            yield from ((a.strip(), b.strip()) for a, b in zip(left, right, strict=True))
        except ValueError:
            raise CorpusInvalid(f"{' and '.join(source.paths)} have unequal line counts") from None
        return
    first, second = source.columns or (0, 1)
    for number, line in enumerate(read_lines(root / source.path), start=1):
        cells = line.split("\t")
        if not line.strip():
            continue
        if max(first, second) >= len(cells):
            raise CorpusInvalid(
                f"{source.path}, line {number}: {len(cells)} columns; "
                f"columns {first} and {second} are read (separate them by one tab)"
            )
        yield cells[first].strip(), cells[second].strip()
