import math

import pytest
import torch

from models.checkpoint import expected_tensors
from server.measuring.floor import product_rate, read_bandwidth, step_floor


def num_values(config, *, memory):
    shapes = expected_tensors(config)
    kept = (name for name in shapes if "embed_tokens" not in name and (memory or ".memory." not in name))
    return sum(math.prod(shapes[name]) for name in kept)


@pytest.mark.parametrize(("memory", "computes"), [("paged", False), ("resident", False), ("computed", True)])
def test_weights_are_those_that_a_step_multiplies_with(start, memory, computes):
    engine = start(memory=memory)
    floor = step_floor(engine, num_streams=3, context=10)
    assert 4 * num_values(engine.runner.model.config, memory=computes) == floor.weights


def test_each_stream_reads_its_row_and_its_context(start):
    engine = start(memory="paged")
    config = engine.runner.model.config
    floor = step_floor(engine, num_streams=3, context=10)
    assert 3 * 2 * config.num_hidden_layers * config.hidden_size == floor.rows  # bf16
    assert 3 * 10 * 2 * 2 * 2 * 8 * 4 == floor.keys_and_values


def test_a_computed_memory_reads_no_rows(start):
    assert 0 == step_floor(start(memory="computed"), num_streams=3, context=10).rows


def test_a_dense_model_has_a_floor_too(start, stored_models):
    floor = step_floor(start(stored_models["dense"]), num_streams=1, context=0)
    assert 0 == floor.rows + floor.keys_and_values
    assert floor.weights + floor.head == floor.num_bytes == 4 * floor.operations / 2


def test_the_floor_is_bytes_over_bandwidth(start):
    floor = step_floor(start(), num_streams=1, context=1)
    assert floor.num_bytes / 100 == floor.seconds(100.0)
    assert {"weights", "head", "keys and values", "rows"} == floor.parts.keys()


def test_the_machine_is_measured():
    assert read_bandwidth(num_values=2**16) > 0
    assert product_rate(dtype=torch.float32) > 0
