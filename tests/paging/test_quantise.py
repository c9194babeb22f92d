"""int8 and int4 beside slow references: what the bytes mean, how far off values are, and what stays exact."""

import struct
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from paging.quantise import decode_int4, decode_int8, encode_int4, encode_int8

SIZES = st.sampled_from([64, 128])
VALUES = st.floats(-30000, 30000, width=32)
STEPS = st.floats(-(2.0**100), 2.0**100, width=32).map(lambda step: struct.pack("<f", step))


def vectors(data, size):
    """A few vectors: hypothesis' own first values, then normal ones of a scale of its choice."""
    scale = data.draw(st.sampled_from([1e-30, 1e-3, 1.0, 50.0]))
    values = torch.randn(3, size, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99)))) * scale
    drawn = data.draw(st.lists(VALUES, max_size=8))
    values[0, : len(drawn)] = torch.tensor(drawn)
    return values


def slow_int8(encoded):
    """One vector's values from its bytes, as `docs/formats.md` says."""
    (step,) = struct.unpack("<f", encoded[:4])
    return [np.float32(number) * np.float32(step) for number in struct.unpack(f"<{len(encoded) - 4}b", encoded[4:])]


def slow_int4(encoded, size, group_size):
    (step,) = struct.unpack("<f", encoded[:4])
    num_groups = size // group_size
    scales = [np.float32(multiplier) * np.float32(step) for multiplier in encoded[4 : 4 + num_groups]]
    packed = encoded[4 + num_groups :]
    assert len(packed) == size // 2
    values = []
    for index in range(size):
        nibble = packed[index] & 15 if index < size // 2 else packed[index - size // 2] >> 4
        sixteenths = 16 * (nibble - 16 if nibble > 7 else nibble)
        values.append(np.float32(sixteenths) * scales[index // group_size])
    return values


def rows_of(length):
    """Random bytes of this length behind any step."""
    numbers = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).bytes(length - 4))
    return st.lists(st.tuples(STEPS, numbers).map(b"".join), max_size=3)


def tensor_of(rows, length):
    return torch.tensor([list(row) for row in rows], dtype=torch.uint8).view(-1, length)


@given(rows=rows_of(68))
def test_any_bytes_decode_as_int8_is_described(rows):
    expected = np.array([slow_int8(row) for row in rows], dtype=np.float32).reshape(-1, 64)
    assert np.array_equal(expected, decode_int8(tensor_of(rows, 68)).numpy())


@given(data=st.data(), size=SIZES, group_size=st.sampled_from([32, 64]))
def test_any_bytes_decode_as_int4_is_described(data, size, group_size):
    length = 4 + size // group_size + size // 2
    rows = data.draw(rows_of(length))
    expected = np.array([slow_int4(row, size, group_size) for row in rows], dtype=np.float32).reshape(-1, size)
    assert np.array_equal(expected, decode_int4(tensor_of(rows, length), group_size).numpy())


@given(data=st.data(), size=SIZES)
def test_int8_is_off_by_half_a_step_at_most(data, size):
    values = vectors(data, size)
    step = values.abs().amax(1, keepdim=True) / 127
    error = (decode_int8(encode_int8(values)) - values).abs()
    assert bool((error <= step * 0.5001).all())


@given(data=st.data(), size=SIZES, group_size=st.sampled_from([32, 64]))
def test_int4_is_no_worse_than_plain_rounding_of_every_group(data, size, group_size):
    values = vectors(data, size)
    groups = values.unflatten(1, (-1, group_size)).double()
    scale = groups.abs().amax(2, keepdim=True) / 7
    plain = torch.where(scale > 0, (groups / scale).round() * scale, 0)
    worst = ((plain - groups).square().sum(2)).sqrt()
    decoded = decode_int4(encode_int4(values, group_size), group_size).unflatten(1, (-1, group_size)).double()
    error = (decoded - groups).square().sum(2).sqrt()
    # The group's multiplier is a whole number: its scale is off by 1/128 of the largest group's at most.
    slack = scale.amax(1) / 128 * 8 * group_size**0.5
    assert bool((error <= worst * 1.001 + slack + 1e-35).all())


def test_int4_tries_scales_that_cut_something_off():
    values = torch.zeros(1, 64)
    values[0, :32] = torch.linspace(-1, 1, 32)
    values[0, 5] = 1.5
    decoded = decode_int4(encode_int4(values, 32), 32)
    plain = (values * 7 / 1.5).round() * 1.5 / 7
    assert float((decoded - values).square().sum()) < float((plain - values).square().sum())


@given(
    numbers=st.lists(st.integers(-127, 127), min_size=64, max_size=64),
    exponent=st.integers(-90, 90),
)
def test_int8_keeps_multiples_of_a_power_of_two_exactly(numbers, exponent):
    assume(max(map(abs, numbers)) == 127)
    values = torch.tensor([numbers], dtype=torch.float32) * 2.0**exponent
    assert torch.equal(values, decode_int8(encode_int8(values)))


@given(
    numbers=st.lists(st.integers(-7, 7), min_size=62, max_size=62),
    exponent=st.integers(-80, 80),
    group_size=st.sampled_from([32, 64]),
)
def test_int4_keeps_multiples_of_a_power_of_two_exactly(numbers, exponent, group_size):
    values = torch.tensor([[7, *numbers, -7]], dtype=torch.float32) * 2.0**exponent
    assert torch.equal(values, decode_int4(encode_int4(values, group_size), group_size))


@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-38])
def test_zeros_and_next_to_nothing_are_stored_as_zeros(value):
    values = torch.full((2, 64), value)
    for decoded in (decode_int8(encode_int8(values)), decode_int4(encode_int4(values, 32), 32)):
        assert torch.equal(torch.zeros(2, 64), decoded)


def test_a_group_of_zeros_beside_large_values_stays_zero():
    values = torch.cat([torch.full((1, 32), 1e30), torch.zeros(1, 32)], dim=1)
    assert torch.equal(torch.zeros(32), decode_int4(encode_int4(values, 32), 32)[0, 32:])


@settings(max_examples=20)
@given(cuts=st.lists(st.integers(0, 12), min_size=1, max_size=4))
def test_a_vectors_bytes_do_not_depend_on_those_beside_it(cuts):
    values = torch.randn(12, 64, generator=torch.Generator().manual_seed(1))
    ends = sorted({0, 12, *cuts})
    pieces = [values[start:end] for start, end in pairwise(ends)]
    assert torch.equal(encode_int4(values, 32), torch.cat([encode_int4(piece, 32) for piece in pieces]))
    assert torch.equal(encode_int8(values), torch.cat([encode_int8(piece) for piece in pieces]))


@pytest.mark.parametrize("offset", [0, 1, 3])
def test_parts_of_longer_rows_decode_wherever_they_lie(offset):
    encoded = encode_int4(torch.randn(1, 64), 32)
    row = torch.cat([torch.zeros(1, offset, dtype=torch.uint8), encoded], dim=1)
    assert torch.equal(decode_int4(encoded, 32), decode_int4(row[:, offset:], 32))
