import sys

import numpy as np

from index.generation import Generation
from index.reading import Generations


def test_there_is_a_current_generation_at_each_step_of_a_publication():
    """Who asks for it takes no lock."""
    rows, vectors = np.arange(3), np.zeros((3, 8), np.float32)
    written = Generation.of(1, (), rows, vectors)
    swapped = Generation.of(1, (), rows, vectors)
    next_written = Generation.of(2, (), rows, vectors)
    generations = Generations(written)
    asked = []

    def ask(frame, event, _):
        if frame.f_code is Generations.publish.__code__ and event == "line":
            asked.append(id(generations.current))
        return ask

    traced = sys.gettrace()
    sys.settrace(ask)
    try:
        for generation in (swapped, next_written):
            generations.publish(generation)
    finally:
        sys.settrace(traced)

    assert list(dict.fromkeys(asked)) == [id(written), id(swapped), id(next_written)]
    assert generations.of(1) is swapped
