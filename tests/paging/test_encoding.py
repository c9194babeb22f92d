import pytest
import torch

from paging import (
    Encoding,
    EncodingError,
    LayerEncoding,
    Segment,
    TableGeometry,
    decode_layer,
    encode_rows,
    torch_dtype,
)
from tests.paging.sample_tables import FLOATS, small_geometry


def mixed_geometry(hidden_size):
    segments, offset = [], 0
    for layer, encoding in enumerate([Encoding.BF16, Encoding.FP32, Encoding.FP16]):
        num_bytes = hidden_size * encoding.itemsize
        segments.append(Segment(layer=layer, offset=offset, num_bytes=num_bytes, encoding=encoding))
        offset += num_bytes
    return TableGeometry(hidden_size=hidden_size, num_layers=3, vocab_size=10, segments=tuple(segments))


@pytest.mark.parametrize("encoding", FLOATS)
def test_decoded_values_are_the_rounded_ones(encoding):
    geometry = small_geometry(encoding=encoding)
    values = torch.randn(5, 3, 64)
    payload = encode_rows(values, geometry)
    assert payload.shape == (5, geometry.row_bytes)
    for layer in range(3):
        assert torch.equal(values[:, layer].to(torch_dtype(encoding)), decode_layer(payload, geometry, layer))


@pytest.mark.parametrize("hidden_size", [7, 8])
def test_mixed_encodings_decode_each_in_its_own(hidden_size):
    geometry = mixed_geometry(hidden_size)
    values = torch.randn(4, 3, hidden_size)
    payload = encode_rows(values, geometry)
    for layer, dtype in enumerate([torch.bfloat16, torch.float32, torch.float16]):
        assert torch.equal(values[:, layer].to(dtype), decode_layer(payload, geometry, layer))


def test_decoding_aligned_rows_copies_nothing():
    geometry = small_geometry()
    payload = encode_rows(torch.randn(5, 3, 64), geometry)
    assert decode_layer(payload, geometry, 2).data_ptr() == payload.data_ptr() + geometry.segment(2).offset


def test_no_rows_decode_to_no_values():
    assert decode_layer(torch.empty(0, 384, dtype=torch.uint8), small_geometry(), 1).shape == (0, 64)


def test_ties_round_to_even():
    geometry = small_geometry(hidden_size=2, num_layers=1)
    payload = encode_rows(torch.tensor([[[1 + 2**-8, 1 + 3 * 2**-8]]]), geometry)
    assert decode_layer(payload, geometry, 0).tolist() == [[1.0, 1 + 2**-6]]


@pytest.mark.parametrize(
    ("encoding", "value", "advice"),
    [
        (Encoding.FP16, 70000.0, "does not fit fp16; use bf16 or fp32"),
        (Encoding.BF16, 3.4e38, "does not fit bf16; use fp32"),
        (Encoding.FP32, float("nan"), "is not finite"),
        (Encoding.BF16, float("-inf"), "is not finite"),
        (Encoding.INT8, float("nan"), "is not finite"),
        (Encoding.INT4, float("inf"), "is not finite"),
        (Encoding.INT8, -2e38, "does not fit int8; use bf16 or fp32"),
        (Encoding.INT4, 2e38, "does not fit int4; use bf16 or fp32"),
    ],
)
def test_value_that_does_not_fit_is_named_by_row_and_layer(encoding, value, advice):
    values = torch.zeros(4, 3, 64)
    values[2, 1, 5] = value
    with pytest.raises(EncodingError, match=rf"^row 102, layer 1: the value .* {advice}"):
        encode_rows(values, small_geometry(encoding=encoding), first_row=100)


def test_value_that_is_no_number_is_named_in_a_layer_with_a_rank():
    geometry = small_geometry(encoding=LayerEncoding(Encoding.INT8, None, 2))
    values = torch.zeros(4, 3, 64)
    values[2, 1, 5] = float("nan")
    with pytest.raises(EncodingError, match=r"^row 102, layer 1: the value nan is not finite"):
        encode_rows(values, geometry, first_row=100, bases={layer: torch.eye(64)[:2] for layer in range(3)})


def test_rows_with_ranks_cannot_be_encoded_without_their_bases():
    geometry = small_geometry(encoding=LayerEncoding(Encoding.BF16, None, 2))
    with pytest.raises(ValueError, match="bases are"):
        encode_rows(torch.zeros(4, 3, 64), geometry)


def test_value_that_does_not_fit_one_of_mixed_encodings_is_named():
    values = torch.full((2, 3, 8), 70000.0)
    with pytest.raises(EncodingError, match="row 0, layer 2: the value 70000 does not fit fp16"):
        encode_rows(values, mixed_geometry(8))


def test_layer_left_out_is_a_key_error():
    geometry = TableGeometry.uniform(hidden_size=4, num_layers=3, vocab_size=2, encoding=Encoding.BF16, layers=(0, 2))
    with pytest.raises(KeyError, match="layer 1"):
        decode_layer(encode_rows(torch.zeros(1, 2, 4), geometry), geometry, 1)


@pytest.mark.parametrize("values", [torch.zeros(2, 3, 63), torch.zeros(2, 2, 64), torch.zeros(2, 3, 64).half()])
def test_values_of_another_shape_or_dtype_are_refused(values):
    with pytest.raises(ValueError, match="they must be float32"):
        encode_rows(values, small_geometry())
