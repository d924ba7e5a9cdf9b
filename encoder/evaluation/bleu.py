"""BLEU and chrF of translations, as sacreBLEU and as papers on Multi30k compute them.

sacrebleu and sacremoses are imported when they are needed: only evaluation has them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any


class ScorerMissing(ImportError):
    """A package that evaluation alone needs is not installed."""


@dataclass(frozen=True, slots=True)
class TranslationScores:
    """Of one direction, all times 100.

    bleu:       cased, tokenisation 13a (Post 2018)
    chrf:       chrF2 (Popović 2015)
    lowered:    lower-cased and tokenised by Moses' script, as papers on Multi30k report
    signatures: how sacreBLEU computed them, in this order
    """

    bleu: float
    chrf: float
    lowered: float
    signatures: tuple[str, str, str]


def score(hypotheses: Sequence[str], references: Sequence[str], language: str) -> TranslationScores:
    """Judge translations into `language` by one reference each. Raises ScorerMissing."""
    sacrebleu, moses = _packages()
    bleu, chrf = sacrebleu.BLEU(), sacrebleu.CHRF()
    lowered = sacrebleu.BLEU(lowercase=True, tokenize="none", force=True)
    normalize = moses.MosesPunctNormalizer(lang=language).normalize
    cut = moses.MosesTokenizer(lang=language).tokenize

    def tokenised(texts: Sequence[str]) -> list[str]:
        return [cut(normalize(text), return_str=True, escape=False) for text in texts]

    values = (
        bleu.corpus_score(list(hypotheses), [list(references)]).score,
        chrf.corpus_score(list(hypotheses), [list(references)]).score,
        lowered.corpus_score(tokenised(hypotheses), [tokenised(references)]).score,
    )
    signatures = (str(bleu.get_signature()), str(chrf.get_signature()))
    moses_signature = f"{lowered.get_signature()}, after sacremoses {moses.__version__}"
    return TranslationScores(*values, (*signatures, moses_signature))


def _packages() -> tuple[Any, Any]:
    try:
        return import_module("sacrebleu"), import_module("sacremoses")
    except ImportError as error:
        raise ScorerMissing(
            f"translations are judged with {error.name}, which is not installed: "
            "pip install 'polyseme-server[train]'"
        ) from None
