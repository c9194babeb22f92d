"""The pager with its device tier on a GPU."""

import numpy as np
import pytest
import torch

from tests.paging.pager_fakes import StepStorage, keys, make_pager, payload, random_rows
from tests.paging.test_pager_machine import SETTINGS, PagerMachine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


class CudaPagerMachine(PagerMachine):
    kinds = ("cuda", "cuda")


TestCudaPagerMachine = CudaPagerMachine.TestCase
TestCudaPagerMachine.settings = SETTINGS


def pager_with(num_slots, host_slots=8):
    pager = make_pager(num_slots, host_slots=host_slots, kind="cuda")
    storage = StepStorage(random_rows(32))
    pager.attach(storage)
    return pager, storage


def lease(pager, storage, *values):
    lease = pager.lease(keys(*values))
    while not lease.is_ready:
        storage.end_all()
        pager.poll()
    return lease


def test_rows_come_to_the_device_as_they_are():
    pager, storage = pager_with(4)
    held = lease(pager, storage, 7, 3, 7)
    assert np.array_equal(storage.rows[[7, 3, 7]], payload(pager, held))
    pager.close()


def test_rows_of_several_leases_come_together():
    pager, storage = pager_with(4)
    leases = [lease(pager, storage, 7, 3), lease(pager, storage, 3)]
    assert np.array_equal(storage.rows[[7, 3, 3]], payload(pager, leases))
    pager.close()


def test_keys_are_resolved_on_the_device_and_the_absent_are_told():
    pager, storage = pager_with(2)
    pager.release(lease(pager, storage, 1, 2))
    pager.release(lease(pager, storage, 3))
    there = pager.residency().device_keys.tolist()
    slots_N, missing_N = pager._slab.resolve(torch.tensor([1, 2, 3, 4], device="cuda"))
    assert [key not in there for key in (1, 2, 3, 4)] == missing_N.tolist()
    assert pager._device.slot_of_key[[1, 2, 3, 4]].tolist() == slots_N.tolist()
    pager.close()


def test_a_step_that_is_queued_reads_its_rows_although_they_are_evicted_meanwhile():
    pager, storage = pager_with(1)
    held = lease(pager, storage, 1)
    torch.cuda._sleep(200_000_000)
    values = pager.gather(0, held)  # queued behind the sleep
    pager.release(held)
    lease(pager, storage, 2)
    expected = torch.from_numpy(storage.rows[1, :16].copy()).view(torch.bfloat16)
    assert torch.equal(expected.view(torch.int16), values[0].cpu().view(torch.int16))
    pager.close()
