"""Which language a text is in, by py3langid, whose model comes with the package."""

import threading
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Any

from py3langid.langid import (  # type: ignore[import-untyped]  # it has no types
    MODEL_FILE,
    LanguageIdentifier,
)

# More of a text than this tells nothing new, and a megabyte of it would take a second.
_CHARACTERS_MAX = 2000

# A text is in another language than those asked for if that one is so much likelier than the best
# of them, and likely at all. Of 600 texts each of Multi30k, newstest2013, Tatoeba and of three
# words of Multi30k in English, German and French, none is then refused.
_FOREIGN_FACTOR = 100.0
_FOREIGN_SHARE_MIN = 0.2
# Of the languages asked for, one that is unlikely to be meant needs such a share.
_SURE = 0.9

_loading = threading.Lock()


@dataclass(frozen=True, slots=True)
class Detected:
    """The likeliest of the languages asked for.

    confidence: its share among them, 0 to 1
    foreign:    the language that the text is in, if that is none of them; empty otherwise
    """

    language: str
    confidence: float
    foreign: str = ""


def detect(text: str, among: Collection[str], *, unlikely: str = "") -> Detected:
    """Which of the languages `among` the text is in; codes of ISO 639-1.

    unlikely: a language that wins only if it is sure: somebody who wants a text in German seldom
              gives one that is German already
    Thread-safe. The first call loads the model, which takes a second and 90 MB.
    """
    shares = dict(_model().rank(text[:_CHARACTERS_MAX]))
    inside = {language: float(shares.get(language, 0.0)) for language in sorted(among)}
    total = sum(inside.values())
    best = max(inside, key=inside.__getitem__)
    if best == unlikely and len(inside) > 1 and inside[best] < _SURE * total:
        best = max((one for one in inside if one != unlikely), key=inside.__getitem__)
    likeliest, share = max(shares.items(), key=lambda item: float(item[1]))
    foreign = share >= _FOREIGN_SHARE_MIN and share > _FOREIGN_FACTOR * max(inside.values())
    confidence = inside[best] / total if total > 0 else 1 / len(inside)
    return Detected(best, confidence, str(likeliest) if foreign else "")


@cache
def _loaded() -> Any:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _model() -> Any:
    with _loading:  # once, however many threads come first
        return _loaded()
