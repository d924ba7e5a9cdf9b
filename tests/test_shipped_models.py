"""The models that this repository ships: whole, loadable by others, and good for what we say."""

import os
from pathlib import Path

import numpy as np
import pytest
import regex

from encoder.evaluation.card import CARD
from encoder.manifest import Precision, read_manifest, verify
from encoder.runtime import Encoder
from encoder.tokenizer import Truncation
from encoder.translated import assemble, prepare
from encoder.translation import BeamPlan, Translator
from encoder.translation_manifest import has_translator

os.environ["HF_HUB_OFFLINE"] = "1"  # the judges must not ask the network

MODELS = Path(__file__).parents[1] / "models"
NANO = MODELS / "polyseme-nano"
SHIPPED_BYTES_MAX = 120_000_000  # history keeps every version
TEXTS = [
    "Apple was juicy",
    "Apple stock crashed today",
    "Der Apfel fiel weit vom Stamm.",
    "La banque a relevé ses taux d'intérêt, et la rivière a débordé.",
    "Ünïcode, 42 numbers and a naïve\tTab 🍎.",
]


@pytest.fixture(scope="module")
def nano():
    return Encoder.load(NANO, precision=Precision.INT8)


def test_its_files_are_those_that_were_written_and_not_too_many():
    manifest = read_manifest(NANO)

    verify(NANO, manifest)
    assert sum(record.size_bytes for record in manifest.files.values()) < SHIPPED_BYTES_MAX
    assert Precision.INT8 in manifest.precisions
    assert "## Evaluation" in (NANO / CARD).read_text("utf-8")


def test_sentence_transformers_loads_it_unchanged_with_the_vectors_of_our_torch_model():
    import torch
    from sentence_transformers import SentenceTransformer

    from encoder.checkpoint import load_sentence_encoder
    from encoder.evaluation.torch_model import TorchModel

    judge = SentenceTransformer(str(NANO), device="cpu", local_files_only=True)
    with torch.no_grad():
        theirs = judge.encode(TEXTS, normalize_embeddings=True)

    assert load_sentence_encoder(NANO).width == theirs.shape[1] == 384
    ours = TorchModel(NANO)
    windows = [
        text.windows[0]
        for text in ours.tokenizer.encode(TEXTS, tokens_max=512, truncation=Truncation.ERROR)
    ]
    vectors = ours.pooled(windows)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, theirs, atol=1e-5)


def test_transformers_guesses_masked_words_with_it_as_the_served_graph_does(nano):
    import torch
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    text = "Paris is the capital of [MASK]."
    tokenizer = AutoTokenizer.from_pretrained(NANO, local_files_only=True)
    judge = AutoModelForMaskedLM.from_pretrained(NANO, local_files_only=True).eval()
    ids = tokenizer(text, return_tensors="pt")
    place = int((ids["input_ids"][0] == tokenizer.mask_token_id).nonzero())
    with torch.no_grad():
        theirs = judge(**ids).logits[0, place].numpy()

    [encoded] = nano.tokenizer.encode([text], tokens_max=512, truncation=Truncation.ERROR)
    assert encoded.windows[0].ids.tolist() == ids["input_ids"][0].tolist()
    [ours] = nano.fill(encoded.windows, [[place]])
    assert np.corrcoef(ours[0], theirs)[0, 1] > 0.99
    assert int(theirs.argmax()) in np.argsort(-ours[0])[:3]


@pytest.fixture(scope="module")
def translator():
    if not has_translator(NANO):
        pytest.skip("the model that ships has no translator yet")
    return Translator.load(NANO, precision=Precision.INT8)


def translated(translator, text, to, *, alignment=False):
    prepared = prepare(translator, text, target=to)
    written = translator.translate(
        prepared.windows, [to] * len(prepared.windows), BeamPlan(), attention=alignment
    )
    return assemble(translator, prepared, written, alignment=alignment)


def test_it_translates_i_am_a_student_and_student_looks_at_etudiant(translator):
    text = "Je suis étudiant."

    found = translated(translator, text, "en", alignment=True)

    assert found.text in {"I am a student.", "I'm a student."}
    [sentence] = found.sentences
    [aligned] = sentence.alignments
    sources = [text[span.start : span.end] for span in aligned.source]
    targets = [found.text[span.start : span.end] for span in aligned.target]
    of_student = aligned.weights[targets.index("student")]
    assert sources[int(np.argmax(of_student))] == "étudiant"


@pytest.mark.parametrize(
    ("text", "to", "words"),
    [
        ("A man in a red shirt is riding a bicycle.", "de", {"Mann", "roten", "Fahrrad"}),
        ("Two dogs are running across the snow.", "fr", {"chiens", "courent", "neige"}),
        ("Eine Frau liest auf einer Bank ein Buch.", "en", {"woman", "reading", "bench", "book"}),
        ("Deux enfants jouent dans l'eau.", "en", {"children", "water"}),
        ("Ein Hund springt über einen Zaun.", "fr", {"chien", "saute"}),
    ],
)
def test_it_translates_what_pictures_show(translator, text, to, words):
    found = set(regex.findall(r"\w+", translated(translator, text, to).text))

    assert words <= found
