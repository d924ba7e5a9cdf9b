"""From files as they were given to clean files: filtered, with passages held out for evaluation.

A folder is complete when it has its `manifest.json`, which is written last; its name holds a
hash of everything that decides its content, so runs may share it.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Self

from encoder.training.atomic import write_atomically
from encoder.training.contamination import (
    EXACT_WORDS_MIN,
    Filter,
    evaluation_files,
    evaluation_lines,
)
from encoder.training.corpus import (
    CLEANED,
    CorpusInvalid,
    Passage,
    file_sha256,
    passages,
    read_lines,
    read_pairs,
)
from encoder.training.progress import Progress
from encoder.training.recipe import Aligned, Recipe, Source

FORMAT = 3  # of the folder; part of its hash
BATCH = 500  # passages or pairs filtered together, so that numpy's overhead is shared
LINES_MIN = 100  # of a whole corpus; with less there is nothing to hold out or to learn
# A small text holds out more of itself: a piece in so many bytes, one piece in four at most.
HELD_OUT_BYTES = 20_000
HELD_OUT_EVERY_MIN = 4


@dataclass(frozen=True, slots=True)
class CleanFile:
    """One source after cleaning, with what became of its lines (of a TSV, its pairs)."""

    name: str  # of the clean file: text as it came in, or a TSV of two columns
    source: str
    language: str
    pairs: bool
    weight: float = 1.0
    kept: int = 0
    held_out: int = 0
    contaminated: int = 0
    bytes: int = 0

    @property
    def held_out_name(self) -> str:
        """The file beside it with what is never trained on."""
        return f"{self.name}.held-out"


def clean(root: Path, recipe: Recipe, cache: Path) -> tuple[Path, list[CleanFile]]:
    """The folder of clean text for `recipe`, made if it is not in `cache` yet.

    recipe: with its sources found (`corpus.find_sources`)
    Raises CorpusInvalid, which names the file, for text that cannot be used.
    """
    folder = cache / f"clean-{_digest(root, recipe)}"
    manifest = folder / "manifest.json"
    if manifest.exists():
        files = [CleanFile(**entry) for entry in json.loads(manifest.read_text())]
        return folder, [replace(f, weight=_weights(recipe)[f.source]) for f in files]
    shutil.rmtree(folder, ignore_errors=True)  # the remains of a run that was killed
    folder.mkdir(parents=True)
    files = _clean_all(root, recipe, folder)
    lines = sum(file.kept + file.held_out for file in files)
    if lines < LINES_MIN:
        shutil.rmtree(folder)
        raise CorpusInvalid(
            f"{root} has {lines} lines of text; at least {LINES_MIN} are needed to learn from "
            "and to hold out (one paragraph per line)"
        )
    write_atomically(manifest, json.dumps([asdict(file) for file in files], indent=1).encode())
    return folder, files


def stand_in(root: Path, recipes: Sequence[Recipe]) -> str:
    """What `cleaned.json` holds in a folder that stands for `root` where `root` is not.

    With it, and with a cache that has the clean text of these recipes, other machines train
    without the text as it was given.
    """
    return json.dumps({_rules(recipe): _digest(root, recipe) for recipe in recipes}, indent=1)


def _rules(recipe: Recipe) -> str:
    """A hash of what is cleaned and how, but not of the files' content."""
    every = [*recipe.sources, *recipe.pairs, *recipe.aligned, *recipe.evaluation]
    parts = [FORMAT, recipe.text.held_out_every, *(part.choices() for part in every)]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _digest(root: Path, recipe: Recipe) -> str:
    """Of the format, the files, and the rules; not of weights, which do not change the text."""
    if (root / CLEANED).exists():
        digest = json.loads((root / CLEANED).read_text("utf-8")).get(_rules(recipe))
        if digest is None:
            raise CorpusInvalid(f"{root / CLEANED} knows nothing of text cleaned by this recipe")
        return str(digest)
    seen = hashlib.sha256(f"{FORMAT} {recipe.text.held_out_every}".encode())
    paths = [source.path for source in (*recipe.sources, *recipe.pairs)]
    paths += [path for aligned in recipe.aligned for path in aligned.paths]
    for path in paths:
        seen.update(f"{path} {file_sha256(root / path)}".encode())
    every: list[Source | Aligned] = [*recipe.sources, *recipe.pairs, *recipe.aligned]
    for source in every:
        seen.update(f"{source.language} {getattr(source, 'columns', None)}".encode())
    for rule in recipe.evaluation:
        seen.update(rule.choices().encode())
        for file in evaluation_files(root, rule):
            seen.update(file_sha256(file).encode())
    return seen.hexdigest()[:12]


