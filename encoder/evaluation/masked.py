"""The masked-LM loss of a model that has the head: how surprised it is by hidden English words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from encoder.checkpoint import load_language_model
from encoder.config import UnsupportedModel
from encoder.engine import batches
from encoder.evaluation.data import present, read_lines
from encoder.evaluation.result import Score, TaskResult
from encoder.evaluation.torch_model import pad
from encoder.evaluation.vectors import counting
from encoder.model import MaskedLanguageModel
from encoder.tokenizer import Tokenizer, Truncation, Window
from encoder.words import WordNotInWindow, tokens_of, words

MASK_RATE = 0.15
MASK_SHARE, RANDOM_SHARE = 0.8, 0.1  # the rest is left as it is (Devlin et al. 2018)
ROW_TOKENS_MAX = 128  # special tokens included; sentences are packed up to it

_MASKS = ("[MASK]", "<mask>")
_UNKNOWN = "<unk>"
_GLUED = ((" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", "."), (" n't", "n't"), (" '", "'"))
_TIGHT_BEFORE = ",.;:!?)]%"
_TIGHT_AFTER = "(["


@dataclass(frozen=True, slots=True)
class Row:
    """One model input with hidden tokens.

    ids:     (tokens,) what the model sees
    places:  (hidden,) where it must guess
    targets: (hidden,) what was there
    """

    ids: NDArray[np.int64]
    places: NDArray[np.int64]
    targets: NDArray[np.int64]


def masked_loss(directory: Path, data: Path, *, limit: int | None, seed: int) -> TaskResult:
    """Mean cross-entropy in nats of the hidden tokens of WikiText-2's test set.

    Nothing is scored, and a note says so, for a model without the head and without the data.
    """
    file = data / "lm-eval" / "wikitext-2" / "test.txt"
    if not present(file):
        return TaskResult(notes=[f"Masked LM: not scored, {file} is not there"])
    try:
        model = load_language_model(directory)
        vocabulary = Vocabulary(directory / "tokenizer.json")
    except UnsupportedModel as reason:
        return TaskResult(notes=[f"Masked LM: not scored, there is no head ({reason})"])
    tokenizer = Tokenizer(directory / "tokenizer.json")
    tokens_max = min(ROW_TOKENS_MAX, model.encoder.config.tokens_max)
    texts = list(packed(sentences(read_lines(file)), tokenizer, tokens_max))[:limit]
    random = np.random.default_rng(seed)
    losses = [
        _losses(model, [hide(text, window, vocabulary, whole, random) for text, window in half])
        for whole, half in ((False, texts[::2]), (True, texts[1::2]))
    ]
    return _result(losses, texts)


class Vocabulary:
    """What masking must know of a tokenizer."""

    def __init__(self, file: Path) -> None:
        """Read a `tokenizer.json`. Raises UnsupportedModel if it has no mask token."""
        raw = tokenizers.Tokenizer.from_file(str(file))
        masks = [raw.token_to_id(name) for name in _MASKS]
        if not any(mask is not None for mask in masks):
            raise UnsupportedModel(f"{file} has no mask token ({' or '.join(_MASKS)})")
        self.mask_id = next(mask for mask in masks if mask is not None)
        special = {id for id, token in raw.get_added_tokens_decoder().items() if token.special}
        size = raw.get_vocab_size(with_added_tokens=True)
        self.ordinary = np.array([id for id in range(size) if id not in special], dtype=np.int64)


def sentences(lines: Sequence[str]) -> Iterator[str]:
    """Sentences of WikiText as written before it was tokenised.

    Headings go, and so do sentences with a word that WikiText has replaced by `<unk>`.
    """
    for line in lines:
        if line.strip() and not line.strip().startswith("="):
            for sentence in line.strip().removesuffix(" .").split(" . "):
                if _UNKNOWN not in sentence:
                    yield untokenised(sentence) + "."


def untokenised(sentence: str) -> str:
    """Take out the spaces that WikiText's tokenizer put around punctuation."""
    for apart, together in _GLUED:
        sentence = sentence.replace(apart, together)
    for mark in _TIGHT_BEFORE:
        sentence = sentence.replace(f" {mark}", mark)
    for mark in _TIGHT_AFTER:
        sentence = sentence.replace(f"{mark} ", mark)
    return sentence.strip()


