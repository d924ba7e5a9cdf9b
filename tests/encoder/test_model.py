"""transformers and sentence-transformers judge our encoder."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoModelForMaskedLM

from encoder.checkpoint import load_language_model, load_sentence_encoder, save_directory
from encoder.config import Pooling
from encoder.model import Encoder, MaskedLanguageModel, SentenceEncoder
from encoder.tokenizer import Tokenizer, Truncation
from tests.encoder.conftest import SHAPES

TYPES = sorted(SHAPES)
TEXTS = [
    "I ate an apple.",
    "Apple released a phone, and the whole street queued for it until late in the evening.",
    "",
    "Ünïcode, 我吃苹果 and 👨‍👩‍👧‍👦",
]
CLOSE = {"atol": 1e-5, "rtol": 0}


def batch(pad_id, lengths=(40, 3, 21)):
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(200, 30_000, (len(lengths), max(lengths)), generator=generator)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return ids.masked_fill(~mask, pad_id), mask


def theirs(directory, kind=AutoModel):
    # Eager attention is the one that gives its weights.
    return kind.from_pretrained(
        directory, local_files_only=True, attn_implementation="eager"
    ).eval()


@pytest.mark.parametrize("model_type", TYPES)
def test_states_and_attentions_equal_those_of_transformers(saved, model_type):
    directory = saved(model_type)
    ids, mask = batch(SHAPES[model_type].pad_id)

    with torch.inference_mode():
        expected = theirs(directory)(
            ids, attention_mask=mask.long(), output_hidden_states=True, output_attentions=True
        )
        ours = load_sentence_encoder(directory).encoder(ids, mask, hidden=True, explain=True)

    torch.testing.assert_close(ours.last[mask], expected.last_hidden_state[mask], **CLOSE)
    for our_state, their_state in zip(ours.hidden[:-1], expected.hidden_states[:-1], strict=True):
        torch.testing.assert_close(our_state[mask], their_state[mask], **CLOSE)
    rows = mask[:, None, :].expand(-1, SHAPES[model_type].heads, -1)
    for our_weights, their_weights in zip(ours.attentions, expected.attentions, strict=True):
        torch.testing.assert_close(our_weights[rows], their_weights[rows], **CLOSE)


@pytest.mark.parametrize("model_type", TYPES)
def test_the_one_kernel_attention_equals_the_written_out_one(sentence_model, model_type):
    encoder = sentence_model(model_type).encoder
    ids, mask = batch(SHAPES[model_type].pad_id)

    with torch.inference_mode():
        fast, written_out = encoder(ids, mask).last, encoder(ids, mask, explain=True).last

    torch.testing.assert_close(fast[mask], written_out[mask], **CLOSE)


@pytest.mark.parametrize("model_type", TYPES)
def test_logits_of_the_masked_lm_head_equal_those_of_transformers(
    tmp_path, minilm_source, model_type
):
    torch.manual_seed(1)
    model = MaskedLanguageModel(SHAPES[model_type])
    torch.nn.init.normal_(model.bias)
    save_directory(
        tmp_path / "model",
        SentenceEncoder(model.encoder, Pooling.MEAN),
        tokenizer=minilm_source / "tokenizer.json",
        language_model=model,
    )
    ids, mask = batch(SHAPES[model_type].pad_id)

    with torch.inference_mode():
        expected = theirs(tmp_path / "model", AutoModelForMaskedLM)(
            ids, attention_mask=mask.long()
        ).logits
        ours = load_language_model(tmp_path / "model")(ids, mask)

    torch.testing.assert_close(ours[mask], expected[mask], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("model_type", TYPES)
@pytest.mark.parametrize(
    "choices",
    [{}, {"pooling": Pooling.CLS, "projected_width": 24}, {"pooling": Pooling.MAX}],
    ids=["mean", "cls-and-projection", "max"],
)
def test_a_saved_directory_gives_sentence_transformers_the_same_vectors(saved, model_type, choices):
    directory = saved(model_type, **choices)

    expected = SentenceTransformer(str(directory), device="cpu", local_files_only=True).encode(
        TEXTS
    )

    np.testing.assert_allclose(sentence_vectors(directory), expected, atol=1e-5)


def test_minilm_gives_the_vectors_that_sentence_transformers_gives(minilm_source):
    judge = SentenceTransformer(str(minilm_source), device="cpu", local_files_only=True)

    np.testing.assert_allclose(sentence_vectors(minilm_source), judge.encode(TEXTS), atol=1e-5)


def test_dropout_is_for_training_alone():
    encoder = Encoder(SHAPES["bert"]).eval()
    ids, mask = batch(0)

    with torch.inference_mode():
        first, second = encoder(ids, mask).last, encoder(ids, mask).last

    torch.testing.assert_close(first, second, atol=0, rtol=0)


@pytest.mark.parametrize("model_type", TYPES)
def test_both_ways_to_compute_attention_learn_alike(model_type):
    """A run on a GPU takes the one, a run on a CPU the other."""
    torch.manual_seed(7)
    encoder = Encoder(replace(SHAPES[model_type], dropout=0.3)).train()
    ids, mask = batch(SHAPES[model_type].pad_id)
    states = []
    for explain in (False, True):
        torch.manual_seed(8)  # of dropout
        states.append(encoder(ids, mask, explain=explain).last.detach())

    torch.testing.assert_close(*states, **CLOSE)


def test_more_tokens_than_positions_are_refused(sentence_model):
    with pytest.raises(ValueError, match="129 tokens; this model reads 128"):
        sentence_model("bert").encoder(torch.zeros(1, 129, dtype=torch.long))


def sentence_vectors(directory):
    """Our vectors of TEXTS, each encoded alone, of length 1."""
    model = load_sentence_encoder(directory)
    tokenizer = Tokenizer(directory / "tokenizer.json")
    encoded = tokenizer.encode(TEXTS, tokens_max=128, truncation=Truncation.HEAD)
    vectors = []
    for text in encoded:
        ids = torch.from_numpy(text.windows[0].ids)[None]
        with torch.inference_mode():
            vectors.append(model(ids, torch.ones_like(ids))[0].numpy())
    return np.stack(vectors) / np.linalg.norm(vectors, axis=1, keepdims=True)
