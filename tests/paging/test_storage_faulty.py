"""Faults that are injected: which reads they hit, when they show, and that they end."""

import threading

import pytest

from paging.storage import Completions, Fault, FaultPlan, FaultyStorage, Read, RowFault, open_storage
from tests.paging.sample_tables import small_geometry, write_table

NUM_ROWS = 200
LONG = 3600.0


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    directory = tmp_path_factory.mktemp("faulty") / "table"
    return directory, write_table(directory, small_geometry(vocab_size=NUM_ROWS))


@pytest.fixture
def make(table):
    """Open the table with a plan of faults."""
    storages = []

    def opened(**plan):
        storages.append(FaultyStorage(open_storage(table[0], "mapped"), FaultPlan(**plan)))
        return storages[-1]

    yield opened
    for storage in storages:
        storage.close()


def submit(storage, numbers, completions):
    reads = [Read(row, memoryview(bytearray(storage.row_bytes))) for row in numbers]
    storage.submit(reads, completions)
    return reads


def collect(completions, num_reads):
    finished = []
    while len(finished) < num_reads:
        assert completions.wait(30.0)
        finished += completions.drain()
    return finished


def errors(storage, numbers):
    """Read rows; return the errors of those that failed, by row."""
    completions = Completions()
    submit(storage, numbers, completions)
    return {read.row: read.error for read in collect(completions, len(numbers)) if read.error}


def failures(storage, numbers):
    """Read rows; return the causes of those that failed, by row."""
    return {row: error.cause for row, error in errors(storage, numbers).items()}


@pytest.mark.parametrize("fault", Fault)
def test_fault_of_a_row_hits_that_row_alone(make, fault):
    storage = make(rows={3: RowFault(fault=fault)})
    assert {3: fault.cause} == failures(storage, range(10))


@pytest.mark.parametrize("fault", Fault)
def test_a_fault_has_the_kind_of_a_storages_own_error(make, fault):
    error = errors(make(rows={3: RowFault(fault=fault)}), [3])[3]
    expected = {Fault.IO_ERROR: "io", Fault.SHORT_READ: "short", Fault.CORRUPTION: "checksum"}[fault]
    assert expected == error.kind


def test_failed_read_leaves_other_bytes_than_the_rows(make, table):
    completions = Completions()
    (read,) = submit(make(rows={3: RowFault(fault=Fault.CORRUPTION)}), [3], completions)
    collect(completions, 1)
    assert table[1][3].tobytes() != bytes(read.buffer)


def test_rates_hit_their_share_of_reads(make):
    storage = make(rates={Fault.IO_ERROR: 0.25, Fault.CORRUPTION: 0.25}, seed=1)
    causes = list(failures(storage, range(NUM_ROWS)).values())
    assert all(30 <= causes.count(fault.cause) <= 70 for fault in (Fault.IO_ERROR, Fault.CORRUPTION))


def test_same_seed_hits_the_same_reads(make):
    first, second = (failures(make(rates={Fault.SHORT_READ: 0.1}, seed=5), range(NUM_ROWS)) for _ in range(2))
    assert first == second


def test_late_row_comes_last(make):
    completions = Completions()
    submit(make(rows={0: RowFault(latency=0.05)}), [0, 1, 2], completions)
    assert 0 == collect(completions, 3)[-1].row


def test_late_rows_are_sound(make, table):
    completions = Completions()
    submit(make(latency=(0.001, 0.01)), range(NUM_ROWS), completions)
    finished = collect(completions, NUM_ROWS)
    assert all(read.finished - read.started < LONG for read in finished)
    assert [table[1][read.row].tobytes() for read in finished] == [bytes(read.buffer) for read in finished]


def test_holding_reads_takes_no_threads(make):
    storage = make(latency=(LONG, LONG))
    before = threading.active_count()
    submit(storage, range(NUM_ROWS), Completions())
    assert before == threading.active_count()


def test_stopping_lets_go_and_injects_nothing_more(make):
    storage = make(latency=(LONG, LONG), rates={Fault.IO_ERROR: 0.5})
    completions = Completions()
    submit(storage, range(NUM_ROWS), completions)
    storage.stop()
    assert NUM_ROWS == len(collect(completions, NUM_ROWS))
    assert {} == failures(storage, range(NUM_ROWS))


def test_closing_lets_go(make):
    storage = make(latency=(LONG, LONG), rates={Fault.IO_ERROR: 0.5})
    completions = Completions()
    submit(storage, range(NUM_ROWS), completions)
    storage.close()
    assert NUM_ROWS == len(completions.drain())


def test_plan_that_makes_no_sense_is_an_error():
    with pytest.raises(ValueError, match="the smaller first"):
        FaultPlan(latency=(2.0, 1.0))
    with pytest.raises(ValueError, match="add up to at most 1"):
        FaultPlan(rates={Fault.IO_ERROR: 0.7, Fault.CORRUPTION: 0.7})
