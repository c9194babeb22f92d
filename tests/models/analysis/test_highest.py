import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.analysis.highest import Highest, highest

VALUES = arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 30)), elements=st.integers(-9, 9))


@given(values=VALUES, n=st.integers(1, 8), chunk=st.integers(1, 7), by_magnitude=st.booleans())
def test_chunks_give_what_sorting_all_gives(values, n, chunk, by_magnitude):
    best = Highest(len(values), n, by_magnitude=by_magnitude)
    for start in range(0, values.shape[1], chunk):
        part = values[:, start : start + chunk]
        best.add(part, np.arange(start, start + part.shape[1]))
    ranking = best.ranking()
    keys = np.abs(values) if by_magnitude else values
    for row, key, ids, found in zip(values, keys, ranking.ids_Rn, ranking.values_Rn, strict=True):
        assert np.sort(key)[::-1][:n].tolist() == key[ids].tolist()
        assert row[ids].tolist() == found.tolist()
        assert len(set(ids.tolist())) == len(ids)


def test_equals_come_in_order_of_their_ids():
    assert [1, 3, 0] == highest(np.array([1, 2, 0, 2]), 3).ids_Rn.tolist()


def test_signs_are_kept():
    assert [-5, 4] == highest(np.array([4, -5, 1]), 2, by_magnitude=True).values_Rn.tolist()
