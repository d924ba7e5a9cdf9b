"""The benchmark's architectures are fair twins: of one size, and each writes as it was trained."""

import json

import pytest
import torch

from bench.architectures.__main__ import table, write
from bench.architectures.data import Captions
from bench.architectures.models import (
    BUILD,
    Kind,
    Shape,
    build,
    parameters_of,
    sequential_operations,
)
from bench.architectures.training import Budget, by_length, measure, read_outcome, translate

SHAPE = Shape(vocab_size=60, table_width=32, width=64, pad_id=0, dropout=0.1)
KINDS = [*Kind]
CLOSE = {"atol": 1e-4, "rtol": 0}


def model_of(kind):
    torch.manual_seed(3)
    return BUILD[kind](SHAPE).eval()


def inputs():
    generator = torch.Generator().manual_seed(4)
    mask = torch.arange(7) < torch.tensor([7, 3, 5])[:, None]
    source = torch.randint(1, 60, (3, 7), generator=generator).masked_fill(~mask, 0)
    return source, mask, torch.randint(1, 60, (3, 6), generator=generator)


@pytest.mark.parametrize("kind", KINDS)
def test_writing_word_by_word_equals_reading_the_whole_target(kind):
    model = model_of(kind)
    source, mask, given = inputs()

    with torch.inference_mode():
        whole = model.states(source, mask, given)
        memory, steps = model.begin(source, mask), []
        for last in given.unbind(dim=1):
            state, memory = model.next(last, memory)
            steps.append(state)

    torch.testing.assert_close(torch.stack(steps, dim=1), whole, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_neither_padding_nor_later_words_are_seen(kind):
    model = model_of(kind)
    source, mask, given = inputs()
    later = given.clone()
    later[:, 4:] = 9

    with torch.inference_mode():
        states = model.states(source, mask, given)
        alone = model.states(source[1:2, :3], mask[1:2, :3], given[1:2])
        changed = model.states(source, mask, later)

    torch.testing.assert_close(alone, states[1:2], **CLOSE)
    torch.testing.assert_close(changed[:, :4], states[:, :4], **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_all_are_of_one_size_within_five_per_cent(kind):
    shape = Shape(vocab_size=8000, table_width=256, width=512, pad_id=0, dropout=0.3)
    with torch.device("meta"):
        wanted = parameters_of(BUILD[Kind.TRANSFORMER](shape))

    assert parameters_of(build(kind, shape, wanted)) == pytest.approx(wanted, rel=0.05)


def test_a_size_that_cannot_be_met_is_refused():
    with pytest.raises(ValueError, match="parameters are the nearest to 100"):
        build(Kind.FIXED, SHAPE, 100)


def test_attention_replaces_waiting_by_looking():
    waits = {kind: sequential_operations(kind, 20, 20) for kind in KINDS}

    assert waits[Kind.FIXED] == waits[Kind.ATTENTION] == 80
    assert waits[Kind.CONVOLUTIONAL] == sequential_operations(Kind.CONVOLUTIONAL, 90, 90)
    assert waits[Kind.TRANSFORMER] < waits[Kind.FIXED]


def test_sources_are_sorted_into_lengths():
    found = by_length([1, 9, 10, 12, 13, 40, 5])

    assert found == {"1-9": [0, 1, 6], "10-12": [2, 3], "13-15": [4], "16-19": [], "20-": [5]}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_benchmark_that_was_stopped_goes_on_and_ends_with_a_table(tmp_path):
    folder = tmp_path / "data" / "parallel" / "multi30k"
    folder.mkdir(parents=True)
    for name, count in (("train", 120), ("val", 20), ("test_2016_flickr", 30)):
        german = [f"Ein Hund sieht {i} Katzen." for i in range(count)]
        english = [f"A dog sees {i} cats." for i in range(count)]
        (folder / f"{name}.de").write_text("\n".join(german))
        (folder / f"{name}.en").write_text("\n".join(english))
    budget = Budget(
        epochs=2, trial_epochs=1, rates=(1e-3, 2e-3), step_tokens=600, vocabulary=512,
        table_width=48, inner_width=96,
    )  # fmt: skip
    captions = Captions(
        tmp_path / "data", tmp_path / "out", vocabulary=512, merge_dropout=0.1, seed=1
    )

    outcomes = [measure(kind, captions, budget, tmp_path / "out", torch.float32) for kind in KINDS]
    write(tmp_path / "out", outcomes)

    again = measure(Kind.TRANSFORMER, captions, budget, tmp_path / "out", torch.float32)
    assert again == outcomes[-1] == read_outcome(tmp_path / "out" / "transformer.json")
    assert json.loads((tmp_path / "out" / "gru-fixed.json").read_text())["trials"].keys() == {
        "0.001", "0.002",
    }  # fmt: skip
    assert "| BLEU |" in table(outcomes)
    assert "<svg" in (tmp_path / "out" / "bleu-by-length.svg").read_text()
    assert "Transformer" in (tmp_path / "out" / "val-loss.svg").read_text()


def test_a_text_ends_where_the_model_ends_it():
    class Fixed:
        """Writes 5, 6, ... and ends the first text at once."""

        def eval(self):
            return self

        def begin(self, source, mask):
            return 0

        def next(self, last, memory):
            return torch.full((2, 1), float(memory)), memory + 1

        def logits(self, states):
            logits = torch.zeros(2, 10)
            logits[0, 3] = 1
            logits[1, 5 if states[1, 0] < 2 else 3] = 1
            return logits

    class Batch:
        source = torch.zeros(2, 1).long().numpy()
        mask = torch.ones(2, 1).bool().numpy()

    assert translate(Fixed(), Batch, 1, 3) == [[], [5, 5]]
