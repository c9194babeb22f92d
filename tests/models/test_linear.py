"""Matrices in the order that a device reads fastest multiply as they did before."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from models.linear import Linear, laid_out, multiply

TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3, torch.float64: 1e-12}
SIZES = st.integers(1, 70)


@settings(deadline=None)
@given(st.integers(0, 40), SIZES, SIZES, st.sampled_from([*TOLERANCES]))
def test_a_matrix_in_its_own_order_multiplies_as_before(num_tokens, num_in, num_out, dtype):
    x_Nd, weight = torch.randn(num_tokens, num_in, dtype=dtype), torch.randn(num_out, num_in, dtype=dtype)
    expected = F.linear(x_Nd.double(), weight.double())
    actual = multiply(x_Nd, laid_out(weight))
    assert dtype is actual.dtype
    torch.testing.assert_close(expected, actual.double(), rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype] * num_in)


@settings(deadline=None)
@given(st.integers(1, 9), SIZES, st.lists(SIZES, min_size=1, max_size=4))
def test_joined_matrices_give_their_outputs_in_turn(num_tokens, num_in, sizes):
    parts = [Linear(num_in, size, bias=False) for size in sizes]
    for part in parts:
        torch.nn.init.normal_(part.weight)
    x_Nd = torch.randn(num_tokens, num_in)
    joined = Linear.joined(parts)(x_Nd).split(sizes, dim=-1)
    for part, actual in zip(parts, joined, strict=True):
        torch.testing.assert_close(part(x_Nd), actual, rtol=1e-5, atol=1e-4)


def test_rows_that_do_not_lie_in_one_piece_are_multiplied_all_the_same():
    wide, weight = torch.randn(6, 64), torch.randn(12, 32)
    torch.testing.assert_close(F.linear(wide[:, ::2], weight), multiply(wide[:, ::2], laid_out(weight)))


def test_what_a_product_says_of_one_token_does_not_depend_on_what_ran_before():
    weight = laid_out(torch.randn(96, 64))
    x_Nd = torch.randn(5, 64)
    before = multiply(x_Nd, weight)
    multiply(torch.full((9, 64), torch.nan), weight)
    assert torch.equal(before, multiply(x_Nd, weight))


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch was built without oneDNN")
def test_a_matrix_on_a_cpu_gets_an_order_of_its_own():
    assert laid_out(torch.randn(8, 8)).is_mkldnn


def test_a_matrix_that_has_no_other_order_is_not_copied():
    weight = torch.nn.Parameter(torch.randn(8, 8, dtype=torch.float64))
    assert weight is laid_out(weight)
