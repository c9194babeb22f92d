import numpy as np
import pytest

from paging import RowReadError
from server.measuring.row_reads import await_lease, drop_pages, lease_seconds, opened_pager, read_rate
from tests.paging.sample_tables import flip_byte, shard_paths, small_geometry, write_table


@pytest.fixture
def table(tmp_path):
    write_table(tmp_path / "table", small_geometry(vocab_size=64))
    return tmp_path / "table"


def test_rows_are_read_by_way_of_the_page_cache_and_past_it(table):
    for kind in ("mapped", "direct"):
        assert read_rate(table, kind, np.arange(20)) > 0


def test_a_table_stays_as_it_is_when_its_pages_are_dropped(table):
    before = [path.read_bytes() for path in shard_paths(table)]
    drop_pages(table)
    assert before == [path.read_bytes() for path in shard_paths(table)]


def test_every_lease_is_timed(table):
    with opened_pager(table, num_slots=10) as pager:
        seconds = lease_seconds(pager, np.arange(10), num_keys=4, count=25, seed=0)
        stats = pager.stats()
    assert (25, True) == (len(seconds), bool((seconds > 0).all()))
    assert 10 == stats.major_faults
    assert 25 * 4 == stats.device_hits


def test_a_row_that_cannot_be_had_is_its_error(table):
    flip_byte(shard_paths(table)[0], 4096 + 3)
    with opened_pager(table, num_slots=10) as pager, pytest.raises(RowReadError):
        await_lease(pager, np.arange(2))
