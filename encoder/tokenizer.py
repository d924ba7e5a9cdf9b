"""Text to token ids, with offsets into the text exactly as the caller gave it."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray

from encoder.manifest import ModelDamaged
from encoder.runs import runs_of

# Neighbouring windows share this many tokens, so that a word at an edge has context on both
# sides in one of them; a quarter of the room when a window is too small for it.
WINDOW_OVERLAP_TOKENS = 32

# Texts tokenised at once. The library holds about 200 bytes a token until we have made windows of
# them; a run is long enough to keep all cores busy.
RUN_CODE_POINTS_MAX = 65_536

# How tokenizers spell the token that stands for a hidden one: BERT's kind, RoBERTa's.
_MASKS = ("[MASK]", "<mask>")
# How they mark a token that begins a word (byte-level BPE, SentencePiece), or continues one.
_BEGINNINGS = ("Ġ", "▁")
_CONTINUATION = "##"

NO_OFFSET = -1  # of a special token, and of a token that belongs to the prompt
NOWHERE: NDArray[np.int32] = np.empty(0, dtype=np.int32)  # the places of a window without them


class Truncation(StrEnum):
    """What to do with a text that has more tokens than the model can read."""

    ERROR = "error"
    HEAD = "head"  # keep the head
    TAIL = "tail"  # keep the tail
    WINDOWS = "windows"  # keep all of it, in overlapping windows


class InputTooLong(ValueError):
    """A text has more tokens than are allowed and must not be truncated."""

    def __init__(self, index: int, tokens: int, tokens_max: int) -> None:
        super().__init__(f"text {index} has {tokens} tokens; the limit is {tokens_max}")
        self.index = index
        self.tokens = tokens
        self.tokens_max = tokens_max


class LoneSurrogate(ValueError):
    """A text holds half of a surrogate pair, which no Unicode encoding can carry."""

    def __init__(self, index: int, position: int) -> None:
        super().__init__(f"text {index} has a lone surrogate at code point {position}")
        self.index = index
        self.position = position


@dataclass(frozen=True, slots=True)
class Window:
    """One model input, special tokens included.

    ids:    (tokens,)
    starts: (tokens,) code-point offset into the text as given, without the prompt; -1 where
            a token is special or belongs to the prompt; empty where nobody asked for places
    ends:   (tokens,) the same, exclusive
    """

    ids: NDArray[np.int64]
    starts: NDArray[np.int32]
    ends: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """The model inputs of one text: one window, or more for a long text under WINDOWS."""

    windows: tuple[Window, ...]
    tokens_total: int  # of the whole text, special and prompt tokens included
    tokens_used: int
    truncated: bool


class Tokenizer:
    """A model's tokenizer. Thread-safe; the GIL is released while it tokenises."""

    def __init__(self, file: Path) -> None:
        """Read a `tokenizer.json`. Raises ModelDamaged if it is not one."""
        content = file.read_bytes()
        self.sha256 = hashlib.sha256(content).hexdigest()
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(content)
        except Exception as error:  # the library raises the bare class, whatever was wrong
            raise ModelDamaged(file, f"is not a tokenizer: {error}") from error
        # A file may carry the length and padding it was trained with; both are ours to decide.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.vocab_size = self._tokenizer.get_vocab_size(with_added_tokens=True)
        self._prefix, self._suffix = _special_tokens(self._tokenizer)
        self._space_in_tokens = _space_in_tokens(self._tokenizer)
        masks = [self._tokenizer.token_to_id(mask) for mask in _MASKS]
        self.mask_id: int | None = next((mask for mask in masks if mask is not None), None)

    @property
    def special_tokens_per_window(self) -> int:
        """How many tokens of a window are not the text's: two for BERT, [CLS] and [SEP]."""
        return len(self._prefix) + len(self._suffix)

    def encode(
        self,
        texts: Sequence[str],
        *,
        tokens_max: int,
        truncation: Truncation,
        prompt: str = "",
    ) -> list[TokenizedText]:
        """Tokenise each of `texts`, in order, with `prompt` written before it.

        tokens_max counts a whole window: special tokens, prompt and text. The prompt is kept in
        every window, whichever part of the text is. An empty text is its special tokens alone.
        Raises InputTooLong under ERROR, LoneSurrogate, and ValueError if `tokens_max` leaves no
        room for a single token of text.
        """
        return list(self.each(texts, tokens_max=tokens_max, truncation=truncation, prompt=prompt))

    def each(
        self,
        texts: Sequence[str],
        *,
        tokens_max: int,
        truncation: Truncation,
        prompt: str = "",
        places: bool = True,
    ) -> Iterator[TokenizedText]:
        """The same, tokenised as they are taken, a little ahead: who stops has saved the rest.

        places: False leaves `starts` and `ends` empty, which saves three fifths of the time
        """
        for index, text in enumerate(texts):
            _refuse_surrogates(index, text)
        located = places or bool(prompt)  # it is known by its places where the prompt ends
        encode = self._tokenizer.encode_batch if located else self._tokenizer.encode_batch_fast
        for run in runs_of([len(prompt) + len(text) for text in texts], RUN_CODE_POINTS_MAX):
            encodings = encode([prompt + text for text in texts[run]], add_special_tokens=False)
            for index, encoding in enumerate(encodings, start=run.start):
                if not located:
                    yield self._unlocated(index, encoding.ids, tokens_max, truncation)
                    continue
                yield self._tokenized(
                    index,
                    texts[index],
                    encoding,
                    len(prompt),
                    tokens_max=tokens_max,
                    truncation=truncation,
                )

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """The vocabulary's spelling of each id. Raises ValueError for an id outside of it."""
        return [self._token(int(token_id)) for token_id in ids]

    def id_of(self, token: str) -> int | None:
        """The id of the token that the vocabulary spells so; None if there is none."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    @property
    def special_ids(self) -> frozenset[int]:
        """The ids of tokens that are no text: padding, beginnings and ends, the mask."""
        added = self._tokenizer.get_added_tokens_decoder()
        return frozenset(number for number, token in added.items() if token.special)

    def text_ids(self) -> NDArray[np.bool_]:
        """For each id, up to the largest, whether it is a token of text; gaps are none."""
        are = np.array([spelling is not None for spelling in self._spellings()])
        are[list(self.special_ids)] = False
        return are

    def word_ids(self) -> NDArray[np.bool_]:
        """For each id, up to the largest, whether it is a word's beginning, or a whole word."""
        second = self._tokenizer.encode("a b", add_special_tokens=False).tokens[-1]
        marker = next((mark for mark in _BEGINNINGS if second.startswith(mark)), "")
        begins = np.array([_begins_word(spelling or "", marker) for spelling in self._spellings()])
        begins[list(self.special_ids)] = False
        return begins

    def _spellings(self) -> list[str | None]:
        """By id. A vocabulary may have fewer tokens than its largest id says."""
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        spellings: list[str | None] = [None] * (max(vocabulary.values()) + 1)
        for spelling, number in vocabulary.items():
            spellings[number] = spelling
        return spellings

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """A text for `ids`; not always the one they came from (case and spaces may be lost)."""
        self.tokens(ids)
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=skip_special)

    def _token(self, token_id: int) -> str:
        token = self._tokenizer.id_to_token(token_id) if token_id >= 0 else None
        if token is None:
            raise ValueError(f"no token has id {token_id}; the vocabulary has {self.vocab_size}")
        return token

    def _tokenized(
        self,
        index: int,
        text: str,
        encoding: tokenizers.Encoding,
        prompt_length: int,
        *,
        tokens_max: int,
        truncation: Truncation,
    ) -> TokenizedText:
        ids = np.array(encoding.ids, dtype=np.int64)
        offsets = np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2) - prompt_length
        if self._space_in_tokens:
            _trim_spaces(offsets, text)
        prompt_tokens = int(np.searchsorted(offsets[:, 1], 0, side="right")) if prompt_length else 0
        np.maximum(offsets, 0, out=offsets)  # a token may straddle the prompt's end
        offsets[:prompt_tokens] = NO_OFFSET

        total = len(ids) + self.special_tokens_per_window
        if truncation is Truncation.ERROR and total > tokens_max:
            raise InputTooLong(index, total, tokens_max)
        room = self._room(tokens_max, prompt_tokens)
        pieces = [
            slice(piece.start + prompt_tokens, piece.stop + prompt_tokens)
            for piece in pieces_of(len(ids) - prompt_tokens, room, truncation)
        ]
        used = total if len(pieces) > 1 else total - len(ids) + prompt_tokens + _length(pieces[0])
        return TokenizedText(
            windows=tuple(self._window(ids, offsets, prompt_tokens, piece) for piece in pieces),
            tokens_total=total,
            tokens_used=used,
            truncated=used < total,
        )

    def _unlocated(
        self, index: int, ids: list[int], tokens_max: int, truncation: Truncation
    ) -> TokenizedText:
        """As `_tokenized`, of a text without a prompt whose tokens' places nobody asks for."""
        total = len(ids) + self.special_tokens_per_window
        if truncation is Truncation.ERROR and total > tokens_max:
            raise InputTooLong(index, total, tokens_max)
        pieces = pieces_of(len(ids), self._room(tokens_max, 0), truncation)
        before, after = self._prefix.tolist(), self._suffix.tolist()
        windows = tuple(
            Window(np.array([*before, *ids[piece], *after], dtype=np.int64), NOWHERE, NOWHERE)
            for piece in pieces
        )
        used = total if len(pieces) > 1 else total - len(ids) + _length(pieces[0])
        return TokenizedText(windows, total, used, truncated=used < total)

    def _room(self, tokens_max: int, prompt_tokens: int) -> int:
        """How many tokens of text a window has room for. Raises ValueError for none."""
        room = tokens_max - self.special_tokens_per_window - prompt_tokens
        if room < 1:
            raise ValueError(
                f"tokens_max {tokens_max} leaves no room for text beside "
                f"{self.special_tokens_per_window} special and {prompt_tokens} prompt tokens"
            )
        return room

    def _window(
        self, ids: NDArray[np.int64], offsets: NDArray[np.int32], prompt_tokens: int, piece: slice
    ) -> Window:
        before = np.full((len(self._prefix), 2), NO_OFFSET, dtype=np.int32)
        after = np.full((len(self._suffix), 2), NO_OFFSET, dtype=np.int32)
        whole = np.concatenate([before, offsets[:prompt_tokens], offsets[piece], after])
        return Window(
            ids=np.concatenate([self._prefix, ids[:prompt_tokens], ids[piece], self._suffix]),
            starts=np.ascontiguousarray(whole[:, 0]),
            ends=np.ascontiguousarray(whole[:, 1]),
        )


