"""Reads that fail, lie or dawdle: who needs the row hears of it, everyone else does not; and who asked for how much."""

import re
import shutil

import pytest

from paging import Table
from paging.rowfiles import RowFiles
from paging.storage.faulty import Fault, FaultPlan, RowFault
from server.engine.messages import FinishReason
from server.engine.model_tables import TABLE_DIRECTORY
from tests.paging.sample_tables import flip_byte
from tests.server.engine.fake_model import request, run_all
from tests.server.engine.real_engine import started

BAD = 50


@pytest.fixture
def damaged_model(small_model, tmp_path):
    """A model whose table has one row that is not what was written."""
    directory = shutil.copytree(small_model, tmp_path / "damaged")
    with Table.open(directory / TABLE_DIRECTORY) as table:
        files = RowFiles.open(table.directory, table.manifest, table.checksums)
        place = files.place(BAD)
        files.close()
    flip_byte(place.path, place.offset + 5)
    return directory


def requests_around_the_row():
    return [
        request("before", [1, 2, 3], max_tokens=6, allowed_token_ids=[7, 8, 9]),
        request("needs it", [4, 5, BAD, 6], max_tokens=6, allowed_token_ids=[7, 8, 9]),
        request("draws it", [10, 11], max_tokens=3, allowed_token_ids=[BAD]),
        request("ends with it", [10, 11], max_tokens=1, allowed_token_ids=[BAD]),
        request("after", [12, 13], max_tokens=6, allowed_token_ids=[7, 8, 9]),
    ]


ENDS = {
    ("before", 0): FinishReason.LENGTH,
    ("needs it", 0): FinishReason.ERROR,
    ("draws it", 0): FinishReason.ERROR,
    ("ends with it", 0): FinishReason.LENGTH,
    ("after", 0): FinishReason.LENGTH,
}


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("latency", [0.0, 0.02])
def test_only_requests_that_need_a_broken_row_fail(small_model, fault, latency):
    plan = FaultPlan(rows={BAD: RowFault(fault=fault, latency=latency)})
    with started(small_model, plan=plan) as engine:
        outcomes = run_all(engine, *requests_around_the_row())
        assert ENDS == outcomes.ends
        assert {"needs it", "draws it"} == outcomes.errors.keys()
        assert all(f"row {BAD}: {fault.cause}; injected" == error for error in outcomes.errors.values())
        assert [BAD] == outcomes.tokens["draws it", 0]
        assert 0 < engine.stats().memory["read_errors_by_cause"][fault.kind]


@pytest.fixture(params=[{"tol_storage": "direct"}, {"tol_storage": "mapped"}, {"memory": "mapped", "max_num_seqs": 1}])
def errors_of_damage(damaged_model, request):
    """What is told of a damaged row, however rows are read."""
    with started(damaged_model, **request.param) as engine:
        outcomes = run_all(engine, *requests_around_the_row())
    assert ENDS == outcomes.ends
    return outcomes.errors


def test_a_damaged_row_is_named_with_its_file(errors_of_damage):
    assert {"needs it", "draws it"} == errors_of_damage.keys()
    for error in errors_of_damage.values():
        assert re.fullmatch(rf"row {BAD} \([\w.-]+, byte \d+\): its checksum does not match its bytes; .*", error)


def test_where_a_damaged_row_lies_stands_in_the_log(capsys, damaged_model, errors_of_damage):
    lines = capsys.readouterr().err.splitlines()
    assert len(errors_of_damage) == len(lines)
    assert all(line.startswith(f"error: row {BAD} ({damaged_model / TABLE_DIRECTORY}/") for line in lines)


def test_a_row_that_heals_serves_the_next_request(small_model):
    plan = FaultPlan(rows={BAD: RowFault(fault=Fault.IO_ERROR)})
    with started(small_model, plan=plan) as engine:
        asked = request("a", [1, BAD, 2], max_tokens=3)
        assert {"a"} == run_all(engine, asked).errors.keys()
        (storage,) = engine._memory.pager._parts.space.storages
        storage.stop()
        assert {} == run_all(engine, asked).errors


def test_reads_that_fail_at_random_fail_requests_and_nothing_more(small_model):
    plan = FaultPlan(seed=3, rates={Fault.IO_ERROR: 0.05}, latency=(0.0, 0.002))
    with started(small_model, plan=plan, tol_device_rows=6, max_num_seqs=4) as engine:
        asked = [request(f"r{number}", [number + 1, 2 * number + 1, 3], max_tokens=6, n=2) for number in range(20)]
        outcomes = run_all(engine, *asked)
    assert {(each.request_id, choice) for each in asked for choice in range(2)} == outcomes.ends.keys()
    assert {FinishReason.ERROR, FinishReason.LENGTH} == {*outcomes.ends.values()}


@pytest.mark.parametrize("options", [{}, {"tol_device_rows": 9}, {"tol_device_rows": 9, "tol_host_bytes": 60_000}])
@pytest.mark.parametrize("latency", [0.0, 0.002])
def test_what_requests_asked_for_is_what_the_pager_gave(small_model, options, latency):
    plan = FaultPlan(latency=(0.0, latency))
    with started(small_model, plan=plan, max_num_seqs=8, **options) as engine:
        asked = [request(f"r{number}", [number % 4 + 1] * 9 + [number, 40], max_tokens=8, n=2) for number in range(12)]
        uses = [message.memory for message in run_all(engine, *asked).finished.values()]
        stats = engine.stats()
    memory = stats.memory
    assert 0 == stats.preemptions
    for use, name in [("rows", "row_requests"), ("device_hits",) * 2, ("host_hits",) * 2, ("major_faults",) * 2]:
        assert memory[name] == sum(getattr(each, use) for each in uses)
    assert all(each.rows == each.device_hits + each.host_hits + each.major_faults for each in uses)
    row_bytes = engine.info.table["row_bytes"]
    assert all(each.bytes_read == each.major_faults * row_bytes for each in uses)


def test_time_spent_waiting_is_told(small_model):
    with started(small_model, plan=FaultPlan(latency=(0.01, 0.01))) as engine:
        (message,) = run_all(engine, request("a", [1, 2, 3], max_tokens=2)).finished.values()
    assert 0 < message.memory.stall_seconds