def packed(
    texts: Iterator[str], tokenizer: Tokenizer, tokens_max: int
) -> Iterator[tuple[str, Window]]:
    """Consecutive sentences in texts of at most `tokens_max` tokens, each with its window."""
    room = tokens_max - tokenizer.special_tokens_per_window
    row: list[str] = []
    used = 0
    for text in texts:
        encoded = tokenizer.encode([text], tokens_max=10**9, truncation=Truncation.HEAD)[0]
        size = encoded.tokens_total - tokenizer.special_tokens_per_window
        if row and used + size > room:
            yield _window(" ".join(row), tokenizer, tokens_max)
            row, used = [], 0
        row.append(text)
        used += size
    if row:
        yield _window(" ".join(row), tokenizer, tokens_max)


def _window(text: str, tokenizer: Tokenizer, tokens_max: int) -> tuple[str, Window]:
    encoded = tokenizer.encode([text], tokens_max=tokens_max, truncation=Truncation.HEAD)
    return text, encoded[0].windows[0]


def hide(
    text: str, window: Window, vocabulary: Vocabulary, whole: bool, random: np.random.Generator
) -> Row:
    """Hide MASK_RATE of a window's tokens, rounded, at least one; never a special one.

    whole: hide the tokens of a word together (the last word perhaps in part)
    """
    free = np.flatnonzero(window.starts >= 0)
    hidden = max(1, round(MASK_RATE * len(free)))
    if whole:
        groups = word_tokens(text, window)
        order = np.concatenate([groups[place] for place in random.permutation(len(groups))])
    else:
        order = random.permutation(free)
    places = np.sort(order[:hidden])
    targets = window.ids[places]
    fate = random.random(len(places))
    seen = np.where(fate < MASK_SHARE, vocabulary.mask_id, targets)
    other = (fate >= MASK_SHARE) & (fate < MASK_SHARE + RANDOM_SHARE)
    ids = window.ids.copy()
    ids[places] = np.where(other, random.choice(vocabulary.ordinary, len(places)), seen)
    return Row(ids, places, targets)


def word_tokens(text: str, window: Window) -> list[NDArray[np.int64]]:
    """The tokens of each word, and each other token that is not special by itself."""
    groups = []
    left = window.starts >= 0
    for span in words(text):
        try:
            place = tokens_of(window, span)
        except WordNotInWindow:
            break  # cut off, as is all that follows
        inside = np.flatnonzero(left[place]) + place.start
        left[place] = False
        if len(inside):
            groups.append(inside)
    return groups + [np.array([place]) for place in np.flatnonzero(left)]


def _losses(model: MaskedLanguageModel, rows: Sequence[Row]) -> NDArray[np.float64]:
    """The loss of every hidden token, (hidden in all rows,)."""
    losses = []
    with counting("Masked LM rows, torch fp32", len(rows)) as advance, torch.inference_mode():
        for batch in batches([len(row.ids) for row in rows]):
            taken = [rows[index] for index in batch]
            ids, mask = pad([row.ids for row in taken], model.encoder.config.pad_id)
            states = model.encoder(ids, mask).last
            for row, state in zip(taken, states, strict=True):
                logits = model.logits(state[torch.from_numpy(row.places)])
                loss = F.cross_entropy(logits, torch.from_numpy(row.targets), reduction="none")
                losses.append(loss.double().numpy())
            advance(len(batch))
    return np.concatenate(losses) if losses else np.empty(0)


def _result(losses: Sequence[NDArray[np.float64]], texts: Sequence[object]) -> TaskResult:
    single, whole = losses
    both = np.concatenate(losses)
    label = f"MLM loss at {MASK_RATE:.0%} masks"
    scores = [Score("mlm.loss", f"{label}, nats", float(both.mean()))]
    if len(whole):
        scores.append(Score("mlm.whole", f"{label}, whole-word half, nats", float(whole.mean())))
        scores.append(
            Score("mlm.single", f"{label}, single-token half, nats", float(single.mean()))
        )
    note = (
        f"Masked LM: WikiText-2 test with its tokenisation undone, without sentences that hold "
        f"<unk>; {len(both):,} hidden tokens in {len(texts):,} rows of at most {ROW_TOKENS_MAX} "
        f"tokens, {MASK_SHARE:.0%} masked, {RANDOM_SHARE:.0%} replaced, the rest kept. English "
        f"alone, and per token: models with other vocabularies do not compare."
    )
    return TaskResult(scores, [note])
