"""A step of the decoder on a device that has memory of its own."""

import numpy as np

from encoder.decoding import SessionStepper, Sources

HEADS, TOKENS, HEAD_WIDTH = 1, 8, 2


class Copy:
    """A tensor on a device: what becomes of the host's array afterwards does not reach it."""

    def __init__(self, array):
        self._array = np.array(array)

    def numpy(self):
        return self._array


class Device:
    """In the place of a session on a GPU: proposes, as the next token, the source it was given."""

    def value(self, array):
        return Copy(array)

    def run_values(self, inputs, outputs):
        ids = inputs["ids"].numpy()
        [source] = [value for name, value in inputs.items() if name.startswith("source_keys")][:1]
        seen = source.numpy()[:, 0, 0, 0].astype(np.int64)
        found = {"proposed": seen[:, None, None], "log_probabilities": np.zeros((len(ids), 1, 1))}
        return [Copy(found.get(name, np.zeros((len(ids), 1, 1, 1)))) for name in outputs]


def test_a_sentence_that_moves_up_takes_its_source_along_on_a_device_with_memory_of_its_own():
    def layer():
        tagged = np.zeros((2, HEADS, TOKENS, HEAD_WIDTH), np.float32)
        tagged[0], tagged[1] = 10, 20
        return tagged

    sources = Sources([layer(), layer()], np.ones((2, TOKENS), np.int64))
    stepper = SessionStepper(Device(), sources, choices=1, attention=False)

    both = stepper.step(np.array([[5], [5]]), np.array([[0], [1]]))
    left = stepper.step(np.array([[5]]), np.array([[1]]))  # the first sentence is done

    assert both.ids.ravel().tolist() == [10, 20]
    assert left.ids.ravel().tolist() == [20]
