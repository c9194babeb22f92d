import numpy as np
import pytest

from paging.errors import FrequencyError
from paging.frequencies import COUNTS_FILE, save_counts
from server.measuring.made_up_ids import made_up_ids


def test_ids_are_all_alike_where_no_counts_are_known(tmp_path):
    ids, how = made_up_ids(tmp_path, vocab_size=50, count=5000, seed=1)
    assert (0, 49, 50) == (ids.min(), ids.max(), len(np.unique(ids)))
    assert "every id as likely as any other, seed 1" in how


def test_ids_are_as_likely_as_they_were(tmp_path):
    counts_V = np.zeros(50, dtype=np.int64)
    counts_V[[3, 7]] = [30, 10]
    save_counts(tmp_path / COUNTS_FILE, counts_V)
    ids, how = made_up_ids(tmp_path, vocab_size=50, count=5000, seed=1)
    assert {3, 7} == set(ids.tolist())
    assert 0.7 < (ids == 3).mean() < 0.8
    assert COUNTS_FILE in how


def test_the_same_seed_gives_the_same_ids(tmp_path):
    first, second = (made_up_ids(tmp_path, vocab_size=50, count=100, seed=2)[0] for _ in range(2))
    assert first.tolist() == second.tolist()


def test_counts_of_another_vocabulary_are_a_mistake(tmp_path):
    save_counts(tmp_path / COUNTS_FILE, np.ones(10, dtype=np.int64))
    with pytest.raises(FrequencyError):
        made_up_ids(tmp_path, vocab_size=50, count=10, seed=0)
