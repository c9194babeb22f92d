"""Rows of several leases together: the bits of each by itself."""

import numpy as np
import pytest
import torch

from paging import Encoding, LayerEncoding, Segment, TableGeometry
from paging.layers import LayerReader
from paging.slab import HostSlab
from tests.paging.pager_fakes import GEOMETRY, StepStorage, keys, make_pager, random_rows


def pager_with(num_slots=8, **options):
    pager, storage = make_pager(num_slots, **options), StepStorage(random_rows(32) & 0x3F)
    pager.attach(storage)
    return pager, storage


def ready(pager, storage, *values):
    lease = pager.lease(keys(*values))
    while not lease.is_ready:
        assert storage.under_way
        storage.end_all()
        pager.poll()
    return lease


def bits(values):
    return values.contiguous().view(torch.uint8)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float32, torch.float16])
@pytest.mark.parametrize("options", [{}, {"host_slots": 4, "kind": "late"}])
def test_the_rows_of_several_leases_are_those_of_each_in_order(dtype, options):
    pager, storage = pager_with(**options)
    leases = [ready(pager, storage, *values) for values in [(3, 1, 3), (), (7,), (1, 2)]]
    rows = pager.rows(leases)
    assert 6 == len(rows)
    for layer in GEOMETRY.layers:
        expected = torch.cat([pager.gather(layer, lease) for lease in leases])
        assert torch.equal(bits(expected.to(dtype or torch.bfloat16)), bits(rows.gather(layer, dtype)))


def test_values_of_each_dtype_are_right_whatever_was_asked_for_before():
    pager, storage = pager_with()
    lease = ready(pager, storage, 5, 4)
    rows = pager.rows([lease])
    for dtype in (torch.float32, None, torch.float32):
        expected = pager.gather(1, lease).to(dtype or torch.bfloat16)
        assert torch.equal(bits(expected), bits(rows.gather(1, dtype)))


def test_no_leases_have_no_rows():
    pager, _ = pager_with()
    assert (0, GEOMETRY.hidden_size) == tuple(pager.rows([]).gather(0).shape)


def test_rows_of_a_waiting_lease_cannot_be_had():
    pager, storage = pager_with()
    with pytest.raises(ValueError, match="waiting"):
        pager.rows([ready(pager, storage, 1), pager.lease(keys(2))])


def test_rows_cannot_be_read_once_one_of_the_leases_is_over():
    pager, storage = pager_with()
    leases = [ready(pager, storage, 1), ready(pager, storage, 2)]
    rows = pager.rows(leases)
    rows.gather(0)
    pager.release(leases[1])
    with pytest.raises(ValueError, match="released"):
        rows.gather(1)


def reader(geometry, num_slots=3):
    slab = HostSlab(num_slots, geometry.row_bytes)
    slab.rows_SB[:] = np.random.default_rng(0).integers(0, 64, slab.rows_SB.shape, dtype=np.uint8)
    return LayerReader(geometry, slab.payload_SR)


@pytest.mark.parametrize("encoding", Encoding)
def test_layers_decoded_together_are_those_decoded_one_by_one(encoding):
    geometry = TableGeometry.uniform(hidden_size=96, num_layers=5, vocab_size=8, encoding=encoding, layers=(0, 2, 3))
    layers, index_N = reader(geometry), torch.tensor([2, 0, 2])
    decoded = layers.decode(index_N, None)
    assert [0, 2, 3] == list(decoded)
    for layer, values_ND in decoded.items():
        assert torch.equal(bits(layers.gather(index_N, layer)), bits(values_ND))


def test_layers_of_different_encodings_are_decoded_each_in_its_own():
    segments = (
        Segment(layer=0, offset=0, num_bytes=16, encoding=Encoding.BF16),
        Segment(layer=1, offset=16, num_bytes=32, encoding=Encoding.FP32),
    )
    geometry = TableGeometry(hidden_size=8, num_layers=2, vocab_size=8, segments=segments)
    layers, index_N = reader(geometry), torch.tensor([1, 0])
    decoded = layers.decode(index_N, None)
    assert [torch.bfloat16, torch.float32] == [values_ND.dtype for values_ND in decoded.values()]
    for layer, values_ND in decoded.items():
        assert torch.equal(bits(layers.gather(index_N, layer)), bits(values_ND))


def test_layers_with_ranks_are_not_read_without_their_bases():
    geometry = TableGeometry.uniform(
        hidden_size=8, num_layers=2, vocab_size=8, encoding=LayerEncoding(Encoding.BF16, None, 4)
    )
    with pytest.raises(ValueError, match="there are bases of"):
        reader(geometry)


def test_so_many_rows_that_they_would_take_much_memory_are_decoded_one_layer_at_a_time():
    geometry = TableGeometry.uniform(hidden_size=1024, num_layers=8, vocab_size=8, encoding=Encoding.BF16)
    layers = reader(geometry)
    assert layers.decode(torch.zeros(1024, dtype=torch.int64), None)
    assert {} == layers.decode(torch.zeros(1025, dtype=torch.int64), None)
    assert {} == layers.decode(torch.zeros(1024, dtype=torch.int64), torch.float32)
