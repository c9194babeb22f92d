"""Work on a thread of its own, as loading uses it."""

import threading

import pytest

from server.engine.beside import Beside

PATIENCE = 30.0


def test_the_result_is_what_the_work_returned():
    assert 42 == Beside("work", lambda _tell: 42).result()


def test_an_error_of_the_work_is_raised_where_the_result_is_asked_for():
    def fail(tell):
        raise ValueError("it is broken")

    work = Beside("work", fail)
    with pytest.raises(ValueError, match="it is broken"):
        work.result()


def test_progress_is_told_by_who_waits():
    told, threads = threading.Event(), []

    def work(tell):
        tell(1, 2)
        assert told.wait(PATIENCE)

    def on_progress(done, total):
        threads.append((threading.current_thread(), done, total))
        told.set()

    Beside("work", work).result(on_progress)
    assert (threading.current_thread(), 1, 2) == threads[0]


def test_work_that_nobody_wants_ends_at_its_next_word():
    is_stopping, began = threading.Event(), threading.Event()

    def work(tell):
        began.set()
        assert is_stopping.wait(PATIENCE)
        while True:
            tell(1, 2)

    running = Beside("work", work)
    assert began.wait(PATIENCE)
    running._is_wanted = False
    is_stopping.set()
    running.stop()
    assert not running._thread.is_alive()


def test_stopping_what_is_over_keeps_its_result():
    work = Beside("work", lambda _tell: 42)
    work.result()
    work.stop()
    assert 42 == work.result()
