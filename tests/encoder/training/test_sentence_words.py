import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from encoder.tokenizer import Window
from encoder.training.sentence_packing import NOBODY, pack
from encoder.training.sentence_words import (
    WORD,
    WordBatch,
    WordLessons,
    number_words,
    same_words,
    words_of_tokens,
)

TEXTS = st.lists(st.sampled_from(["apple", "it's", "l'école", "3.14", "(", ",", "Straße", "—"]))


def window_of(text, pieces):
    """Tokens of about so many characters each, between two special ones."""
    cuts = [*range(0, len(text), pieces), len(text)]
    starts = [0, *cuts[:-1], 0]
    ends = [0, *cuts[1:], 0]
    ids = np.arange(3, 3 + len(starts), dtype=np.int64)
    return Window(ids, np.array(starts, np.int32), np.array(ends, np.int32))


class Speller:
    """A teacher whose state of a token says which letters it has."""

    def __init__(self, pieces, tokens_max=10_000):
        self.pieces, self.tokens_max = pieces, tokens_max

    def states(self, texts):
        windows, states = [], []
        for text in texts:
            whole = window_of(text, self.pieces)
            parts = (whole.ids, whole.starts, whole.ends)
            window = Window(*(part[: self.tokens_max] for part in parts))
            rows = np.zeros((len(window.ids), 8), np.float32)
            for row, begin, end in zip(rows, window.starts, window.ends, strict=True):
                for letter in text[begin:end]:
                    row[ord(letter) % 8] += 1
            windows.append(window)
            states.append(rows)
        return windows, states


@given(TEXTS, st.integers(1, 6))
def test_a_token_is_of_the_first_word_that_it_has_a_letter_of(parts, pieces):
    text = " ".join(parts)
    window = window_of(text, pieces)

    of, count = words_of_tokens(text, window)

    spans = [match.span() for match in WORD.finditer(text)]
    assert count == len(spans)
    for number, begin, end in zip(of, window.starts, window.ends, strict=True):
        touched = [i for i, (b, e) in enumerate(spans) if max(b, begin) < min(e, end)]
        assert number == (touched[0] if touched else NOBODY)


def test_a_space_before_a_word_is_the_words():
    window = Window(np.arange(2), np.array([0, 3], np.int32), np.array([3, 9], np.int32))

    assert words_of_tokens("the apple", window)[0].tolist() == [0, 1]


def test_the_same_words_are_found_in_a_copy_and_none_where_their_number_differs():
    texts = ["An Apple , red", "an apple, red", "an apple"]
    taught = number_words(texts, [window_of(text, 3) for text in texts])
    read = number_words(texts[:1], [window_of(texts[0], 2)])

    same = same_words(taught, read, [0, 0, 0])

    assert same.tolist() == [0, 1, 2, 0, 1, 2, NOBODY, NOBODY]


def lessons_of(texts, readers, *, teacher, packed_pieces=2):
    windows = [window_of(text, packed_pieces) for text in texts]
    batch = WordBatch(
        tuple(texts[: max(readers) + 1]), tuple(readers), number_words(texts, windows)
    )
    chunks = pack([window.ids for window in windows], 32, 64, pad_id=0)
    lessons = WordLessons(teacher, 8, torch.device("cpu"))
    return lessons, lessons.targets(batch, chunks), windows, chunks


def states_of(texts, windows, chunks):
    """What Speller says of each token, where the packing has put it."""
    speller = Speller(2)
    rows = speller.states(texts)[1]
    states = []
    for chunk in chunks:
        found = torch.zeros(*chunk.owners.shape, 8)
        for text in range(len(texts)):
            found[chunk.owners == text] = torch.from_numpy(rows[text])
        states.append(found)
    return states


def test_a_student_with_the_teachers_states_has_nothing_to_learn_and_another_has():
    texts = ["red apple", "the bird sees", "red apple", "the bird sees"]
    lessons, targets, windows, chunks = lessons_of(texts, [0, 1, 0, 1], teacher=Speller(2))
    with torch.no_grad():
        lessons.projection.weight.copy_(torch.eye(8))
    states = states_of(texts, windows, chunks)

    assert len(targets.vectors) == 10
    others = [state.flip(-1) for state in states]
    assert lessons.loss(states, targets).item() < 1e-6
    assert lessons.loss(others, targets).item() > 0.1


def test_words_that_either_has_cut_off_are_not_taught():
    texts = ["red apple tree house", "one two three four"]
    _, whole, _, _ = lessons_of(texts, [0, 1], teacher=Speller(2))
    _, cut, _, _ = lessons_of(texts, [0, 1], teacher=Speller(2, tokens_max=5))

    assert len(whole.vectors) == 8
    assert 0 < len(cut.vectors) < 8
    assert torch.isfinite(cut.vectors).all()


def test_what_is_learnt_reaches_the_states():
    texts = ["red apple", "the bird sees"]
    lessons, targets, windows, chunks = lessons_of(texts, [0, 1], teacher=Speller(3))
    states = [state.requires_grad_() for state in states_of(texts, windows, chunks)]

    lessons.loss(states, targets).backward()

    for state, owners in zip(states, targets.owners, strict=True):
        assert (state.grad.abs().sum(-1) > 0)[owners != NOBODY].all()
        assert (state.grad[owners == NOBODY] == 0).all()
