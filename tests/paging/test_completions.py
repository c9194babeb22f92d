"""The queue between I/O threads and the pager."""

import threading

import pytest

from paging.storage import Completions, Read


def some_reads(count):
    return [Read(row, memoryview(bytearray(1))) for row in range(count)]


def test_nothing_to_drain_is_an_empty_list():
    assert [] == Completions().drain()


def test_reads_are_drained_in_order_and_once():
    completions, reads = Completions(), some_reads(3)
    for read in reads:
        completions.put(read)
    assert reads == completions.drain()
    assert [] == completions.drain()


def test_waiting_ends_without_a_read():
    assert not Completions().wait(0.001)


def test_waiting_is_over_where_something_came_before():
    completions = Completions()
    completions.put(some_reads(1)[0])
    assert completions.wait(0)


def test_what_was_drained_is_not_waited_for_again():
    completions = Completions()
    completions.put(some_reads(1)[0])
    completions.drain()
    assert not completions.wait(0.001)


def test_waiting_for_several_reads_does_not_end_with_fewer():
    completions = Completions()
    for read in some_reads(2):
        completions.put(read)
    assert not completions.wait(0.001, num_reads=3)
    assert completions.wait(0.001, num_reads=2)


def test_several_reads_are_waited_for_however_many_were_waited_for_before():
    completions = Completions()
    completions.wait(0, num_reads=3)
    threading.Thread(target=completions.put, args=some_reads(1)).start()
    assert completions.wait(30.0)


@pytest.mark.parametrize("num_wanted", [1, 7])
def test_no_read_is_lost_between_threads(num_wanted):
    completions, reads, taken = Completions(), some_reads(2000), []
    threads = [
        threading.Thread(target=lambda start=start: [completions.put(read) for read in reads[start::4]])
        for start in range(4)
    ]
    for thread in threads:
        thread.start()
    while len(taken) < len(reads) and completions.wait(30.0, num_reads=min(num_wanted, len(reads) - len(taken))):
        taken += completions.drain()
    for thread in threads:
        thread.join()
    assert {*reads} == {*taken}
