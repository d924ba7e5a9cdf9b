import os

import numpy as np
import pytest

from encoder.training.sentence_vectors import MISSING, TeacherVectors


class CountingTeacher:
    """Gives a vector that says how long the text is, and remembers what it was asked."""

    width = 4
    sha256 = "5ca1ab1e" * 8

    def __init__(self, fails_after=None):
        self.asked = []
        self._fails_after = fails_after

    def vectors(self, texts):
        if self._fails_after is not None and len(self.asked) >= self._fails_after:
            raise OSError("killed")
        self.asked += texts
        return np.array([[len(text), 0, 0, 1] for text in texts], dtype=np.float32)


TEXTS = [f"{'x' * (i % 7)} text {i}" for i in range(50)]


def test_each_text_is_read_once_and_found_again_by_another_run(tmp_path):
    teacher = CountingTeacher()
    TeacherVectors(tmp_path, teacher).compute([*TEXTS[:30], *TEXTS[:30]])

    again = TeacherVectors(tmp_path, teacher)
    assert again.compute(TEXTS) == 20

    assert sorted(teacher.asked) == sorted(TEXTS)
    vectors = again.read(again.rows(TEXTS))
    np.testing.assert_array_equal(vectors[:, 0], [len(text) for text in TEXTS])


def test_a_text_that_was_not_read_has_no_row(tmp_path):
    vectors = TeacherVectors(tmp_path, CountingTeacher())
    assert list(vectors.rows(["new"])) == [MISSING]
    vectors.compute(TEXTS)
    assert list(vectors.rows(["new", TEXTS[0]]) == MISSING) == [True, False]


def test_what_was_read_before_a_kill_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("encoder.training.sentence_vectors.BLOCK_TEXTS", 8)
    with pytest.raises(OSError, match="killed"):
        TeacherVectors(tmp_path, CountingTeacher(fails_after=20)).compute(TEXTS)

    teacher = CountingTeacher()
    assert TeacherVectors(tmp_path, teacher).compute(TEXTS) == len(teacher.asked) == 50 - 24


@pytest.mark.parametrize("name", ["vectors.f16", "texts.u64"])
def test_a_file_that_a_kill_cut_short_is_mended(tmp_path, name):
    vectors = TeacherVectors(tmp_path, CountingTeacher())
    vectors.compute(TEXTS[:20])
    file = vectors.folder / name
    os.truncate(file, file.stat().st_size - 3)

    teacher = CountingTeacher()
    mended = TeacherVectors(tmp_path, teacher)
    mended.compute(TEXTS)

    assert teacher.asked == TEXTS[19:]
    np.testing.assert_array_equal(
        mended.read(mended.rows(TEXTS))[:, 0], [len(text) for text in TEXTS]
    )
