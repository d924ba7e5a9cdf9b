"""What a torch translator makes of the sample texts."""

from dataclasses import replace

import numpy as np
import pytest

from encoder.translation_sample import PairBatch, decoded_by_torch, decoder_peaks
from encoder.translator import load_translator


def batch(tokens):
    ids = np.full((1, tokens), 9, np.int64)
    return PairBatch(ids, np.ones_like(ids), ids, np.array([tokens]))


def test_a_translator_that_was_watched_in_vain_is_watched_no_more(translating_directory):
    model = load_translator(translating_directory)
    unknown = replace(batch(4), target=np.full((1, 4), 10**6))
    with pytest.raises(IndexError):
        decoder_peaks(model, [unknown])

    # What were still watching would look for the first batch's tokens among these.
    decoded_by_torch(model, batch(3))
