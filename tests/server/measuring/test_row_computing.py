import pytest

from models.config import ModelConfig
from models.errors import CheckpointError
from paging import Encoding
from server.measuring.row_computing import compute_stretch


def test_a_stretch_is_timed_in_every_encoding(model_with_table):
    stretch = compute_stretch(model_with_table, [Encoding.BF16, Encoding.INT8], num_rows=1, repetitions=2)
    assert (2, 2) == (len(stretch.compute_seconds), len(stretch.encode_seconds[Encoding.INT8]))
    both = zip(stretch.compute_seconds, stretch.encode_seconds[Encoding.BF16], strict=True)
    assert [sum(each) for each in both] == stretch.seconds(Encoding.BF16)


def test_a_stretch_is_no_longer_than_the_vocabulary(model_with_table):
    stretch = compute_stretch(model_with_table, [Encoding.BF16], num_rows=10**6, repetitions=1)
    assert ModelConfig.load(model_with_table).vocab_size == stretch.num_rows


def test_operations_are_those_of_the_products(model_with_table):
    stretch = compute_stretch(model_with_table, [Encoding.BF16], num_rows=1, repetitions=1)
    assert stretch.num_rows * 2 * (3 * 2 * 32 * 48) == stretch.operations  # 2 layers, 3 matrices of 32 x 48


def test_progress_is_told_before_each_chunk(model_with_table):
    told = []
    compute_stretch(
        model_with_table, [Encoding.BF16], num_rows=1, repetitions=2, on_progress=lambda *said: told.append(said)
    )
    assert [(0, 3), (1, 3), (2, 3)] == told


def test_a_dense_model_has_no_rows(stored_models):
    with pytest.raises(CheckpointError, match="no memory to export"):
        compute_stretch(stored_models["dense"], [Encoding.BF16], num_rows=1, repetitions=1)
