"""Token streams: each source as one file of 16-bit ids, from which rows are cut."""

import hashlib
import json
import multiprocessing
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray

from encoder.training.atomic import write_atomically
from encoder.training.cleaning import CleanFile
from encoder.training.corpus import file_sha256, passages, read_lines
from encoder.training.progress import Progress
from encoder.training.recipe import Recipe, Vocabulary
from encoder.training.vocabulary import (
    END,
    sample,
    token_id,
    train_vocabulary,
)

FORMAT = 2  # of the folder; part of its hash
LINES_PER_CALL = 2000  # tokenised at once, by as many threads as there are cores
CORES_PER_PROCESS = 4  # a tokenizer uses several, the Python around it one
PUNCTUATION = re.compile(r"([^\w\s])")


@dataclass(frozen=True, slots=True)
class Stream:
    """One source as tokens.

    `<name>.ids`: its documents, each ended by [SEP]; `<name>.starts` (pairs alone): where each
    pair begins; `<name>.held-out.ids`: the passages that are never trained on.
    """

    name: str
    source: str
    language: str
    pairs: bool
    weight: float
    tokens: int
    held_out_tokens: int


@dataclass(frozen=True, slots=True)
class Tokenized:
    """A folder of streams with the tokenizer they were made by."""

    folder: Path
    sha256: str  # of everything that decided the content
    streams: tuple[Stream, ...]

    @property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """As trained."""
        return tokenizers.Tokenizer.from_file(str(self.folder / "tokenizer.json"))

    @property
    def tokens(self) -> int:
        """Of all training streams."""
        return sum(stream.tokens for stream in self.streams)

    def ids(self, stream: Stream) -> NDArray[np.uint16]:
        """(stream.tokens,), read from the disk as needed."""
        return _map(self.folder / f"{stream.name}.ids")

    def held_out_ids(self, stream: Stream) -> NDArray[np.uint16]:
        """(stream.held_out_tokens,)"""
        return _map(self.folder / f"{stream.name}.held-out.ids")

    def starts(self, stream: Stream) -> NDArray[np.int64]:
        """(pairs,): the place in `ids` of each pair's first token."""
        return np.fromfile(self.folder / f"{stream.name}.starts", dtype=np.int64)


def _map(path: Path) -> NDArray[np.uint16]:
    if not path.stat().st_size:
        return np.empty(0, dtype=np.uint16)
    return np.memmap(path, dtype=np.uint16, mode="r")


