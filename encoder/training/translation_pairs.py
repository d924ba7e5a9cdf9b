"""What a translator learns from: cleaned pairs of texts in two languages, by file."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray

from encoder.training.cleaning import CleanFile, clean
from encoder.training.corpus import CorpusInvalid, find_sources, read_lines
from encoder.training.recipe import Recipe, TranslationAligned, TranslationPairs

TEXTS_AT_ONCE = 4096  # tokenised together
HELD_OUT_MAX = 256  # pairs of each two languages that the loss is watched on


@dataclass(frozen=True, slots=True)
class PairFile:
    """The pairs of one source.

    languages: of the firsts, of the seconds
    lengths:   (pairs, 2) tokens of each text, special ones included
    """

    name: str
    group: str
    languages: tuple[str, str]
    weight: float
    firsts: list[str]
    seconds: list[str]
    lengths: NDArray[np.int32]
    held_out: list[tuple[str, str]]

    def __len__(self) -> int:
        return len(self.firsts)


def load_pairs(
    root: Path, recipe: Recipe, cache: Path, tokenizer: tokenizers.Tokenizer
) -> list[PairFile]:
    """Read and clean what the recipe's translation table names; without that, its other pairs.

    Lines of evaluation sets are left out as in pretraining. Raises CorpusInvalid.
    """
    rules = recipe.translation
    pairs = rules.pairs or tuple(TranslationPairs(**p.model_dump()) for p in recipe.pairs)
    aligned = rules.aligned or tuple(TranslationAligned(**a.model_dump()) for a in recipe.aligned)
    if not pairs and not aligned:
        raise CorpusInvalid("the recipe names no translations: give [[translation.pairs]]")
    alone = recipe.model_copy(update={"sources": (), "pairs": pairs, "aligned": aligned})
    sources: list[TranslationPairs | TranslationAligned] = [*pairs, *aligned]
    for named in sources:
        _languages(named)
    _check_files(root, alone)
    folder, files = clean(root, alone, cache)
    found = [_read(folder, file, source) for file, source in zip(files, sources, strict=True)]
    for group in rules.joined:
        found += joined([file for file in found if file.group == group])
    measured = [_measured(file, tokenizer, rules.tokens_max) for file in found]
    kept = [file for file in measured if len(file)]
    if not kept:
        raise CorpusInvalid(f"{root} has no pair of texts within {rules.tokens_max} tokens")
    return kept


def joined(files: Sequence[PairFile], through: str = "en") -> list[PairFile]:
    """Pairs of two other languages that have one text in `through`, each text used once."""
    found = []
    turned = [(file, *_with(file, through)) for file in files if through in file.languages]
    for index, (one, other_one, texts_one) in enumerate(turned):
        for two, other_two, texts_two in turned[index + 1 :]:
            if other_one == other_two:
                continue
            pairs = list(_common(texts_one, texts_two))
            found.append(
                PairFile(
                    name=f"{one.name} + {two.name}",
                    group=one.group,
                    languages=(other_one, other_two),
                    weight=min(one.weight, two.weight),
                    firsts=[a for a, _ in pairs],
                    seconds=[b for _, b in pairs],
                    lengths=np.empty((0, 2), dtype=np.int32),
                    held_out=[],
                )
            )
    return found


def held_out(files: Iterable[PairFile]) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """By direction, pairs (source, target) that are never trained on, spread over the files."""
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for file in files:
        one, two = file.languages
        found.setdefault((one, two), []).extend(file.held_out)
        found.setdefault((two, one), []).extend((b, a) for a, b in file.held_out)
    return {
        direction: pairs[:: -(-len(pairs) // HELD_OUT_MAX)]
        for direction, pairs in sorted(found.items())
        if pairs
    }


def _with(file: PairFile, through: str) -> tuple[str, list[tuple[str, str]]]:
    """The language beside `through`, and (text in `through`, text in the other)."""
    one, two = file.languages
    if one == through:
        return two, list(zip(file.firsts, file.seconds, strict=True))
    return one, list(zip(file.seconds, file.firsts, strict=True))


def _common(
    ones: Sequence[tuple[str, str]], twos: Sequence[tuple[str, str]]
) -> Iterator[tuple[str, str]]:
    waiting: dict[str, list[str]] = {}
    for pivot, text in reversed(twos):
        waiting.setdefault(pivot, []).append(text)
    for pivot, text in ones:
        if texts := waiting.get(pivot):
            yield text, texts.pop()


def _languages(source: TranslationPairs | TranslationAligned) -> tuple[str, str]:
    one, _, two = source.language.partition("-")
    if not one or not two or one == two:
        path = source.path if isinstance(source, TranslationPairs) else source.paths[0]
        raise CorpusInvalid(f"{path}: language is {source.language!r}; say, for example, 'en-de'")
    return one, two


def _check_files(root: Path, recipe: Recipe) -> None:
    """`find_sources` wants text too, so name a source; it checks that the files exist."""
    find_sources(root, recipe.model_copy(update={"sources": recipe.pairs[:1] or _first(recipe)}))


def _first(recipe: Recipe) -> tuple[TranslationPairs, ...]:
    return (TranslationPairs(path=recipe.aligned[0].paths[0]),)


def _read(folder: Path, file: CleanFile, source: TranslationPairs | TranslationAligned) -> PairFile:
    pairs = _pairs(folder / file.name)
    return PairFile(
        name=file.source,
        group=source.group or file.source.rpartition("/")[0].rpartition("/")[2],
        languages=_languages(source),
        weight=source.weight,
        firsts=[a for a, _ in pairs],
        seconds=[b for _, b in pairs],
        lengths=np.empty((0, 2), dtype=np.int32),
        held_out=_pairs(folder / file.held_out_name),
    )


def _pairs(path: Path) -> list[tuple[str, str]]:
    cells = (line.split("\t") for line in read_lines(path))
    return [(first, second) for first, second in cells]


def _measured(file: PairFile, tokenizer: tokenizers.Tokenizer, tokens_max: int) -> PairFile:
    """The pairs whose texts are within the limit, with their lengths."""
    lengths = np.stack([_lengths(t, tokenizer) for t in (file.firsts, file.seconds)], axis=1)
    kept = np.flatnonzero(lengths.max(axis=1, initial=0) <= tokens_max)
    return replace(
        file,
        firsts=[file.firsts[index] for index in kept],
        seconds=[file.seconds[index] for index in kept],
        lengths=lengths[kept],
    )


def _lengths(texts: Sequence[str], tokenizer: tokenizers.Tokenizer) -> NDArray[np.int32]:
    lengths: list[int] = []
    for begin in range(0, len(texts), TEXTS_AT_ONCE):
        part = list(texts[begin : begin + TEXTS_AT_ONCE])
        lengths += [len(encoding.ids) for encoding in tokenizer.encode_batch_fast(part)]
    return np.array(lengths, dtype=np.int32)
