"""The decoder: what it may see, and that its ways of computing agree."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder.config import Activation, EncoderConfig
from encoder.decoder import Decoder

SHAPES = {
    "modernbert": EncoderConfig(
        vocab_size=50, width=32, layers=2, heads=4, inner_width=48, tokens_max=24,
        rope_theta_global=10_000.0, initializer_range=0.2,
    ),
    "marian": EncoderConfig(
        model_type="marian", vocab_size=50, width=32, layers=2, heads=4, inner_width=48,
        tokens_max=24, pad_id=49, activation=Activation.SILU, embeddings_scaled=True,
        initializer_range=0.2,
    ),
}  # fmt: skip
LAYOUTS = sorted(SHAPES)
CLOSE = {"atol": 1e-5, "rtol": 0}


def decoder_of(layout):
    torch.manual_seed(5)
    return Decoder(SHAPES[layout]).eval()


def inputs(batch=3, tokens=7, target=9):
    generator = torch.Generator().manual_seed(6)
    memory = torch.randn(batch, tokens, 32, generator=generator)
    mask = torch.arange(tokens) < torch.tensor([tokens, 3, 5][:batch])[:, None]
    ids = torch.randint(1, 48, (batch, target), generator=generator)
    return ids, memory, mask


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_token_is_written_without_sight_of_those_after_it(layout):
    decoder = decoder_of(layout)
    ids, memory, mask = inputs()
    changed = ids.clone()
    changed[:, 5:] = 17

    with torch.inference_mode():
        states = decoder(ids, memory, mask).states
        other = decoder(changed, memory, mask).states

    torch.testing.assert_close(other[:, :5], states[:, :5], **CLOSE)
    assert not torch.allclose(other[:, 5:], states[:, 5:], atol=1e-2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_lies_in_the_padding_of_a_source_changes_nothing(layout):
    decoder = decoder_of(layout)
    ids, memory, mask = inputs()
    noise = memory.masked_fill(~mask[..., None], 1e3)

    with torch.inference_mode():
        states = decoder(ids, memory, mask).states
        beside_noise = decoder(ids, noise, mask).states
        alone = decoder(ids[1:2], memory[1:2, :3], None).states

    torch.testing.assert_close(beside_noise, states, **CLOSE)
    torch.testing.assert_close(alone, states[1:2], **CLOSE)


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(deadline=None, max_examples=20)
@given(cuts=st.sets(st.integers(1, 8)))
def test_reading_in_steps_with_a_cache_equals_reading_at_once(layout, cuts):
    decoder = decoder_of(layout)
    ids, memory, mask = inputs()
    bounds = [0, *sorted(cuts), 9]

    with torch.inference_mode():
        whole = decoder(ids, memory, mask, explain=True)
        source, past, states, weights = decoder.keys_values(memory), (), [], []
        for begin, end in pairwise(bounds):
            part = decoder.step(ids[:, begin:end], source, mask, past, explain=True)
            past = part.past
            states.append(part.states)
            weights.append(part.attentions[-1])

    torch.testing.assert_close(torch.cat(states, dim=1), whole.states, **CLOSE)
    torch.testing.assert_close(torch.cat(weights, dim=2), whole.attentions[-1], **CLOSE)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_one_kernel_attention_equals_the_written_out_one(layout):
    decoder = decoder_of(layout)
    ids, memory, mask = inputs()

    with torch.inference_mode():
        fused = decoder(ids, memory, mask)
        explained = decoder(ids, memory, mask, explain=True)

    torch.testing.assert_close(fused.states, explained.states, **CLOSE)
    assert fused.attentions == ()
    assert [tuple(w.shape) for w in explained.attentions] == [(3, 4, 9, 7)] * 2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_attention_to_the_source_sums_to_one_and_leaves_padding_out(layout):
    ids, memory, mask = inputs()

    with torch.inference_mode():
        weights = decoder_of(layout)(ids, memory, mask, explain=True).attentions

    for layer in weights:
        torch.testing.assert_close(layer.sum(dim=-1), torch.ones(3, 4, 9))
        assert float(layer.masked_select(~mask[:, None, None, :].expand_as(layer)).abs().max()) == 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_target_above_the_limit_is_refused(layout):
    ids, memory, mask = inputs(target=25)

    with pytest.raises(ValueError, match="25 tokens; this decoder writes 24"):
        decoder_of(layout)(ids, memory, mask)
