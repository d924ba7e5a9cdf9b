"""Trains a tokenizer: cased BPE with a byte fallback, digits alone, 64 reserved ids."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import (
    AddedToken,
    Regex,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

PAD, UNKNOWN, BEGIN, END, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
LANGUAGES = ("en", "de", "fr")
RESERVED_IDS = 64  # the first ones; a later stage may give the unused ones a meaning
BYTES = 256
SPACE = "▁"  # U+2581, which stands for the space before a word

# A word with its space; one digit; one other character, with its space; spaces that remain.
PIECES = Regex(
    rf"{SPACE}?[\p{{L}}\p{{M}}]+|{SPACE}?\p{{N}}|{SPACE}?[^{SPACE}\p{{L}}\p{{M}}\p{{N}}]|{SPACE}+"
)


def reserved_tokens() -> list[str]:
    """The special tokens, in the order of their ids."""
    named = [PAD, UNKNOWN, BEGIN, END, MASK, *(f"<2{language}>" for language in LANGUAGES)]
    return named + [f"[unused{index}]" for index in range(RESERVED_IDS - len(named))]


def train_vocabulary(lines: Iterable[str], size: int, *, progress: bool) -> tokenizers.Tokenizer:
    """A tokenizer of at most `size` tokens: fewer where the text has no more pieces worth one.

    Every text can be written in it and read back: a character outside the vocabulary becomes
    its UTF-8 bytes. The same lines in the same order give the same tokenizer.
    """
    draft = tokenizers.Tokenizer(models.BPE())
    draft.normalizer = normalizers.NFC()
    draft.pre_tokenizer = _pre_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=size - RESERVED_IDS - BYTES,
        min_frequency=2,
        limit_alphabet=1000,  # rarer characters are bytes
        show_progress=progress,
    )
    draft.train_from_iterator(lines, trainer)
    learned = json.loads(draft.to_str())["model"]
    return _assemble(learned["vocab"], learned["merges"])


def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first", split=False),
            pre_tokenizers.Split(PIECES, behavior="isolated"),
        ]
    )


def _assemble(learned: dict[str, int], merges: list[Any]) -> tokenizers.Tokenizer:
    """Reserved tokens, then the bytes, then what was learned, in the order of learning."""
    order = [*reserved_tokens(), *(f"<0x{byte:02X}>" for byte in range(BYTES))]
    order += sorted(learned, key=learned.__getitem__)
    tokenizer = tokenizers.Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(order)},
            merges=[tuple(merge) for merge in merges],
            unk_token=UNKNOWN,
            byte_fallback=True,
            fuse_unk=False,
        )
    )
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _pre_tokenizer()
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    begin, end = order.index(BEGIN), order.index(END)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A {END}",
        pair=f"{BEGIN} $A {END} $B {END}",
        special_tokens=[(BEGIN, begin), (END, end)],
    )
    tokenizer.add_special_tokens(
        # A mask stands for a word with its space, so it takes the space before it.
        [AddedToken(t, lstrip=t == MASK, special=True) for t in reserved_tokens()]
    )
    return tokenizer


# What transformers' AutoTokenizer wants to know of them.
SPECIAL_TOKENS = {
    "pad_token": PAD,
    "unk_token": UNKNOWN,
    "cls_token": BEGIN,
    "sep_token": END,
    "bos_token": BEGIN,
    "eos_token": END,
    "mask_token": MASK,
}


def token_id(tokenizer: tokenizers.Tokenizer, token: str) -> int:
    """The id of a token that must exist. Raises ValueError where it does not."""
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"the tokenizer has no token {token!r}")
    return int(found)


def word_starts(tokenizer: tokenizers.Tokenizer) -> NDArray[np.bool_]:
    """For each id, whether a word begins with it: (vocabulary,).

    Whole-word masking hides a token together with those that continue it: letters without a
    space before them, and bytes.
    """
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    starts = np.ones(size, dtype=np.bool_)
    for index in range(RESERVED_IDS, size):
        token = tokenizer.id_to_token(index) or SPACE
        is_byte = index < RESERVED_IDS + BYTES
        starts[index] = not is_byte and not token[0].isalpha()
    return starts


def sample(lines: Iterable[str], bytes_max: int, bytes_total: int) -> Iterator[str]:
    """Lines spread evenly over a text of `bytes_total`, `bytes_max` of them at most."""
    share = min(1.0, bytes_max / max(1, bytes_total))
    owed = 0.0
    for line in lines:
        owed += share * len(line.encode())
        if owed >= len(line.encode()):
            owed -= len(line.encode())
            yield line
