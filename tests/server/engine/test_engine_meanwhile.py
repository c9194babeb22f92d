"""What an engine lets its caller do while a step is under way."""

import math

import pytest

from server.engine.engine import Engine
from tests.server.engine.fake_model import make_engine, request
from tests.server.engine.fake_rows import FakeMemory


@pytest.fixture
def told(monkeypatch):
    """What an engine on a GPU had run and handed out whenever there was time."""
    monkeypatch.setattr(Engine, "works_beside", True)
    return []


def test_there_is_time_once_the_model_runs_and_before_tokens_are_handed_out(told):
    engine = make_engine(FakeMemory(24).warm())
    engine.add(request("a", [1, 2, 3], max_tokens=2))
    while engine.has_work:
        engine.step(lambda: told.append((len(engine.runner.steps), engine.stats().generation_tokens)))
    assert [(1, 0), (2, 1)] == told


def test_there_is_time_while_rows_are_awaited(told):
    engine = make_engine(FakeMemory(5, delay=math.inf))
    engine.add(request("a", [1, 2, 1], max_tokens=1))
    engine.step(lambda: told.append(len(engine.runner.steps)))
    assert [0] == told


def test_where_the_model_runs_on_the_callers_thread_there_is_none():
    engine, told = make_engine(FakeMemory(24).warm()), []
    engine.add(request("a", [1, 2, 3], max_tokens=2))
    while engine.has_work:
        engine.step(lambda: told.append(1))
    assert [] == told
