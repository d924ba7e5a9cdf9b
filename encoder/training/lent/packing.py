"""Packs what a recipe needs for its training elsewhere: clean text, tokenizer, teacher, wheels.

Text travels, not token ids: both are as small (0.27 of the text's bytes under xz, for either),
and the sentence stage reads the text. The teacher's weights travel, not its vectors: 45 MB in
fp16 against 768 bytes for each of a million texts, which a GPU computes in seconds.
"""

import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from encoder.checkpoint import WEIGHTS, halve_file
from encoder.training.cleaning import clean, stand_in
from encoder.training.corpus import CLEANED, find_sources
from encoder.training.lent.parcels import cut, fill, write_parcel
from encoder.training.recipe import Recipe, load_recipe
from encoder.training.run import Settings, prepare
from encoder.training.streams import tokenizer_path

TREE_BYTES_MAX = 64 * 2**20  # that may travel in one call, with the repository's own files
SLACK_BYTES = 3 * 2**20  # for what the repository grows by, and what a transfer adds
ASIDE = "models"  # folder of the repository that is moved away while calls are made
TEACHER_FILES = (
    "config.json",
    "modules.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "1_Pooling/config.json",
)

Say = Callable[[str], None]


def pack(
    recipe_file: Path,
    *,
    text: Path,
    cache: Path,
    teacher: Path,
    wheels: Path | None,
    out: Path,
    tree: Path,
    say: Say,
) -> list[Path]:
    """Write parcels to `out`; returns their folders, in the order in which they should travel.

    text, cache: as for `pretrain`; the text is cleaned and its tokenizer trained if need be
    teacher:     directory of the sentence encoder to learn from
    wheels:      Python packages that the other machine lacks
    tree:        the repository, whose files travel with each parcel and count
    Those that pretraining needs come first, so that it can begin before the last one is there.
    """
    shelf = out / "shelf"
    shutil.rmtree(shelf, ignore_errors=True)
    text_files = _shelve_text(load_recipe(recipe_file), text, cache, shelf)
    shutil.copyfile(recipe_file, shelf / "recipe.toml")
    first = [shelf / "recipe.toml", *_shelve_wheels(wheels, shelf), *text_files]
    last = halve(teacher, shelf / "teacher")
    return _write([*first, *last], shelf, out, tree, say)


def pack_folder(folder: Path, *, out: Path, tree: Path, say: Say) -> list[Path]:
    """Write every file of `folder` into parcels in `out`, the largest first.

    For what is no training: a benchmark's packages and model.
    """
    files = [path for path in folder.rglob("*") if path.is_file()]
    files.sort(key=lambda path: (-path.stat().st_size, path))
    return _write(files, folder, out, tree, say)


def _write(files: Sequence[Path], root: Path, out: Path, tree: Path, say: Say) -> list[Path]:
    """Parcels as large as may travel, in place of those that are in `out`."""
    whole, rest = tree_bytes(tree), tree_bytes(tree, aside=ASIDE)
    room = TREE_BYTES_MAX - rest - SLACK_BYTES
    say(f"the repository's own files leave {room / 2**20:.1f} MiB of each call")
    if whole > rest:
        say(
            f"MOVE {ASIDE}/ ASIDE for the calls: its {(whole - rest) / 2**20:.1f} MiB are not in it"
        )
    shards = cut(root, files, out / "shards")
    folders = []
    for old in out.glob("[0-9]"):
        shutil.rmtree(old)
    for number, parcel in enumerate(fill(shards, room)):
        write_parcel(out / str(number), parcel, out / "shards")
        size = sum(shard.stored_bytes for shard in parcel)
        folders.append(out / str(number))
        say(f"{folders[-1]}: {size / 2**20:.1f} MiB, {parcel[0].path} to {parcel[-1].path}")
    return folders


def _shelve_text(recipe: Recipe, text: Path, cache: Path, shelf: Path) -> list[Path]:
    """Clean text and tokenizer, in the layout of a cache."""
    settings = Settings(text=text, out=shelf, cache=cache)
    complete, data = prepare(find_sources(text, recipe), settings)
    recipes = [complete]
    if recipe.sentences.pairs:  # what `sentence_pairs.load_kinds` reads
        pairs = recipe.sentences.pairs
        recipes.append(complete.model_copy(update={"sources": (), "aligned": (), "pairs": pairs}))
    (shelf / "text").mkdir(parents=True)
    (shelf / "text" / CLEANED).write_text(stand_in(text, recipes), "utf-8")
    paths = [shelf / "text" / CLEANED]
    for each in recipes:
        folder, _ = clean(text, each, cache)
        paths += _link(folder, shelf / "cache" / folder.name)
    folder, _ = clean(text, complete, cache)
    tokenizer = tokenizer_path(folder, complete, shelf / "cache")
    shutil.copyfile(data.folder / "tokenizer.json", tokenizer)
    return [*paths, tokenizer]


def _link(folder: Path, target: Path) -> list[Path]:
    target.mkdir(parents=True)
    for file in sorted(folder.iterdir()):
        (target / file.name).symlink_to(file.resolve())
    return sorted(target.iterdir())


def _shelve_wheels(wheels: Path | None, shelf: Path) -> list[Path]:
    if wheels is None:
        return []
    return _link(wheels, shelf / "wheels")


def halve(teacher: Path, target: Path) -> list[Path]:
    """Copy a sentence encoder with its weights in fp16, in which a GPU reads them anyway."""
    target.mkdir(parents=True)
    kept = [name for name in TEACHER_FILES if (teacher / name).exists()]
    for name in kept:
        (target / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(teacher / name, target / name)
    halve_file(teacher / WEIGHTS, target / WEIGHTS)
    return [*(target / name for name in kept), target / WEIGHTS]


def tree_bytes(tree: Path, *, aside: str = "") -> int:
    """Of the files that travel with every call: tracked ones, and new ones that git sees.

    aside: a folder that is not counted
    """
    listed = subprocess.run(
        ["git", "-C", str(tree), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True,
        capture_output=True,
    ).stdout
    names = [name for name in listed.decode().split("\0") if name]
    files = [tree / name for name in names if not aside or not name.startswith(f"{aside}/")]
    return sum(file.lstat().st_size for file in files if file.is_symlink() or file.is_file())
