"""SentencePiece's model files, read without SentencePiece, as tokenizers of ours.

The format is a protocol buffer (sentencepiece_model.proto): its wire format is read here directly,
because four fields of it are needed and the package that has the rest is no part of serving.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from encoder.config import UnsupportedModel
from encoder.manifest import ModelDamaged

SPACE = "▁"  # U+2581
_UNIGRAM = 1
_NORMAL, _USER_DEFINED = 1, 4  # kinds of piece that text is cut into

Value: TypeAlias = int | bytes


@dataclass(frozen=True, slots=True)
class Pieces:
    """A unigram model: what text is cut into, and how likely each piece is.

    scores:   of each piece, its log-probability
    charsmap: the compiled normalisation (NFKC and the like); empty for none
    """

    scores: Mapping[str, float]
    charsmap: bytes
    begins_with_space: bool
    joins_spaces: bool


def read_pieces(file: Path) -> Pieces:
    """Read an `.spm` file. Raises ModelDamaged, and UnsupportedModel for BPE models."""
    try:
        return _pieces(file.read_bytes())
    except (IndexError, struct.error, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ModelDamaged(file, f"is no SentencePiece model: {error}") from None


def source_tokenizer(
    pieces: Pieces, ids: Mapping[str, int], *, unknown: str, end: str
) -> Tokenizer:
    """Cuts as `pieces` say, numbers as `ids` do, and puts `end` after each text.

    A piece that `ids` has not is left out, so that text is cut into others. A token of `ids` that
    is no piece belongs to the target: it is there under a name that no text can be cut into,
    since spaces are replaced before the cutting. Raises UnsupportedModel for ids with gaps.
    """
    special = {unknown, end}
    vocabulary = [
        (token, pieces.scores[token])
        if token in pieces.scores
        else (token if token in special else f" {token}", 0.0)
        for token in _in_order(ids)
    ]
    tokenizer = _assemble(vocabulary, pieces, ids[unknown])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A $B {end}", special_tokens=[(end, ids[end])]
    )
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return tokenizer


def target_tokenizer(
    pieces: Pieces, ids: Mapping[str, int], *, special: Sequence[str]
) -> Tokenizer:
    """Reads ids as text: every token of `ids` by its own name, `special` ones left out."""
    lowest = min(pieces.scores.values(), default=0.0)
    vocabulary = [(token, pieces.scores.get(token, lowest)) for token in _in_order(ids)]
    tokenizer = _assemble(vocabulary, pieces, ids[special[0]])
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return tokenizer


def _in_order(ids: Mapping[str, int]) -> list[str]:
    order = sorted(ids, key=ids.__getitem__)
    if [ids[token] for token in order] != list(range(len(order))):
        raise UnsupportedModel("the ids of the vocabulary have gaps")
    return order


def _assemble(vocabulary: list[tuple[str, float]], pieces: Pieces, unknown_id: int) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=unknown_id, byte_fallback=False))
    steps: list[normalizers.Normalizer] = []
    if pieces.charsmap:
        steps.append(normalizers.Precompiled(pieces.charsmap))
    if pieces.joins_spaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if steps:
        tokenizer.normalizer = normalizers.Sequence(steps)
    scheme = "always" if pieces.begins_with_space else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement=SPACE, prepend_scheme=scheme, split=False
    )
    tokenizer.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme=scheme)
    return tokenizer


def _pieces(content: bytes) -> Pieces:
    scores: dict[str, float] = {}
    charsmap, prefix, joins, kind = b"", True, True, _UNIGRAM
    for field, value in _fields(content):
        if field == 1:
            piece = dict(_fields(_bytes(value)))
            if piece.get(3, _NORMAL) in (_NORMAL, _USER_DEFINED):
                (score,) = struct.unpack("<f", _bytes(piece.get(2, bytes(4))))
                scores[_bytes(piece[1]).decode("utf-8")] = score
        elif field == 2:
            kind = int(dict(_fields(_bytes(value))).get(3, _UNIGRAM))
        elif field == 3:
            rules = dict(_fields(_bytes(value)))
            charsmap = _bytes(rules.get(2, b""))
            prefix, joins = bool(rules.get(3, 1)), bool(rules.get(4, 1))
    if kind != _UNIGRAM:
        raise UnsupportedModel(
            f"a SentencePiece model of kind {kind} is missing here; unigram is 1"
        )
    return Pieces(scores, charsmap, prefix, joins)


def _fields(content: bytes) -> Iterator[tuple[int, Value]]:
    """The fields of a message in order: its number, and an integer or the bytes of anything else.

    Wire types: 0 a varint, 1 eight bytes, 2 a length and so many bytes, 5 four bytes.
    """
    place = 0
    while place < len(content):
        key, place = _varint(content, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(content, place)
            yield key >> 3, value
            continue
        if kind == 2:
            length, place = _varint(content, place)
        else:
            length = {1: 8, 5: 4}[kind]
        if place + length > len(content):
            raise IndexError("a field goes beyond the file's end")
        yield key >> 3, content[place : place + length]
        place += length


def _varint(content: bytes, place: int) -> tuple[int, int]:
    """Seven bits a byte, the lowest first, and the place after it."""
    value = shift = 0
    while True:
        byte = content[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7


def _bytes(value: Value) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("a number where bytes were expected")
    return value
