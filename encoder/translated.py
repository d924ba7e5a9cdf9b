"""Whole texts to translation and back: cut into what the model reads, and put together again."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import regex

from encoder.alignment import Aligned, align, token_places
from encoder.languages import detect
from encoder.sentences import Piece, Splitting, fitted, is_translatable, pieces, trimmed
from encoder.tokenizer import Tokenizer, Truncation, Window
from encoder.translation import BeamPlan, PairMissing, Translator, Written
from encoder.words import Span

_UNLIMITED = 2**31 - 1
# Tags and addresses are in no language; taken for one, `class` is French and `the/house` English.
_NO_LANGUAGE = regex.compile(r"<[/!?]?[A-Za-z][^<>]*>|https?://\S+")


class LanguageUnknown(ValueError):
    """A text is in none of the languages that can be translated; `language` is what it looks
    like."""

    def __init__(self, language: str, known: Sequence[str]) -> None:
        super().__init__(
            f"the text looks like {language!r}, which is none of {', '.join(known)}; "
            "name its language to have it translated all the same"
        )
        self.language = language


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a text as the model reads it; without a window it is copied."""

    piece: Piece
    window: Window | None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A text before its translation.

    source:     its language; empty where there is nothing to translate
    confidence: how sure that is; None if the caller said it
    """

    text: str
    source: str
    confidence: float | None
    parts: tuple[Part, ...]

    @property
    def windows(self) -> list[Window]:
        """What is to be translated, in order."""
        return [part.window for part in self.parts if part.window is not None]

    @property
    def tokens(self) -> int:
        """Source tokens that the model will read."""
        return sum(len(window.ids) for window in self.windows)


@dataclass(frozen=True, slots=True)
class Sentence:
    """A piece and its translations.

    source:     its place in the text
    target:     its best translation's place in the translated text
    written:    best first; none for what was copied
    alignments: of each of `written`, source words by their place in the text; none if not asked
    """

    source: Span
    target: Span
    written: tuple[Written, ...]
    alignments: tuple[Aligned, ...]
    tokens: int


@dataclass(frozen=True, slots=True)
class Translated:
    """A text translated."""

    text: str
    source: str
    confidence: float | None
    sentences: tuple[Sentence, ...]
    tokens: int

    @property
    def cut(self) -> int:
        """Sentences whose best translation the longest length cut."""
        return sum(1 for one in self.sentences if one.written and not one.written[0].finished)


def prepare(
    translator: Translator,
    text: str,
    *,
    source: str = "",
    target: str,
    splitting: Splitting = Splitting.SENTENCES_AND_LINES,
) -> Prepared:
    """Find the text's language, cut it into sentences, tokenise them.

    source: empty to detect it. What is found to be in the target language is copied.
    Raises PairMissing, LanguageUnknown.
    """
    sources = sources_of(translator, target)
    if source and source not in sources:
        raise PairMissing(
            f"{translator.name} does not translate {source!r} into {target!r}, "
            f"but {', '.join(sources)}"
        )
    if not is_translatable(text):
        return Prepared(text, source, None, _parts(translator, text, "", splitting, copied=True))
    confidence = None
    if not source:
        found = detect(_prose(text), {*sources, target}, unlikely=target)
        if found.foreign:
            raise LanguageUnknown(found.foreign, sorted({*sources, target}))
        source, confidence = found.language, found.confidence
    parts = _parts(translator, text, source, splitting, copied=source == target)
    return Prepared(text, source, confidence, parts)


def sources_of(translator: Translator, target: str) -> tuple[str, ...]:
    """The languages that can be translated into `target`. Raises PairMissing if none can."""
    sources = tuple(sorted(source for source, into in translator.pairs if into == target))
    if not sources:
        raise PairMissing(
            f"{translator.name} does not translate into {target!r}, "
            f"but into {', '.join(translator.targets)}"
        )
    return sources


def _prose(text: str) -> str:
    """What of a text is in a language; all of it where nothing else is to go by."""
    prose = _NO_LANGUAGE.sub(" ", text)
    return prose if is_translatable(prose) else text


def assemble(
    translator: Translator,
    prepared: Prepared,
    written: Iterable[Sequence[Written]],
    *,
    alignment: bool = False,
) -> Translated:
    """Put a text together from the translations of its windows, in order, of each the best."""
    assembly = Assembly(translator, prepared, alignment=alignment)
    translations = iter(written)
    for part in prepared.parts:
        assembly.add(next(translations) if part.window is not None else ())
    return assembly.translated()


class Assembly:
    """A translated text as it grows, sentence by sentence."""

    def __init__(self, translator: Translator, prepared: Prepared, *, alignment: bool) -> None:
        self._translator = translator
        self._prepared = prepared
        self._alignment = alignment
        self._places = Places(prepared.text)
        self._written: list[str] = []
        self._length, self._bytes = 0, 0  # of what is written
        self._sentences: list[Sentence] = []

    def add(self, written: Sequence[Written]) -> Sentence:
        """The next part's translations, best first; none for one that is copied."""
        part = self._prepared.parts[len(self._sentences)]
        piece, text = part.piece, self._prepared.text
        self._write(text[self._read_to : piece.start])
        target = self._write(written[0].text if written else piece.of(text))
        sentence = Sentence(
            source=self._places.span(piece.start, piece.end),
            target=target,
            written=tuple(written),
            alignments=tuple(
                aligned(self._translator, text, self._places, part, one)
                for one in (written if self._alignment else ())
            ),
            tokens=0 if part.window is None else len(part.window.ids),
        )
        self._sentences.append(sentence)
        return sentence

    def translated(self) -> Translated:
        """The whole, when every part has been added."""
        prepared = self._prepared
        return Translated(
            "".join([*self._written, prepared.text[self._read_to :]]),
            prepared.source,
            prepared.confidence,
            tuple(self._sentences),
            prepared.tokens,
        )

    @property
    def _read_to(self) -> int:
        return self._sentences[-1].source.end if self._sentences else 0

    def _write(self, text: str) -> Span:
        start, byte_start = self._length, self._bytes
        self._written.append(text)
        self._length += len(text)
        self._bytes += len(text.encode("utf-8"))
        return Span(start, self._length, byte_start, self._bytes)


