import dataclasses
import time

import pytest

from encoder.training.clock_run import ENDING_S, ClockRun, practice_steps
from encoder.training.curves import read_curves
from encoder.training.recipe import Recipe, Stage
from encoder.training.run import Interrupted
from encoder.training.workers import Workers

TRAINED_S = 4.0  # of so small a model, hundreds of steps


@pytest.fixture
def run(tiny_data, tiny_settings, tmp_path):
    """Makes a run of so many seconds in a folder of its own, which a second one may resume."""

    def make(seconds, **changes):
        changes = {"out": tmp_path / "run", "for_gpu": True, **changes}
        settings = dataclasses.replace(tiny_settings, **changes)
        return ClockRun(*tiny_data, settings, Workers(), seconds=seconds)

    return make


def test_a_run_ends_in_time_with_a_model_that_has_learnt(run, tmp_path):
    clock = run(TRAINED_S + ENDING_S)
    begun = time.monotonic()

    model = clock.train()

    assert time.monotonic() - begun < TRAINED_S + ENDING_S
    assert (model / "model.safetensors").exists()
    lines = read_curves(tmp_path / "run" / "curves.jsonl")
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0]
    last = [line for line in lines if "rate_share" in line][-1]
    assert (
        last["rate_share"] < 0.5
    )  # half a step from the end, and steps are slow on a busy machine
    assert last["row_tokens"] == 32
    assert lines[-1]["held_out"]
    assert clock.tokens == lines[-1]["tokens"]


def test_a_stopped_run_goes_on_and_ends_in_what_time_is_left(run, tmp_path):
    first = run(30.0, checkpoint_s=0.1)

    def stop_soon(step, losses):
        first._stopping = step.number == 20

    first._check = stop_soon
    with pytest.raises(Interrupted, match="of 2"):
        first.train()
    place = first._place
    assert (tmp_path / "run" / "latest" / "model.safetensors").exists()

    second = run(4.0 + ENDING_S, resume=True)
    second._begin()
    assert second._place == place
    assert second.training.steps_done == place.steps == first.training.steps_done
    model = run(4.0 + ENDING_S, resume=True).train()

    assert (model / "model.safetensors").exists()
    again = run(1.0, resume=True)  # nothing is left to do, so it needs no time
    assert again.train() == model


def test_too_little_time_is_refused_before_the_first_step(run):
    with pytest.raises(TimeoutError, match="give --seconds more"):
        run(ENDING_S - 1).train()


def test_every_shape_of_a_run_is_practised_once():
    stages = (
        Stage(row_tokens=16, step_rows=4, tokens=6000),
        Stage(row_tokens=32, step_rows=8, tokens=4000),
    )

    steps = [step for _, step in practice_steps(Recipe(stages=stages))]

    assert [(step.stage.row_tokens, step.reconstructs) for step in steps] == [
        (16, False),
        (32, False),
        (32, True),
    ]


def test_practice_leaves_the_model_as_it_was(run):
    clock = run(60.0)
    before = [p.detach().clone() for p in clock.training.model.parameters()]

    for _, step in practice_steps(clock._recipe):
        clock.training.practise(step)

    assert clock.training.steps_done == 0
    after = clock.training.model.parameters()
    assert all((a == b).all() for a, b in zip(after, before, strict=True))
    assert all(p.grad is None for p in clock.training.model.parameters())
