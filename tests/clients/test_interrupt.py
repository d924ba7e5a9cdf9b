"""Ctrl-C in a load, raised where Python can raise it and where it cannot."""

import signal

import pytest

from polyseme.cli.interrupt import Interrupt


class Destroyed:
    """Whose end is interrupted: Python prints the exception and drops it."""

    def __del__(self):
        signal.raise_signal(signal.SIGINT)


def test_it_is_raised_at_once_where_it_can_be():
    with pytest.raises(KeyboardInterrupt), Interrupt():
        signal.raise_signal(signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_it_is_raised_at_the_next_check_where_it_could_not_be():
    with Interrupt() as interrupt:
        interrupt.check()
        Destroyed()

        with pytest.raises(KeyboardInterrupt):
            interrupt.check()


def test_afterwards_ctrl_c_is_what_it_was_before():
    before = signal.getsignal(signal.SIGINT)

    with Interrupt():
        assert signal.getsignal(signal.SIGINT) is not before

    assert signal.getsignal(signal.SIGINT) is before