def translate_texts(
    translator: Translator,
    texts: Sequence[str],
    *,
    source: str = "",
    target: str,
    plan: BeamPlan,
    batch_sentences: int = 32,
    progress: Callable[[int], None] = lambda sentences: None,
) -> list[Translated]:
    """Several texts, without a server: sentences of like length share a batch."""
    prepared = [prepare(translator, text, source=source, target=target) for text in texts]
    windows = [window for one in prepared for window in one.windows]
    order = sorted(range(len(windows)), key=lambda number: len(windows[number].ids))
    written: dict[int, list[Written]] = {}
    for start in range(0, len(order), batch_sentences):
        batch = order[start : start + batch_sentences]
        found = translator.translate([windows[i] for i in batch], [target] * len(batch), plan)
        written |= dict(zip(batch, found, strict=True))
        progress(len(written))
    each = iter(written[number] for number in range(len(windows)))
    return [assemble(translator, one, [next(each) for _ in one.windows]) for one in prepared]


class Places:
    """Spans in a text by code points, with their bytes: each found in constant time."""

    def __init__(self, text: str) -> None:
        codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        sizes = 1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000)
        self._bytes = np.concatenate([[0], np.cumsum(sizes)])

    def span(self, start: int, end: int) -> Span:
        """The span of code points `start` to `end`; it may be empty."""
        return Span(start, end, int(self._bytes[start]), int(self._bytes[end]))


def aligned(
    translator: Translator, text: str, places: Places, part: Part, written: Written
) -> Aligned:
    """The words of a part and of one of its translations; the part's by their place in `text`."""
    assert part.window is not None
    assert written.attention is not None
    decode = translator.target_tokenizer.decode
    found = align(
        part.piece.of(text),
        part.window,
        written.text,
        token_places(written.ids, written.text, decode),
        written.attention,
    )
    start = part.piece.start
    return replace(
        found, source=[places.span(start + span.start, start + span.end) for span in found.source]
    )


def _parts(
    translator: Translator, text: str, language: str, splitting: Splitting, *, copied: bool
) -> tuple[Part, ...]:
    found = pieces(text, language or "en", splitting)
    if copied:
        return tuple(Part(piece, None) for piece in found)
    tokens_max = translator.tokens_max
    if splitting is not Splitting.NONE:
        tokens_max = min(tokens_max, translator.fluent_tokens_max)
    windows = iter(_windows(translator.tokenizer, text, [p for p in found if p.translatable]))
    parts: list[Part] = []
    for piece in found:
        if piece.translatable:
            parts += _fitting(translator.tokenizer, text, piece, next(windows), tokens_max)
        else:
            parts.append(Part(piece, None))
    return tuple(parts)


def _fitting(
    tokenizer: Tokenizer, text: str, piece: Piece, window: Window, tokens_max: int
) -> list[Part]:
    """A piece as parts that the model can read: itself, if it is not too long."""
    if len(window.ids) <= tokens_max:
        return [Part(piece, window)]
    smaller = fitted(piece, text, window, tokens_max)
    if smaller == [piece]:  # one character may be many tokens
        middle = (piece.start + piece.end) // 2
        if middle == piece.start:
            return [Part(piece, None)]
        halves = trimmed(text, piece.start, middle), trimmed(text, middle, piece.end)
        smaller = [half for half in halves if half is not None]
    # Cut within a word, its two parts may have more tokens than the whole had.
    windows = _windows(tokenizer, text, smaller)
    return [
        part
        for one, read in zip(smaller, windows, strict=True)
        for part in _fitting(tokenizer, text, one, read, tokens_max)
    ]


def _windows(tokenizer: Tokenizer, text: str, parts: Sequence[Piece]) -> list[Window]:
    encoded = tokenizer.encode(
        [part.of(text) for part in parts], tokens_max=_UNLIMITED, truncation=Truncation.ERROR
    )
    return [one.windows[0] for one in encoded]