def pieces_of(tokens: int, room: int, truncation: Truncation) -> list[slice]:
    """The parts of a text of `tokens` tokens that its windows hold, `room` tokens at most each.

    Under WINDOWS they overlap and cover every token; the last one ends where the text does and
    is as long as the others, because the end of a text deserves context too.
    """
    if tokens <= room:
        return [slice(0, tokens)]
    if truncation is Truncation.TAIL:
        return [slice(tokens - room, tokens)]
    if truncation is not Truncation.WINDOWS:
        return [slice(0, room)]
    step = room - min(WINDOW_OVERLAP_TOKENS, room // 4)
    starts = [*range(0, tokens - room, step), tokens - room]
    return [slice(start, start + room) for start in starts]


def _begins_word(spelling: str, marker: str) -> bool:
    """Whether a token may stand where a word does: not a piece of one, nor punctuation."""
    if marker:
        return spelling.startswith(marker) and _word_like(spelling.removeprefix(marker))
    return not spelling.startswith(_CONTINUATION) and _word_like(spelling)


def _word_like(spelling: str) -> bool:
    # Byte-level tokens spell bytes above 127 as letters, so a word of any script passes.
    return any(character.isalnum() for character in spelling)


def _length(piece: slice) -> int:
    return int(piece.stop - piece.start)


def _refuse_surrogates(index: int, text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise LoneSurrogate(index, error.start) from None


def _special_tokens(
    tokenizer: tokenizers.Tokenizer,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The ids that the tokenizer's own template writes before and after a text."""
    mask = tokenizer.encode("a").special_tokens_mask
    ids = np.array(tokenizer.encode("a").ids, dtype=np.int64)
    first = mask.index(0) if 0 in mask else len(mask)
    last = len(mask) - mask[::-1].index(0) if 0 in mask else len(mask)
    return ids[:first], ids[last:]


def _space_in_tokens(tokenizer: tokenizers.Tokenizer) -> bool:
    """Whether a token's offsets take in the space before it (SentencePiece style)."""
    return any("a b"[start:end].startswith(" ") for start, end in tokenizer.encode("a b").offsets)


def _trim_spaces(offsets: NDArray[np.int32], text: str) -> None:
    """Move each start past white space, so that a token's span is a part of its word."""
    for row in range(len(offsets)):
        start, end = int(offsets[row, 0]), int(offsets[row, 1])
        while 0 <= start < end - 1 and text[start].isspace():
            start += 1
        offsets[row, 0] = start
