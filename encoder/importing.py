"""A Hugging Face directory to a model directory: checked, copied, described."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer as RawTokenizer
from tokenizers.implementations.bert_wordpiece import BertWordPieceTokenizer

from encoder.checkpoint import SHARDS, WEIGHTS, halve_file, load_sentence_encoder
from encoder.config import UnsupportedModel
from encoder.manifest import DENSE_SHARE, Manifest, read_manifest, write_manifest
from encoder.sentence import read_sentence_settings
from encoder.tokenizer import Tokenizer

# What a sentence-transformers directory holds that loading it needs; nothing else is copied.
_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "README.md",
    "LICENSE",
)


def import_directory(
    source: Path,
    out: Path,
    *,
    name: str = "",
    word_layers: Sequence[int] = (),
    dimensions_choices: Sequence[int] = (),
    dense_share: float = DENSE_SHARE,
    half: bool = False,
) -> Manifest:
    """Copy the model in `source` to `out`, which must not exist, and write its `polyseme.json`.

    name:               of the model, in fingerprints; the source directory's by default
    word_layers:        whose mean is a word's vector; by default as `default_word_layers`
    dimensions_choices: the lengths a vector may be cut to, for a Matryoshka model
    dense_share:        of a hybrid search's relative score, 0 to 1; the rest is BM25's
    half:               write the weights in fp16; they are computed with in fp32 all the same
    Raises UnsupportedModel, ModelNotFound, ModelDamaged, FileExistsError.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists; a model is never overwritten")
    load_sentence_encoder(source)  # refuses what we could not export, before anything is copied
    out.parent.mkdir(parents=True, exist_ok=True)
    # A directory that is refused halfway must not stand in the way of the next try.
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as folder:
        new = Path(folder) / out.name
        _copy(source, new, read_sentence_settings(source).projection)
        if half:
            for file in new.rglob("*.safetensors"):
                halve_file(file, file)
        manifest = describe_directory(
            new,
            name=name or source.resolve().name,
            word_layers=word_layers,
            dimensions_choices=dimensions_choices,
            dense_share=dense_share,
        )
        new.rename(out)
    return manifest


def describe_directory(
    directory: Path,
    *,
    name: str = "",
    word_layers: Sequence[int] = (),
    dimensions_choices: Sequence[int] = (),
    dense_share: float = DENSE_SHARE,
) -> Manifest:
    """Write the `polyseme.json` of a directory that has none: what training wrote, for example.

    The arguments and errors are those of `import_directory`; nothing else is changed.
    """
    model = load_sentence_encoder(directory)
    config = model.encoder.config
    settings = read_sentence_settings(directory)
    tokenizer = Tokenizer(directory / "tokenizer.json")
    if tokenizer.vocab_size > config.vocab_size:
        raise UnsupportedModel(
            f"the tokenizer has {tokenizer.vocab_size} tokens; the model knows {config.vocab_size}"
        )
    manifest = Manifest(
        name=name or directory.resolve().name,
        width=model.width,
        states_width=config.width,
        layers=config.layers,
        tokens_max=min(settings.tokens_max or config.tokens_max, config.tokens_max),
        vocab_size=config.vocab_size,
        pad_id=config.pad_id,
        pooling=model.pooling,
        normalized=settings.normalized,
        prompts=settings.prompts,
        dimensions_choices=tuple(dimensions_choices),
        dense_share=dense_share,
        word_layers=tuple(word_layers)
        or default_word_layers(config.layers, sentences=(directory / "modules.json").is_file()),
    )
    write_manifest(directory, manifest)
    return read_manifest(directory)


def default_word_layers(layers: int, *, sentences: bool) -> tuple[int, ...]:
    """Of a model trained on sentences the last layer: on CoarseWSD-20 MiniLM's gives 1NN / LDA
    macro-F1 85.0 / 92.2, the mean of its last half 81.1 / 91.9. Of a plain language model the last
    half: context has arrived there, and the last alone is shaped by the training task
    (Ethayarajh 2019; Vulić et al. 2020)."""
    return (layers,) if sentences else tuple(range(layers // 2 + 1, layers + 1))


def _copy(source: Path, out: Path, projection: str) -> None:
    out.mkdir(parents=True)
    names = [name for name in _FILES if (source / name).is_file()]
    names += [path.name for path in source.glob("*.safetensors")]
    if not (source / WEIGHTS).is_file():
        names.append(SHARDS)
    for folder in (*source.glob("*_Pooling"), *([source / projection] if projection else [])):
        names += [
            path.relative_to(source).as_posix()
            for path in folder.iterdir()
            if path.suffix in (".json", ".safetensors")
        ]
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, out / name)
    if not (out / "tokenizer.json").is_file():
        _tokenizer_from_vocabulary(source).save(str(out / "tokenizer.json"))


def _tokenizer_from_vocabulary(source: Path) -> RawTokenizer:
    """The WordPiece tokenizer of a directory that has BERT's `vocab.txt` alone."""
    if not (source / "vocab.txt").is_file():
        raise UnsupportedModel(
            f"{source} has neither tokenizer.json nor vocab.txt; "
            "a tokenizer of another kind is missing here"
        )
    file = source / "tokenizer_config.json"
    options = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    wrapped = BertWordPieceTokenizer(
        str(source / "vocab.txt"),
        lowercase=options.get("do_lower_case", True),
        handle_chinese_chars=options.get("tokenize_chinese_chars", True),
        strip_accents=options.get("strip_accents"),
    )
    return RawTokenizer.from_str(wrapped.to_str())
