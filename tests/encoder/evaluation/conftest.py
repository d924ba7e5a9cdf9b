"""A whole model directory of a few kilobytes, and evaluation data in its layout, written here.

The sentences are our own: CoarseWSD-20's may not be copied (CC BY-NC 4.0).
"""

import itertools
import json

import numpy as np
import pytest

FRUIT = ["the apple was juicy", "she ate an apple", "an apple fell from the tree", "apple pie"]
FIRM = ["apple sells phones", "apple stock crashed", "the apple store opened", "apple hired people"]
NEAR = ["the bank of the river", "a river bank was green", "mud on the bank", "bank and water"]
MONEY = ["the bank lends money", "she robbed a bank", "bank stock crashed", "a bank sells money"]


def coarse_word(folder, word, first, second):
    folder.mkdir(parents=True)
    sentences = [*first, *second]
    lines = [f"{s.split().index(word)}\t{s}" for s in sentences]
    senses = ["0"] * len(first) + ["1"] * len(second)
    for split, rows in (("train", range(8)), ("test", [0, 3, 5, 6])):
        (folder / f"{split}.data.txt").write_text("".join(lines[r] + "\n" for r in rows))
        (folder / f"{split}.gold.txt").write_text("".join(senses[r] + "\n" for r in rows))


def retrieval_set(folder):
    (folder / "qrels").mkdir(parents=True)
    documents = [*FRUIT, *FIRM, *NEAR, *MONEY]
    rows = [{"_id": f"d{i}", "title": "", "text": text} for i, text in enumerate(documents)]
    queries = [{"_id": "q0", "text": "juicy apple"}, {"_id": "q1", "text": "river water"}]
    for name, content in (("corpus", rows), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    (folder / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq0\td0\t2\nq0\td1\t1\nq1\td8\t1\n"
    )


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    coarse_word(root / "wsd" / "coarsewsd20" / "apple", "apple", FRUIT, FIRM)
    coarse_word(root / "wsd" / "coarsewsd20" / "bank", "bank", NEAR, MONEY)
    retrieval_set(root / "retrieval" / "tiny")
    (root / "sts" / "stsb").mkdir(parents=True)
    pairs = itertools.combinations([*FRUIT, *FIRM], 2)
    lines = [f"{a}\t{b}\t{i % 6}.0\n" for i, (a, b) in enumerate(pairs)]
    (root / "sts" / "stsb" / "stsb-en-test.tsv").write_text("".join(lines))
    (root / "parallel" / "tatoeba-laser-v1").mkdir(parents=True)
    for code in ("deu", "fra"):
        same = "".join(f"{text}\t{text}\n" for text in [*FRUIT, *FIRM])
        (root / "parallel" / "tatoeba-laser-v1" / f"test.{code}-eng.tsv").write_text(same)
    texts = [*FRUIT, *FIRM]
    for file, columns in (
        ("contrastive/multi30k-captions/test_2016.5captions.en.tsv", 5),
        ("contrastive/multi30k-captions/test_2016.5captions.de.tsv", 5),
        ("parallel/ud-pud/test.en-de-fr.tsv", 3),
    ):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text("".join("\t".join([text] * columns) + "\n" for text in texts))
    (root / "lm-eval" / "wikitext-2").mkdir(parents=True)
    text = " . ".join([*FRUIT, "a <unk> fell", *FIRM]) + " ."
    (root / "lm-eval" / "wikitext-2" / "test.txt").write_text(f" \n = Apple = \n \n {text} \n" * 3)
    return root


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = sorted({w for text in [*FRUIT, *FIRM, *NEAR, *MONEY] for w in text.split()})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*special, ".", *words, *(f"##{letter}" for letter in "aeinst")]
    vocabulary = {piece: place for place, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(special)
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(file))
    return file


@pytest.fixture(scope="session")
def exported(tmp_path_factory, tokenizer_file):
    """A random model with a masked-LM head, imported and exported in fp32. Don't write into it."""
    import torch

    from encoder.checkpoint import save_directory
    from encoder.config import EncoderConfig, Pooling
    from encoder.export import export_directory
    from encoder.importing import import_directory
    from encoder.manifest import Precision
    from encoder.model import MaskedLanguageModel, SentenceEncoder
    from encoder.tokenizer import Tokenizer

    torch.manual_seed(0)
    config = EncoderConfig(
        vocab_size=Tokenizer(tokenizer_file).vocab_size,
        width=16,
        layers=2,
        heads=2,
        inner_width=16,
        tokens_max=32,
        initializer_range=0.5,
    )
    model = MaskedLanguageModel(config).eval()
    root = tmp_path_factory.mktemp("model")
    sentence = SentenceEncoder(model.encoder, Pooling.MEAN)
    save_directory(root / "saved", sentence, tokenizer=tokenizer_file, language_model=model)
    import_directory(root / "saved", root / "tiny", name="tiny")
    export_directory(root / "tiny", precisions=[Precision.FP32])
    return root / "tiny"


@pytest.fixture
def scripted():
    return ScriptedModel


class ScriptedModel:
    """A model whose vectors say what went in: for tests of the code around a model."""

    def __init__(self, tokenizer, tokens_max=16):
        from encoder.config import Pooling

        self.tokenizer = tokenizer
        self.tokens_max = tokens_max
        self.width, self.layers = 3, 2
        self.pooling = Pooling.MEAN
        self.prompts = {"query": "she ", "passage": "the "}
        self.dimensions_choices = (3,)
        self.dense_share = 0.4
        self.word_layers = (2,)
        self.batches = []

    def pooled(self, windows):
        self.batches.append(len(windows))
        rows = [[w.ids[1], w.ids[-2], len(w.ids)] for w in windows]
        return np.array(rows, dtype=np.float32)

    def states(self, windows, layers):
        self.batches.append(len(windows))
        return [np.stack([self._layer(window, layer) for layer in layers]) for window in windows]

    def _layer(self, window, layer):
        columns = [window.ids, window.ids * 0 + layer, window.ids * 0]
        return np.stack(columns, axis=1).astype(np.float32)

    def static(self, ids):
        return np.stack([ids * 1.0, ids * 0.0, ids * 0.0], axis=1).astype(np.float32)
