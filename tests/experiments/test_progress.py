"""Plain lines on stderr: how far, how fast, how long yet."""

import pytest

from experiments.common import console


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_lines_come_every_few_seconds_with_rate_and_time_left(clock, capsys):
    with console.progress("sweep", 100_000, "samples", done=20_000) as advance:
        for _ in range(8):
            clock[0] += 3
            advance(9_000)
        clock[0] += 3
        advance(8_000)
    assert capsys.readouterr().err.splitlines() == [
        "sweep: 38,000 of 100,000 samples, 3,000 per second, 21 s left",
        "sweep: 56,000 of 100,000 samples, 3,000 per second, 15 s left",
        "sweep: 74,000 of 100,000 samples, 3,000 per second, 9 s left",
        "sweep: 92,000 of 100,000 samples, 3,000 per second, 3 s left",
    ]


def test_slow_work_has_a_rate_too(clock, capsys):
    with console.progress("training", 10, "epochs") as advance:
        clock[0] += 80
        advance(1)
    assert capsys.readouterr().err == ("training: 1 of 10 epochs, 0.013 per second, 12 min left\n")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (99.4, "99 s"), (100, "2 min"), (5_900, "98 min"), (12_000, "3 h 20 min")],
)
def test_times_in_words(seconds, words):
    assert console.in_words(seconds) == words
