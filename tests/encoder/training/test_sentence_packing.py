import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from encoder.config import EncoderConfig
from encoder.training.sentence_packing import NOBODY, alone, fill, means, pack, packable, seen

LENGTHS = st.lists(st.integers(2, 16), min_size=1, max_size=60)


def texts_of(lengths):
    return [np.full(length, 100 + index, dtype=np.int64) for index, length in enumerate(lengths)]


@given(LENGTHS)
def test_every_text_is_in_one_row_and_no_row_is_too_long(lengths):
    rows = fill(lengths, 16)

    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in row) <= 16 for row in rows)


@given(LENGTHS)
def test_rows_are_filled_nearly_as_well_as_can_be(lengths):
    # Best fit decreasing needs at most 11/9 of the least number of rows, and one (Johnson 1973).
    assert len(fill(lengths, 16)) <= 11 / 9 * -(-sum(lengths) // 16) * 1.5 + 1


@given(LENGTHS, st.sampled_from(["packed", "alone"]))
def test_chunks_hold_every_token_once_with_its_owner(lengths, way):
    texts = texts_of(lengths)

    chunks = pack(texts, 16, 64, pad_id=0) if way == "packed" else alone(texts, 64, pad_id=0)

    ids = torch.cat([chunk.ids.reshape(-1) for chunk in chunks])
    owners = torch.cat([chunk.owners.reshape(-1) for chunk in chunks])
    assert all((ids[owners == index] == 100 + index).all() for index in range(len(lengths)))
    assert [int((owners == index).sum()) for index in range(len(lengths))] == lengths
    assert (ids[owners == NOBODY] == 0).all()
    if way == "packed":
        assert {tuple(chunk.ids.shape) for chunk in chunks} == {(4, 16)}


def test_tokens_see_their_own_text_and_padding_sees_itself():
    owners = torch.tensor([[0, 0, 1, NOBODY]])

    expected = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert seen(owners)[0].int().tolist() == expected


@given(LENGTHS)
def test_means_are_over_each_texts_own_tokens(lengths):
    texts = texts_of(lengths)
    chunks = pack(texts, 16, 64, pad_id=0)
    states = [chunk.ids[:, :, None].float().expand(-1, -1, 3) for chunk in chunks]

    found = means(states, [chunk.owners for chunk in chunks], len(texts))

    expected = torch.arange(100.0, 100.0 + len(texts))[:, None].expand(-1, 3)
    torch.testing.assert_close(found, expected)


def test_only_relative_positions_with_a_view_of_all_can_be_packed():
    assert packable(EncoderConfig(vocab_size=8))
    assert not packable(EncoderConfig(vocab_size=8, local_layers=(0,)))
    assert not packable(EncoderConfig(vocab_size=8, model_type="bert"))
