"""One new token each of many sequences: plain operations beside a float64 reference, and the kernels beside those."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.decode_attention import DecodeContext, attend_blocks
from models.kv_cache import KVCache
from tests.models.tiny_models import DENSE
from tests.triton_kernels import ON_GPU, kernels_of

DEVICE = "cuda" if ON_GPU else "cpu"


@pytest.fixture(scope="module")
def fused():
    with kernels_of("models.fused_attention") as module:
        yield module


def contexts(lengths, *, heads=4, kv_heads=2, head_dim=16, stored_dim=16, block_size=4, dtype=torch.float32, spare=0):
    """Queries, a cache of blocks in any order, block tables with room to spare; NaN in every slot that is nobody's."""
    generator = torch.Generator().manual_seed(sum(lengths))
    num_blocks = [-(-length // block_size) for length in lengths]
    order = torch.randperm(sum(num_blocks) + 1, generator=generator)
    stores = torch.full((2, kv_heads, sum(num_blocks) + 1, block_size, stored_dim), float("nan"))
    stores[..., head_dim:] = 0
    blocks_SB = order[-1].repeat(len(lengths), max(num_blocks) + spare)
    start = 0
    for row, (length, count) in enumerate(zip(lengths, num_blocks, strict=True)):
        blocks_SB[row, :count] = order[start : start + count]
        start += count
        slots = torch.cat([block * block_size + torch.arange(block_size) for block in blocks_SB[row, :count]])[:length]
        stores.flatten(2, 3)[:, :, slots, :head_dim] = torch.randn(2, kv_heads, length, head_dim, generator=generator)
    q_SHD = torch.randn(len(lengths), heads, head_dim, generator=generator)
    keys, values = stores.to(dtype)
    return [x.to(DEVICE) for x in (q_SHD.to(dtype), keys, values, blocks_SB, torch.tensor(lengths))]


def exact(q_SHD, keys_GNPD, values_GNPD, blocks_SB, lengths_S):
    """Attention in float64, one head of one sequence after another."""
    share = q_SHD.shape[1] // len(keys_GNPD)
    out = torch.zeros(q_SHD.shape, dtype=torch.float64)
    for row, length in enumerate(lengths_S.tolist()):
        for head in range(q_SHD.shape[1]):
            stores = (store[head // share][blocks_SB[row]] for store in (keys_GNPD, values_GNPD))
            k_CD, v_CD = (x.flatten(0, 1)[:length, : q_SHD.shape[-1]].double().cpu() for x in stores)
            weights_C = (k_CD @ q_SHD[row, head].double().cpu() * q_SHD.shape[-1] ** -0.5).softmax(0)
            out[row, head] = weights_C @ v_CD
    return out


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    heads=st.sampled_from([(4, 4), (4, 1), (6, 2)]),
    dims=st.sampled_from([(6, 8), (16, 16)]),
    block_size=st.integers(1, 8),
    spare=st.integers(0, 3),
)
def test_plain_operations_give_what_the_reference_gives(lengths, heads, dims, block_size, spare):
    given_ = contexts(
        lengths,
        heads=heads[0],
        kv_heads=heads[1],
        head_dim=dims[0],
        stored_dim=dims[1],
        block_size=block_size,
        spare=spare,
    )
    torch.testing.assert_close(attend_blocks(*given_).double().cpu(), exact(*given_), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("lengths", "shape"),
    [
        ([1], {}),
        ([300, 1, 77], {}),
        ([40, 130], {"heads": 8, "kv_heads": 1}),
        ([33, 9], {"head_dim": 60, "stored_dim": 64, "block_size": 16}),
        ([200], {"head_dim": 100, "stored_dim": 104, "block_size": 16, "spare": 40}),
    ],
    ids=str,
)
def test_the_kernels_give_what_the_reference_gives(fused, lengths, shape):
    given_ = contexts(lengths, **shape)
    actual = fused.fused_attend_blocks(*given_)
    torch.testing.assert_close(actual.double().cpu(), exact(*given_), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_the_kernels_round_once_in_the_end(fused, dtype, atol):
    given_ = contexts([90, 17], dtype=dtype)
    actual = fused.fused_attend_blocks(*given_)
    assert actual.dtype is dtype
    torch.testing.assert_close(actual.double().cpu(), exact(*given_), rtol=atol, atol=1e-6)


def test_contexts_in_parts_give_what_contexts_in_one_piece_give(fused, monkeypatch):
    given_ = contexts([300, 5], head_dim=64, stored_dim=64)
    in_parts = fused.fused_attend_blocks(*given_)
    assert fused.parts_of(8, given_[3].shape[1] * 4, 64) > 1
    monkeypatch.setattr(fused, "_MOST_PARTS", 1)
    torch.testing.assert_close(fused.fused_attend_blocks(*given_), in_parts, rtol=0, atol=1e-6)


def test_a_batch_is_cut_into_parts_by_its_shape_alone(fused):
    assert [32, 4, 1, 1] == [fused.parts_of(32 * lanes, 2048, 64) for lanes in (1, 8, 32, 128)]
    assert 4 == fused.parts_of(32, 256, 64)


def test_no_lane_sees_another():
    config = dataclasses.replace(DENSE, num_attention_heads=4, num_key_value_heads=2, hidden_size=64)
    q_SHD, keys, values, blocks_SB, lengths_S = contexts([9, 3, 6])
    together = attend_blocks(q_SHD, keys, values, blocks_SB, lengths_S)
    cache = KVCache(config, num_blocks=keys.shape[1], block_size=4, device=DEVICE)
    cache.keys[1], cache.values[1] = keys, values
    for lane in range(3):
        context = DecodeContext(
            kv_cache=cache,
            slot_mapping_S=lengths_S[lane : lane + 1],
            blocks_SB=blocks_SB[lane : lane + 1],
            lengths_S=lengths_S[lane : lane + 1],
        )
        alone = context.read(1, q_SHD[lane : lane + 1])
        torch.testing.assert_close(alone[0], together[lane], rtol=0, atol=1e-6)
