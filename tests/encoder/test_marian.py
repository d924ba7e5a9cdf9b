"""transformers and sentencepiece judge our reading of MarianMT directories."""

import json

import pytest
import sentencepiece
import torch
from tokenizers import Tokenizer
from transformers import MarianConfig, MarianMTModel

from encoder.command import ImportTranslation
from encoder.config import UnsupportedModel
from encoder.manifest import ModelDamaged, ModelNotFound
from encoder.marian import import_marian, load_marian
from encoder.spm import read_pieces
from encoder.translator import greedy, load_translator

PAIRS = [("en", "fr")]
VOCABULARY = 96
SHAPE = {
    "vocab_size": VOCABULARY,
    "decoder_vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "activation_function": "swish",
    "scale_embedding": True,
    "init_std": 0.3,
    "pad_token_id": VOCABULARY - 1,
    "decoder_start_token_id": VOCABULARY - 1,
    "eos_token_id": 0,
    "forced_eos_token_id": None,
    "bos_token_id": None,
}
ENGLISH = ["A man eats an apple.", "The dog runs over the wide field.", "two  children play chess"]
FRENCH = ["Un homme mange une pomme.", "Le chien court à travers le champ.", "deux enfants jouent"]


def trained(folder, name, lines):
    """A small SentencePiece model of the lines, as OPUS-MT's are made."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 4), model_prefix=str(folder / name), vocab_size=50,
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    (folder / f"{name}.model").rename(folder / f"{name}.spm")
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / f"{name}.spm"))


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """A random MarianMTModel with its directory."""

    def make(**changes):
        directory = tmp_path_factory.mktemp("marian")
        torch.manual_seed(4)
        model = MarianMTModel(MarianConfig(**{**SHAPE, **changes})).eval()
        torch.nn.init.normal_(model.final_logits_bias, std=0.5)
        model.save_pretrained(directory)
        processors = [
            trained(directory, n, t) for n, t in (("source", ENGLISH), ("target", FRENCH))
        ]
        pieces = [
            {processor.id_to_piece(i) for i in range(3, processor.get_piece_size())}
            for processor in processors
        ]
        order = ["</s>", "<unk>", *sorted(pieces[0] | pieces[1])][: VOCABULARY - 1]
        order.append("<pad>")
        vocabulary = {token: index for index, token in enumerate(order)}
        (directory / "vocab.json").write_text(json.dumps(vocabulary))
        (directory / "target_vocab.json").write_text(json.dumps(vocabulary))
        return model, directory, processors, vocabulary

    return make


def batch():
    generator = torch.Generator().manual_seed(8)
    mask = torch.arange(11) < torch.tensor([11, 4, 7])[:, None]
    source = torch.randint(1, VOCABULARY - 1, (3, 11), generator=generator)
    target = torch.randint(1, VOCABULARY - 1, (3, 6), generator=generator)
    target[:, 0] = VOCABULARY - 1
    return source.masked_fill(~mask, VOCABULARY - 1), mask, target


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"scale_embedding": False, "activation_function": "relu"},
        {"share_encoder_decoder_embeddings": False},
    ],
)
def test_logits_equal_those_of_transformers(judge, changes):
    model, directory, *_ = judge(**changes)
    source, mask, target = batch()

    with torch.inference_mode():
        theirs = model(source, attention_mask=mask.long(), decoder_input_ids=target).logits
        ours = load_marian(directory, PAIRS)(source, mask, target)

    assert float(theirs.std()) > 0.5
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def taught(model):
    """Some steps of training: a random model writes one token for ever."""
    source, mask, target = batch()
    labels = torch.cat([target[:, 1:], torch.zeros(3, 1, dtype=torch.long)], dim=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        model(
            source, attention_mask=mask.long(), decoder_input_ids=target, labels=labels
        ).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def test_greedy_output_equals_that_of_transformers(judge):
    model, directory, *_ = judge(init_std=0.1)
    taught(model).save_pretrained(directory)
    source, mask, _ = batch()

    written = greedy(load_marian(directory, PAIRS), source, mask, [95] * 3, tokens_max=30)

    with torch.inference_mode():
        theirs = model.generate(
            source, attention_mask=mask.long(), max_new_tokens=30, num_beams=1, do_sample=False,
            bad_words_ids=[[95]],
        )  # fmt: skip
    assert len({token for text in written for token in text.ids}) > 5
    assert any(text.finished for text in written)
    for text, row in zip(written, theirs.tolist(), strict=True):
        assert text.ids == [token for token in row[1:] if token not in (0, 95)]


def test_an_imported_directory_translates_and_cuts_as_the_original(judge):
    model, directory, (source, target), vocabulary = judge()
    out = directory / "out"

    config = import_marian(directory, out, source_languages=["en"], target_languages=["fr"])

    ids, mask, decoder_ids = batch()
    with torch.inference_mode():
        theirs = model(ids, attention_mask=mask.long(), decoder_input_ids=decoder_ids).logits
        torch.testing.assert_close(
            load_translator(out)(ids, mask, decoder_ids), theirs, atol=1e-4, rtol=0
        )
    assert config.pairs == (("en", "fr"),)
    assert dict(config.begin_ids) == {"fr": 95}
    assert dict(config.source_ids) == {}
    tokenizer = Tokenizer.from_file(str(out / "translation" / "source.tokenizer.json"))
    for text in (*ENGLISH, " a  man ", "", "ｆｕｌｌ ﬁeld", "An Ω apple"):
        pieces = source.encode(text, out_type=str)
        expected = [vocabulary.get(piece, vocabulary["<unk>"]) for piece in pieces]
        assert tokenizer.encode(text).ids == [*expected, 0]
    reader = Tokenizer.from_file(str(out / "translation" / "target.tokenizer.json"))
    for text in FRENCH:
        pieces = target.encode(text, out_type=str)
        assert reader.decode([*(vocabulary[piece] for piece in pieces), 0]) == text


def test_a_model_of_several_targets_names_the_target_before_the_source(judge):
    _, directory, _, vocabulary = judge()
    order = sorted(vocabulary, key=vocabulary.__getitem__)
    order[7:9] = [">>fra<<", ">>ita<<"]
    content = {token: index for index, token in enumerate(order)}
    (directory / "vocab.json").write_text(json.dumps(content))

    model = load_marian(directory, [("en", "ita"), ("en", "fra")])

    assert dict(model.config.source_ids) == {"fra": 7, "ita": 8}
    with pytest.raises(UnsupportedModel, match=">>spa<<"):
        load_marian(directory, [("en", "spa")])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_function": "tanh"}, "the activation 'tanh' is missing here"),
        ({"normalize_before": True}, "normalize_before: True is missing here"),
        ({"model_type": "bart"}, "'bart' is not marian"),
    ],
)
def test_what_is_missing_here_is_named(judge, changes, message):
    _, directory, *_ = judge()
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    with pytest.raises(UnsupportedModel, match=message):
        load_marian(directory, PAIRS)


def test_files_that_are_missing_or_damaged_are_named(tmp_path, judge):
    with pytest.raises(ModelNotFound, match=r"config\.json"):
        load_marian(tmp_path, PAIRS)
    _, directory, *_ = judge()
    spm = directory / "source.spm"
    spm.write_bytes(spm.read_bytes()[:-40])
    with pytest.raises(ModelDamaged, match=r"source\.spm is no SentencePiece model"):
        read_pieces(spm)


def test_the_command_says_what_it_read_and_never_overwrites(judge, capsys):
    _, directory, *_ = judge()
    command = ImportTranslation(
        source=directory, out=directory / "out", source_language=("en",), target_language=("fr",)
    )

    command.cli_cmd()

    assert "translates en-fr, 3 and 2 layers of 32" in capsys.readouterr().out
    with pytest.raises(FileExistsError, match="never overwritten"):
        command.cli_cmd()
