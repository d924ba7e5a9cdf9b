"""What a score can be held against: other models' numbers, and the floors our own must pass.

A number's origin is part of it: [C] recomputed from public result files, [X] measured for this
project, [P] published. All are times 100, as the scores are.
"""

from collections.abc import Mapping

# The least that polyseme-nano must reach, by a score's key.
NANO_FLOORS: Mapping[str, float] = {
    "mlm.loss": 4.2,
    "senses.contextual.1nn.macro": 72.0,
    "senses.contextual.lda.macro": 83.0,
    "senses.contextual.lda.apple": 95.0,
    "sts.en": 70.0,
    "sts.de": 58.0,
    "sts.fr": 60.0,
    "tatoeba.de-en": 85.0,
    "tatoeba.fr-en": 78.0,
    "translation.en-de.bleu": 34.0,
    "translation.en-fr.bleu": 52.0,
    "translation.de-en.bleu": 35.0,
    "translation.fr-en.bleu": 45.0,
    "translation.en-de.lowered": 37.0,
    "translation.en-fr.lowered": 56.0,
}

_SENTENCES = ("MiniLM-L6", "static-similarity-multilingual", "m-MiniLM-L12")
_TATOEBA = ("static-similarity-multilingual", "m-MiniLM-L12", "LaBSE")


def _beside(models: tuple[str, ...], values: tuple[float, ...], origin: str) -> str:
    pairs = (f"{model} {value}" for model, value in zip(models, values, strict=True))
    return ", ".join(pairs) + f" [{origin}]"


ANCHORS: Mapping[str, str] = {
    "senses.contextual.1nn.macro": "BERT-base 91.0, BERT-large 93.2 [C]",
    "senses.contextual.lda.macro": "fastText 78.5 and 86.8 [C], MiniLM-L6 91.2 [X]",
    "senses.contextual.1nn.words": "MiniLM-L6 86 [X]",
    "senses.contextual.lda.words": "MiniLM-L6 95 [X]",
    "senses.static-averaged.lda.macro": "bag of words 87.5 to 89.4 [X]",
    "senses.contextual.lda.apple": "most frequent 61.4, fastText 96.5, BERT-base 99.0 [C]",
    "sts.en": _beside(_SENTENCES, (82.0, 79.9, 84.4), "C"),
    "sts.de": _beside(_SENTENCES, (62.4, 70.4, 78.9), "C"),
    "sts.fr": _beside(_SENTENCES, (64.9, 73.6, 79.9), "C"),
    "tatoeba.de-en.f1": _beside(_TATOEBA, (95.4, 97.0, 99.2), "C"),
    "tatoeba.fr-en.f1": _beside(_TATOEBA, (88.7, 91.7, 94.9), "C"),
    "translation.en-de.bleu": "OPUS-MT 36.3 [P]",
    "translation.en-fr.bleu": "OPUS-MT 52.4 [P]",
    "translation.de-en.bleu": "OPUS-MT 40.5 [P]",
    "translation.fr-en.bleu": "OPUS-MT 49.7 [P]",
    "translation.en-de.lowered": "Transformer-Tiny 41.0 [P]",
    "translation.en-fr.lowered": "Transformer-Tiny 61.8 [P]",
    **{
        f"retrieval.{name}.{way}": text
        for name, bm25, minilm in (
            ("cranfield", 37.6, 42.7),
            ("cisi", 29.6, 41.9),
            ("npl-vaswani", 37.0, 43.4),
            ("xquad-en", 96.2, 94.3),
            ("xquad-de", 91.2, 70.4),
            ("piaf-fr", 76.4, 47.2),
            ("pubmedqa-l", 96.2, 98.5),
        )
        for way, text in (("bm25", f"BM25 {bm25} [X]"), ("dense", f"MiniLM-L6 {minilm} [X]"))
    },
}