def _weights(recipe: Recipe) -> dict[str, float]:
    weights = {source.path: source.weight for source in (*recipe.sources, *recipe.pairs)}
    return weights | {aligned.paths[0]: aligned.weight for aligned in recipe.aligned}


def _clean_all(root: Path, recipe: Recipe, folder: Path) -> list[CleanFile]:
    guard = Filter(evaluation_lines(root, recipe.evaluation))
    work: list[tuple[Source | Aligned, bool]] = [(source, False) for source in recipe.sources]
    work += [(source, True) for source in recipe.pairs]
    work += [(source, True) for source in recipe.aligned]
    sizes = [(root / _path(source)).stat().st_size for source, _ in work]
    every = min(recipe.text.held_out_every, max(HELD_OUT_EVERY_MIN, sum(sizes) // HELD_OUT_BYTES))
    # One count for all texts and one for all pairs, so that a thousand small files hold out
    # what one large file does.
    ordinals = {False: count(), True: count()}
    progress = Progress("clean text", sum(sizes))
    files: list[CleanFile] = []
    for index, (source, pairs) in enumerate(work):
        name = f"{index:02d}{'.tsv' if pairs else '.txt'}"
        blank = CleanFile(name, _path(source), source.language, pairs, source.weight)
        with _Writer(folder, blank, guard, every, ordinals[pairs]) as writer:
            chunks = _pair_chunks(root, source) if pairs else _text_chunks(root / _path(source))
            while batch := list(islice(chunks, BATCH)):
                writer.write(batch)
                progress.update(
                    sum(sizes[:index]), f"{writer.result.kept:,} lines of {blank.source}"
                )
        files.append(writer.result)
    progress.finish(f"{sum(file.kept for file in files):,} lines kept")
    return files


def _path(source: Source | Aligned) -> str:
    return source.paths[0] if isinstance(source, Aligned) else source.path


def _text_chunks(path: Path) -> Iterator[Passage]:
    return passages(read_lines(path))


def _pair_chunks(root: Path, source: Source | Aligned) -> Iterator[Passage]:
    return (Passage(pair, ends=False) for pair in read_pairs(root, source))


class _Writer:
    """Writes the chunks of one source, passages or pairs, to its two clean files."""

    def __init__(
        self, folder: Path, blank: CleanFile, guard: Filter, every: int, ordinals: Iterator[int]
    ) -> None:
        self.result = blank
        self._paths = (folder / blank.name, folder / blank.held_out_name)
        self._guard = guard
        self._every = every
        self._ordinals = ordinals

    def __enter__(self) -> Self:
        self._train, self._aside = (path.open("w", encoding="utf-8") for path in self._paths)
        return self

    def __exit__(self, *_: object) -> None:
        self._train.close()
        self._aside.close()
        self.result = replace(self.result, bytes=self._paths[0].stat().st_size)

    def write(self, batch: Sequence[Passage]) -> None:
        """Filter a batch and write what is left of it."""
        lines = [line for chunk in batch for line in chunk.lines]
        pairs = self.result.pairs
        bad = iter(self._guard.hits(lines, words_min=1 if pairs else EXACT_WORDS_MIN))
        for chunk in batch:
            flags = [next(bad) for _ in chunk.lines]
            if pairs and any(flags):  # one bad side spoils the pair
                good = []
            else:
                good = [line for line, flag in zip(chunk.lines, flags, strict=True) if not flag]
            aside = next(self._ordinals) % self._every == self._every // 2
            self._put(good, chunk.ends, aside=aside)
            self._count(len(good), len(chunk.lines) - len(good), aside=aside)

    def _put(self, lines: Sequence[str], ends: bool, *, aside: bool) -> None:
        file = self._aside if aside else self._train
        if self.result.pairs:
            file.write("\t".join(lines) + "\n" if lines else "")
            return
        file.write("".join(line + "\n" for line in lines))
        if ends or aside:  # what surrounds a passage that was taken out is not one document
            self._train.write("\n")
            self._aside.write("\n" if aside else "")

    def _count(self, good: int, bad: int, *, aside: bool) -> None:
        unit = 2 if self.result.pairs else 1
        self.result = replace(
            self.result,
            kept=self.result.kept + (0 if aside else good // unit),
            held_out=self.result.held_out + (good // unit if aside else 0),
            contaminated=self.result.contaminated + bad // unit,
        )