def tokenize(
    clean: Path,
    files: Sequence[CleanFile],
    recipe: Recipe,
    cache: Path,
    given: Path | None = None,
) -> Tokenized:
    """The streams of clean text, made if they are not in `cache` yet, by the tokenizer `given`,
    or one that is trained on a sample of the text, unless `cache` has it (`tokenizer_path`)."""
    digest = _digest(clean, recipe, given)
    folder = cache / f"tokens-{digest[:12]}"
    manifest = folder / "manifest.json"
    weights = {file.source: file.weight for file in files}
    if manifest.exists():
        entries = json.loads(manifest.read_text())
        streams = [Stream(**{**entry, "weight": weights[entry["source"]]}) for entry in entries]
        return Tokenized(folder, digest, tuple(streams))
    shutil.rmtree(folder, ignore_errors=True)  # the remains of a run that was killed
    folder.mkdir(parents=True)
    ready = given or tokenizer_path(clean, recipe, cache)
    if ready.exists():
        tokenizer = tokenizers.Tokenizer.from_file(str(ready))
    else:
        lines = vocabulary_lines(clean, files, recipe)
        tokenizer = train_vocabulary(lines, recipe.vocabulary.size, progress=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    streams = _tokenize_all(clean, files, recipe, folder)
    write_atomically(manifest, json.dumps([asdict(s) for s in streams], indent=1).encode())
    return Tokenized(folder, digest, tuple(streams))


def tokenizer_path(clean: Path, recipe: Recipe, cache: Path) -> Path:
    """Where the tokenizer of a text lies if it was trained elsewhere."""
    return cache / f"tokenizer-{_digest(clean, recipe)[:12]}.json"


def _tokenize_all(
    clean: Path, files: Sequence[CleanFile], recipe: Recipe, folder: Path
) -> list[Stream]:
    """The streams of all files, several at a time where there are many cores: half of the work
    is Python's, which has one."""
    progress = Progress("tokenise", sum(file.bytes for file in files))
    count = max(1, (os.cpu_count() or 1) // CORES_PER_PROCESS)
    with _processes(count) as pool:
        largest_first = sorted(files, key=lambda file: -file.bytes)
        futures = {
            pool.submit(_tokenize_one, clean, file, recipe, folder): file for file in largest_first
        }
        done, streams = 0, {}
        for future in as_completed(futures):
            streams[futures[future]] = future.result()
            done += futures[future].bytes
            progress.update(done, futures[future].source)
    progress.finish(f"{sum(stream.tokens for stream in streams.values()):,} tokens")
    return [streams[file] for file in files]


def _processes(count: int) -> Executor:
    """So many processes; for one, a thread of this one. Spawned, since torch has threads."""
    if count == 1:
        return ThreadPoolExecutor(1)
    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"))


def _digest(clean: Path, recipe: Recipe, given: Path | None = None) -> str:
    parts = [
        FORMAT,
        clean.name,
        file_sha256(given) if given else recipe.vocabulary.choices(),
        recipe.text.lower_cased_share,
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def vocabulary_lines(clean: Path, files: Sequence[CleanFile], recipe: Recipe) -> Iterator[str]:
    """A sample of the text, its languages mixed as the recipe says, with lower-cased copies."""
    for file, wanted in zip(files, _sample_bytes(files, recipe.vocabulary), strict=True):
        for line in sample(_lines(clean / file.name), wanted, file.bytes):
            for text in line.split("\t"):  # a pair's two sides
                yield text
                if lower_cased(text, recipe.text.lower_cased_share):
                    yield text.lower()


def _sample_bytes(files: Sequence[CleanFile], vocabulary: Vocabulary) -> list[int]:
    """What each file gives: its part of its language's share, by its size and weight."""
    groups = ["pairs" if file.pairs else file.language for file in files]
    weighted = [file.bytes * file.weight for file in files]
    totals: dict[str, float] = dict.fromkeys(groups, 0.0)
    for group, size in zip(groups, weighted, strict=True):
        totals[group] += size
    shares = _shares(totals, vocabulary)
    return [
        int(vocabulary.sample_bytes * shares[group] * size / totals[group])
        for group, size in zip(groups, weighted, strict=True)
    ]


def _shares(totals: dict[str, float], vocabulary: Vocabulary) -> dict[str, float]:
    """Of the sample, for each language and for the pairs; they add up to 1."""
    texts = {group: size for group, size in totals.items() if group != "pairs"}
    if not texts:
        return {"pairs": 1.0}
    pairs = vocabulary.pair_share if "pairs" in totals else 0.0
    weights = {
        language: vocabulary.languages.get(language, size / sum(texts.values()))
        for language, size in texts.items()
    }
    whole = sum(weights.values())
    shares = {language: (1 - pairs) * weight / whole for language, weight in weights.items()}
    return shares | {"pairs": pairs}


def _lines(path: Path) -> Iterator[str]:
    return (line for line in read_lines(path) if line)


def lower_cased(text: str, share: float) -> bool:
    """Whether a lower-cased copy of `text` is added: decided by the text itself."""
    digest = hashlib.blake2b(text.encode(), digest_size=4, person=b"lower").digest()
    return int.from_bytes(digest, "big") < share * 2**32


def plain(line: str) -> str:
    """`line` in lower case; every second one, by its length, with its punctuation set apart.

    So are old corpora written, and CoarseWSD-20 among them: "apple 's stock , he said ."
    """
    lower = line.lower()
    return " ".join(PUNCTUATION.sub(r" \1 ", lower).split()) if len(line) % 2 else lower


def _tokenize_one(clean: Path, file: CleanFile, recipe: Recipe, folder: Path) -> Stream:
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    name = file.name.partition(".")[0]
    counts = []
    for source, out in ((file.name, name), (file.held_out_name, f"{name}.held-out")):
        share = recipe.text.lower_cased_share if source == file.name else 0.0
        rows = _pairs(clean / source) if file.pairs else _documents(clean / source, share)
        counts.append(_write_stream(rows, tokenizer, folder / out, starts=file.pairs))
    return Stream(name, file.source, file.language, file.pairs, file.weight, *counts)


def _documents(path: Path, share: float) -> Iterator[tuple[str, bool]]:
    """Lines, each with whether a document ends there; then lower-cased copies of passages."""
    copies: list[str] = []
    for passage in passages(read_lines(path)):
        last = len(passage.lines) - 1
        yield from ((line, passage.ends and i == last) for i, line in enumerate(passage.lines))
        if share and lower_cased(passage.lines[0], share):
            copies.extend(passage.lines)
            copies.append("")
    for index, line in enumerate(copies):
        if line:
            yield plain(line), not copies[index + 1]


def _pairs(path: Path) -> Iterator[tuple[str, bool]]:
    """The two sides of each pair, every second pair turned round."""
    for index, line in enumerate(read_lines(path)):
        first, _, second = line.partition("\t")
        if first and second:
            yield from (
                (side, True) for side in ((second, first) if index % 2 else (first, second))
            )


def _write_stream(
    rows: Iterable[tuple[str, bool]], tokenizer: tokenizers.Tokenizer, path: Path, *, starts: bool
) -> int:
    """Write `<path>.ids` (and `.starts`, of every second line); returns the count of tokens."""
    end = token_id(tokenizer, END)
    rows = iter(rows)
    total, offsets = 0, [np.zeros(0, dtype=np.int64)]
    with path.with_name(path.name + ".ids").open("wb") as file:
        while batch := list(islice(rows, LINES_PER_CALL)):
            encoded = tokenizer.encode_batch_fast(
                [line for line, _ in batch], add_special_tokens=False
            )
            ids = [
                np.array([*piece.ids, end] if ends else piece.ids, dtype=np.uint16)
                for piece, (_, ends) in zip(encoded, batch, strict=True)
            ]
            lengths = np.array([len(piece) for piece in ids], dtype=np.int64)
            offsets.append(total + np.cumsum(lengths) - lengths)
            total += int(lengths.sum())
            np.concatenate(ids).tofile(file)
    if starts:
        np.concatenate(offsets)[::2].tofile(path.with_name(path.name + ".starts"))
    return total
