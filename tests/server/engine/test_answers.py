"""What an engine answers to questions, and that it goes on with what they began."""

import numpy as np
import pytest

from paging.report import Residency
from server.engine.errors import RequestError
from server.engine.questions import (
    DescribeRowWishes,
    ListPinnedRows,
    ListRecentRows,
    MapRows,
    PinRows,
    UnpinRows,
    WarmRows,
)
from server.engine.row_answers import row_map
from tests.server.engine.fake_model import Outcomes, request, run_all
from tests.server.engine.real_engine import started


@pytest.fixture
def engine(small_model):
    with started(small_model, tol_device_rows=40, max_num_seqs=4) as engine:
        while engine.has_work:  # what was hot last time comes first
            engine.step()
        yield engine


def bring(engine):
    while engine.has_work:
        engine.step()


def test_pinned_rows_come_without_any_request(engine):
    asked = engine.answer(PinRows(token_ids=[90, 3, 90]))
    bring(engine)
    told = engine.answer(DescribeRowWishes())
    assert (2, 2, 0) == (asked.num_pinned, told.num_pinned, told.num_pins_waiting)
    assert [3, 90] == engine.answer(ListPinnedRows()).token_ids


def test_pins_end(engine):
    engine.answer(PinRows(token_ids=[1, 2, 3]))
    assert (1, 39) == (
        engine.answer(UnpinRows(token_ids=[1, 3])).num_pinned,
        engine.answer(UnpinRows(token_ids=[9])).leasable_rows,
    )
    assert (0, 40) == (
        engine.answer(UnpinRows(token_ids=None)).num_pinned,
        engine.answer(DescribeRowWishes()).leasable_rows,
    )


def test_requests_are_answered_the_same_with_most_rows_pinned(engine):
    wanted = [request(str(index), [1 + index, 50, 60 + index], max_tokens=8) for index in range(4)]
    alone = run_all(engine, *wanted).tokens
    engine.answer(PinRows(token_ids=list(range(35))))
    for each in wanted:
        engine.add(each)
    pinned = Outcomes()
    while engine.has_work:
        pinned.take(engine.step())
        engine.check_integrity()
    assert alone == pinned.tokens


def test_pins_that_leave_too_few_slots_are_refused(engine):
    with pytest.raises(RequestError, match="pin at most 35 more rows"):
        engine.answer(PinRows(token_ids=list(range(36))))


def test_warming_brings_rows_without_any_request(engine):
    warmed = engine.answer(WarmRows(token_ids=list(range(50, 80))))
    bring(engine)
    again = engine.answer(WarmRows(token_ids=list(range(50, 80))))
    assert (30, 30, 30) == (warmed.num_rows, again.num_rows, again.num_resident)


@pytest.mark.parametrize("token_ids", [[], [96], [-1, 3]])
@pytest.mark.parametrize("question", [PinRows, UnpinRows, WarmRows])
def test_ids_outside_the_vocabulary_are_refused(engine, question, token_ids):
    with pytest.raises(RequestError, match="0 to 95"):
        engine.answer(question(token_ids=token_ids))


def test_the_latest_rows_asked_for_are_told(engine):
    run_all(engine, request("r", [7, 8, 9], max_tokens=1))
    assert [8, 9] == np.frombuffer(engine.answer(ListRecentRows(most=2)).keys, dtype=np.int64).tolist()


def test_a_map_has_every_row_on_the_device(engine):
    there = engine.answer(MapRows(most_cells=96))
    assert (1, 96) == (there.ids_per_cell, len(there.device))
    resident = np.flatnonzero(np.frombuffer(there.device, dtype=np.uint8)).tolist()
    assert sorted(engine._memory.pager.residency().device_keys.tolist()) == resident


@pytest.mark.parametrize("memory", ["computed", "resident", "mapped"])
def test_a_memory_that_is_not_paged_has_no_answers(small_model, memory):
    with started(small_model, memory=memory) as engine, pytest.raises(RequestError, match="is not paged"):
        engine.answer(DescribeRowWishes())


def there(device, host=()):
    """Rows in the tiers, the hottest first."""
    return Residency(
        device_keys=np.array(device, dtype=np.int64),
        device_heat=np.arange(len(device), 0, -1.0),
        host_keys=np.array(host, dtype=np.int64),
        host_heat=np.arange(len(host), 0, -1.0),
    )


def test_a_cell_of_a_map_has_the_share_of_its_rows_and_the_place_of_its_hottest():
    drawn = row_map(there([9, 0, 1], host=[2, 3]), vocab_size=10, most_cells=3)
    assert (4, [128, 0, 128]) == (drawn.ids_per_cell, list(drawn.device))
    assert ([128, 0, 0], [170, 0, 255]) == (list(drawn.host), list(drawn.heat))


def test_a_row_beyond_the_vocabulary_is_on_no_map():
    drawn = row_map(there([12, 1], host=[11]), vocab_size=10, most_cells=100)
    assert ([0, 255, *[0] * 8], [0] * 10) == (list(drawn.device), list(drawn.host))


def test_a_map_of_nothing_is_empty():
    assert bytes(4) == row_map(there([]), vocab_size=4, most_cells=4).heat


def test_a_map_without_cells_is_refused():
    with pytest.raises(RequestError, match="at least 1"):
        row_map(there([]), vocab_size=4, most_cells=0)
