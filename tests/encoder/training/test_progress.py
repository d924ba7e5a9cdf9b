import io

import pytest

from encoder.training.progress import Progress, duration


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59, "59 s"), (60, "1 min 00 s"), (3599, "59 min 59 s"), (12_345, "3 h 25 min")],
)
def test_durations_have_two_units_at_most(seconds, text):
    assert duration(seconds) == text


def test_a_log_gets_whole_lines_and_a_terminal_one_line_that_is_written_over():
    log, terminal = io.StringIO(), Terminal()
    for stream in (log, terminal):
        progress = Progress("train", 10, stream=stream)
        progress.update(5, "half")
        progress.finish("done")

    assert log.getvalue().count("\n") == 1  # the update came too soon for a log
    assert terminal.getvalue().count("\r") == 2
    assert " 50.0%  half" in terminal.getvalue()
    assert "100.0%  done" in terminal.getvalue()


def test_work_done_before_a_resume_does_not_make_the_end_look_near():
    terminal = Terminal()
    progress = Progress("train", 100, start=90, stream=terminal)

    progress.update(90)

    assert "? left" in terminal.getvalue()
