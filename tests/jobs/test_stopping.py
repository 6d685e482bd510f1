import os
import signal

import pytest

from jobs.stopping import SIGNALS, stop_on_signals


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_becomes_a_request(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_on_signals() as stop:
        assert (stop.is_asked, stop.waited_s) == (False, 0.0)
        os.kill(os.getpid(), number)
        assert (stop.is_asked, stop.signal, stop.at_once) == (True, number, False)
        assert stop.waited_s >= 0
    assert signal.getsignal(number) == before


def test_a_second_signal_asks_not_to_wait() -> None:
    with stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert (stop.at_once, stop.signal) == (True, signal.SIGTERM)
