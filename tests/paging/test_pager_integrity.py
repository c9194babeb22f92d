"""`check_integrity` notices what it is there to notice."""

import numpy as np
import pytest

from tests.paging.pager_fakes import StepStorage, keys, make_pager, random_rows


@pytest.fixture(params=[0, 4], ids=["without host tier", "with host tier"])
def pager(request):
    """A pager in the middle of everything: leased, evictable, landing, free and kept rows, and a waiting lease."""
    pager = make_pager(8, host_slots=request.param, queue_depth=2)
    storage = StepStorage(random_rows(32))
    pager.attach(storage)
    for values in [(1, 2), (3,)]:
        lease = pager.lease(keys(*values))
        storage.end_all()
        pager.poll()
    pager.release(lease)
    pager.lease(keys(1, 4, 5))
    pager.check_integrity()
    return pager


def slot_of(parts, key):
    return int(parts.device.slot_of_key[key])


DAMAGE = {
    "a leased row is evicted": lambda parts: parts.device.key_of_slot.__setitem__(slot_of(parts, 1), 9),
    "a row has two slots": lambda parts: parts.device.slot_of_key.__setitem__(2, slot_of(parts, 1)),
    "a hold is lost": lambda parts: parts.device.holds.__setitem__(slot_of(parts, 1), 0),
    "a hold is left behind": lambda parts: parts.device.holds.__setitem__(slot_of(parts, 3), 1),
    "a leased row may be evicted": lambda parts: parts.device.evictable.__setitem__(slot_of(parts, 1), True),
    "an idle row can never be evicted": lambda parts: parts.device.evictable.__setitem__(slot_of(parts, 3), False),
    "a free slot is lost": lambda parts: setattr(parts.device, "num_free", parts.device.num_free - 1),
    "a promise is forgotten": lambda parts: parts.demand.wanted.__setitem__(4, 0),
    "a waiting lease forgets a row": lambda parts: next(iter(parts.admission.waiters)).missing.discard(4),
    "an ask is ended twice": lambda parts: parts.asks.count.__setitem__(9, -1),
    "a row is kept for nobody": lambda parts: parts.device.kept.__setitem__(slot_of(parts, 3), True),
    "a read is forgotten": lambda parts: parts.reads.under_way.popitem(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_noticed(pager, damage):
    DAMAGE[damage](pager._parts)
    with pytest.raises(AssertionError, match="breaks a law"):
        pager.check_integrity()


def test_policies_and_slots_agree_on_what_is_resident(pager):
    device = pager._parts.device
    ready = np.flatnonzero((device.key_of_slot >= 0) & (device.slot_of_key[device.key_of_slot] >= 0))
    assert ready.tolist() == device.policy.resident().tolist()
