import pytest

from models.evaluation import Evaluation
from models.recipe import TrainingConfig
from models.training import StepResult
from server.cli.training_display import TrainingDisplay
from server.progress import Progress
from server.units import duration_text, num_bytes_text


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_short_work_is_silent(clock, capsys):
    with Progress(clock=clock) as progress:
        show = progress.phase("work")
        clock.now = 0.9
        show(50, 100)
        show(100, 100)
    assert ("", "") == capsys.readouterr()


def test_long_work_has_a_line_for_each_tenth(clock, capsys):
    with Progress(clock=clock) as progress:
        show = progress.phase("work")
        for done in range(1, 101):
            clock.now = done
            show(done, 100)
    lines = capsys.readouterr().err.splitlines()
    assert ["work: 1 %, 1 min 39 s left", "work: 10 %, 1 min 30 s left"] == lines[:2]
    assert (11, "work: 100 %") == (len(lines), lines[-1])


def test_every_phase_counts_for_itself(clock, capsys):
    with Progress(clock=clock) as progress:
        for start, what in ((0, "first"), (10, "second")):
            clock.now = start
            progress.update(what, 0, 4)
            clock.now = start + 2
            progress.update(what, 2, 4)
    assert ["first: 50 %, 2 s left", "second: 50 %, 2 s left"] == capsys.readouterr().err.splitlines()


def test_a_terminal_gets_a_bar_that_vanishes(clock, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_INTERACTIVE", "1")
    monkeypatch.setenv("TERM", "xterm")
    with Progress(clock=clock) as progress:
        show = progress.phase("work")
        clock.now = 5
        show(50, 100)
    out, err = capsys.readouterr()
    assert out == ""
    assert "50%" in err
    assert err.endswith("\x1b[1A\x1b[2K")


def step(number, loss=2.0):
    return StepResult(step=number, loss=loss, grad_norm=1.0, learning_rate=1e-3)


@pytest.fixture
def display(clock):
    recipe = TrainingConfig(max_tokens=100_000, sequence_length=10, batch_size=100, micro_batch_size=100)
    with TrainingDisplay(recipe, 0, clock=clock) as display:
        yield display


def test_training_off_a_terminal_has_a_line_now_and_then(display, clock, capsys):
    for number in range(1, 101):
        clock.now = number
        display.on_step(step(number))
    lines = capsys.readouterr().err.splitlines()
    assert ["1", "31", "61", "91", "100"] == [line.split()[1] for line in lines]


def test_training_shows_rate_and_time_left(display, clock, capsys):
    clock.now = 2
    display.on_step(step(1))
    assert "step 1 of 100: loss 2.0000, 500 tokens/s, 3 min 18 s left\n" == capsys.readouterr().err


def test_training_shows_the_mean_of_recent_losses(display, clock, capsys):
    for number, loss in ((1, 9.0), *((number, 2.0) for number in range(2, 21)), (21, 4.0)):
        clock.now = number * 31
        display.on_step(step(number, loss))
    assert "loss 2.1000," in capsys.readouterr().err.splitlines()[-1]


def test_validation_is_shown(display, capsys):
    display.on_validation(Evaluation(tokens=10, bytes=20, cross_entropy=1.0))
    assert "step 0: validation perplexity 2.718, 0.7213 bits per byte\n" == capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (-1, "0 s")]
)
def test_durations_are_said_as_people_do(seconds, text):
    assert text == duration_text(seconds)


@pytest.mark.parametrize(("num_bytes", "text"), [(999, "999 B"), (1500, "1.50 kB"), (12_608_471_040, "12.61 GB")])
def test_bytes_are_said_in_a_unit_that_suits(num_bytes, text):
    assert text == num_bytes_text(num_bytes)
