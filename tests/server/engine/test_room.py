"""What stays free of a GPU for steps."""

import torch

from models.presets import preset
from server.engine.config import EngineConfig
from server.engine.room import kept_back


def kept(device="cuda", **options):
    config = EngineConfig(model="a", **options)
    return kept_back(config, preset("1b-dense"), dtype=torch.bfloat16, device=torch.device(device))


def test_nothing_is_kept_back_on_a_cpu():
    assert 0 == kept("cpu")


def test_less_than_a_gigabyte_is_kept_back_of_a_gpu_unless_steps_are_large():
    assert 0.5e9 < kept() < 1e9


def test_more_is_kept_back_for_larger_steps():
    assert 128_256 * 4 * 4 * 96 == kept(max_num_seqs=128) - kept()
    assert kept(max_num_batched_tokens=8192) - kept() > 7680 * 2048 * 2
