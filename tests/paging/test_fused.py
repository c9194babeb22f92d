"""The kernel for GPUs beside plain operations; where there is no GPU, under Triton's interpreter."""

import subprocess
import sys

import pytest
import torch

from paging import LayerEncoding, TableGeometry, encode_rows
from paging.layers import LayerReader, PickedRows, add_values, pick
from tests.triton_kernels import ON_GPU, kernels_of

NAMES = ["bf16", "fp16", "fp32", "int8", "int4/32", "int4/64", "int4/128"]


@pytest.fixture(scope="module")
def fused():
    with kernels_of("paging.fused") as module:
        yield module


@pytest.fixture(scope="module")
def fused_pick(fused):
    return fused.fused_pick


def reader_of(name, num_slots=5, num_layers=3, hidden_size=128):
    """A reader of rows in slots that are longer than rows."""
    kind = LayerEncoding.parse(name)
    geometry = TableGeometry.uniform(
        hidden_size=hidden_size, num_layers=num_layers, vocab_size=num_slots, encoding=kind
    )
    values = torch.randn(num_slots, num_layers, hidden_size, generator=torch.Generator().manual_seed(0))
    slab = torch.zeros(num_slots, geometry.row_stride, dtype=torch.uint8)[:, : geometry.row_bytes]
    slab.copy_(encode_rows(values, geometry))
    return LayerReader(geometry, slab.cuda() if ON_GPU else slab)


def stored_parts(name, **sizes):
    reader = reader_of(name, **sizes)
    return next(iter(reader._runs.values()))


@pytest.mark.parametrize("index", [[3, 0, 3], [1], []])
@pytest.mark.parametrize("name", NAMES)
def test_the_kernel_decodes_the_bits_that_plain_operations_do(fused_pick, name, index):
    stored, kind = stored_parts(name)
    index_N = torch.tensor(index, dtype=torch.int64, device=stored.device)
    for part in (stored, stored[:, 1]):
        for dtype in (None, torch.float32):
            expected, actual = (each(part, kind, index_N, dtype) for each in (pick, fused_pick))
            assert expected.dtype == actual.dtype
            assert torch.equal(expected, actual)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_the_kernel_rounds_to_16_bits(fused_pick, name, dtype):
    stored, kind = stored_parts(name)
    index_N = torch.tensor([4, 2], device=stored.device)
    expected, actual = (each(stored, kind, index_N, dtype) for each in (pick, fused_pick))
    assert torch.equal(expected, actual)


def test_layers_longer_than_a_block_are_decoded_whole(fused_pick):
    for name in ("int8", "int4/32", "fp32"):
        stored, kind = stored_parts(name, num_slots=2, num_layers=1, hidden_size=2560)
        index_N = torch.tensor([1, 0], device=stored.device)
        assert torch.equal(pick(stored, kind, index_N, None), fused_pick(stored, kind, index_N, None))


def hidden_states(num_rows, dtype, hidden_size=128):
    """Hidden states and alphas, in tensors of more columns than are used."""
    generator = torch.Generator().manual_seed(1)
    hidden_ND = (4 * torch.randn(num_rows, hidden_size + 8, generator=generator)).to(dtype)[:, :hidden_size]
    alpha_NL = torch.randn(num_rows, 3, generator=generator).to(dtype)
    return (hidden_ND.cuda(), alpha_NL.cuda()) if ON_GPU else (hidden_ND, alpha_NL)


@pytest.mark.parametrize("index", [[3, 0, 3], [1], []])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_the_kernel_adds_what_decoding_and_then_adding_does(fused, name, dtype, index):
    stored, kind = stored_parts(name)
    index_N = torch.tensor(index, dtype=torch.int64, device=stored.device)
    hidden_ND, alpha_NL = hidden_states(len(index), dtype)
    for alpha_N in (None, alpha_NL[:, 1]):
        kept_ND = hidden_ND.clone()
        expected = add_values(kept_ND, pick(stored[:, 2], kind, index_N, dtype), alpha_N)
        assert torch.equal(expected, fused.fused_add(stored[:, 2], kind, index_N, kept_ND, alpha_N))
        assert torch.equal(expected, kept_ND)


def test_rows_are_added_by_the_kernel_where_there_is_one(fused, monkeypatch):
    reader = reader_of("int8")
    hidden_ND, alpha_NL = hidden_states(2, torch.float32)
    rows = PickedRows(reader, torch.tensor([2, 4], device=hidden_ND.device))
    expected = add_values(hidden_ND, rows.gather(1, torch.float32), alpha_NL[:, 0])
    monkeypatch.setattr(reader, "_add", fused.fused_add)
    kept_ND = hidden_ND.clone()
    assert kept_ND is rows.add_to(kept_ND, 1, alpha_NL[:, 0])
    assert torch.equal(expected, kept_ND)


def test_what_the_kernel_cannot_add_is_added_by_plain_operations(fused, monkeypatch):
    reader = reader_of("bf16")
    monkeypatch.setattr(reader, "_add", fused.fused_add)
    hidden_ND, alpha_NL = hidden_states(2, torch.float32)
    rows = PickedRows(reader, torch.tensor([2, 4], device=hidden_ND.device))
    kept_ND = hidden_ND.clone()
    assert torch.equal(kept_ND, rows.add_to(kept_ND, 7))  # a layer that the table left out
    needs_gradient_ND = hidden_ND.clone().requires_grad_()
    alpha_N = alpha_NL[:, 0]
    for given_ND, given_N in [(hidden_ND.double(), None), (needs_gradient_ND, None), (hidden_ND, alpha_N.double())]:
        before_ND = given_ND.detach().clone()
        expected = add_values(given_ND, rows.gather(1, given_ND.dtype), given_N)
        assert torch.equal(expected, rows.add_to(given_ND, 1, given_N))
        assert torch.equal(before_ND, given_ND)


def test_triton_is_not_loaded_where_rows_are_in_host_memory():
    program = "import sys; from paging import open_pager; import paging.layers; sys.exit('triton' in sys.modules)"
    assert 0 == subprocess.run([sys.executable, "-c", program], check=False).returncode
