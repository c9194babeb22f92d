"""From budgets to a pager: how many slots each tier gets, and where their memory is. Knows devices and sizes."""

from collections.abc import Mapping

import torch

from paging.budget import Budget
from paging.cuda_slab import CudaSlab, PinnedSlab
from paging.errors import BudgetError
from paging.geometry import TableGeometry, aligned_stride
from paging.loader import HostTier
from paging.pager import Pager
from paging.policy import DEFAULT_POLICY, PolicyName, make_policy
from paging.slab import CpuSlab, DeviceSlab, HostSlab
from paging.slots import SlotMap
from paging.storage.protocol import Storage


def open_pager(
    storage: Storage,
    geometry: TableGeometry,
    *,
    device_budget: Budget,
    bases: Mapping[int, torch.Tensor] | None = None,
    host_budget: Budget | None = None,
    device: torch.device | str = "cpu",
    policy: PolicyName = DEFAULT_POLICY,
    max_num_seqs: int = 1,
    prefetch_share: float = 0.1,
) -> Pager:
    """Make a pager for a table, whose rows have their own numbers as keys.

    bases: the table's, where it has any; like everything that is not a slot, beside the budgets.
    host_budget: None is no host tier where there is no GPU, and with one just what reads in flight need. What the
    storage takes for itself counts towards the budget of the tier where its reads land. max_num_seqs: sequences that
    must be able to run at once. Raises `BudgetError` with the number needed where the budgets are too small.
    """
    device = torch.device(device)
    on_gpu = device.type == "cuda"
    stride = aligned_stride(geometry.row_bytes)
    host_slots = storage.queue_depth if on_gpu else 0
    if host_budget is not None:
        host_slots = host_budget.slots(
            slot_bytes=stride, num_rows=storage.num_rows, staging_bytes=storage.staging_bytes
        )
        if on_gpu and not host_slots:
            raise BudgetError(
                f"the host budget holds no row; {stride + storage.staging_bytes} bytes is the least, and "
                f"{storage.queue_depth * stride + storage.staging_bytes} keep the storage busy"
            )
    num_slots = device_budget.device_slots(
        slot_bytes=geometry.row_bytes if on_gpu else stride,
        num_rows=storage.num_rows,
        max_num_seqs=max_num_seqs,
        staging_bytes=0 if host_slots else storage.staging_bytes,
    )
    host = None
    if host_slots:
        slab_type = PinnedSlab if on_gpu else HostSlab
        host = HostTier(slots=SlotMap(make_policy(policy, host_slots)), slab=slab_type(host_slots, geometry.row_bytes))
    slab: DeviceSlab
    slab = CudaSlab(num_slots, geometry.row_bytes, device) if on_gpu else CpuSlab(num_slots, geometry.row_bytes)
    pager = Pager(
        geometry=geometry,
        slab=slab,
        policy=make_policy(policy, num_slots),
        bases=bases,
        host=host,
        prefetch_share=prefetch_share,
        min_leasable=min(max_num_seqs + 1, num_slots),
    )
    pager.attach(storage)
    return pager
