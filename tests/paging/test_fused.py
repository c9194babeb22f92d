"""The kernel for GPUs beside plain operations; where there is no GPU, under Triton's interpreter."""

import subprocess
import sys

import pytest
import torch

from paging import LayerEncoding, TableGeometry, encode_rows
from paging.layers import LayerReader, pick

NAMES = ["bf16", "fp16", "fp32", "int8", "int4/32", "int4/64", "int4/128"]
ON_GPU = torch.cuda.is_available()


@pytest.fixture(scope="module")
def fused_pick():
    pytest.importorskip("triton", reason="Triton is not installed; it comes with PyTorch's builds for CUDA")
    with pytest.MonkeyPatch.context() as patch:
        if not ON_GPU:
            patch.setenv("TRITON_INTERPRET", "1")  # read when kernels are defined
        from paging.fused import fused_pick

        yield fused_pick


def stored_parts(name, num_slots=5, num_layers=3, hidden_size=128):
    """Parts of rows in slots that are longer than rows."""
    kind = LayerEncoding.parse(name)
    geometry = TableGeometry.uniform(
        hidden_size=hidden_size, num_layers=num_layers, vocab_size=num_slots, encoding=kind
    )
    values = torch.randn(num_slots, num_layers, hidden_size, generator=torch.Generator().manual_seed(0))
    slab = torch.zeros(num_slots, geometry.row_stride, dtype=torch.uint8)[:, : geometry.row_bytes]
    slab.copy_(encode_rows(values, geometry))
    slab = slab.cuda() if ON_GPU else slab
    return LayerReader(geometry, slab)._runs[geometry.layers]


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
    # The interpreter cuts bf16 off where a GPU rounds.
    torch.testing.assert_close(actual, expected, rtol=0 if ON_GPU else torch.finfo(dtype).eps, atol=0)


def test_layers_longer_than_a_block_are_decoded_whole(fused_pick):
    for name in ("int8", "int4/32", "fp32"):
        stored, kind = stored_parts(name, num_slots=2, num_layers=1, hidden_size=2560)
        index_N = torch.tensor([1, 0], device=stored.device)
        assert torch.equal(pick(stored, kind, index_N, None), fused_pick(stored, kind, index_N, None))


def test_triton_is_not_loaded_where_rows_are_in_host_memory():
    program = "import sys; from paging import open_pager; import paging.layers; sys.exit('triton' in sys.modules)"
    assert 0 == subprocess.run([sys.executable, "-c", program], check=False).returncode
