"""The time that the first request waits for its first output."""

import itertools

from server.process.first_output import FirstOutput


def watched():
    told, clock = [], itertools.count()
    return FirstOutput(told.append, clock=lambda: next(clock)), told


def test_the_first_output_of_the_first_request_is_told_once():
    watch, told = watched()
    watch.note_request("a", ())
    watch.note_request("b", {"a"})
    for request_id in ("b", "a", "a", "b"):
        watch.note_output(request_id)
    assert [1] == told


def test_a_request_that_ends_without_one_makes_room_for_the_next():
    watch, told = watched()
    watch.note_request("a", ())
    watch.note_request("b", ())
    watch.note_output("a")
    watch.note_output("b")
    assert [1] == told


def test_nobody_has_to_be_told():
    watch = FirstOutput(None, clock=lambda: 0.0)
    watch.note_request("a", ())
    watch.note_output("a")
