"""Checkpoints with random weights: sizes to measure speed with, and seeds to train from."""

from collections.abc import Callable
from pathlib import Path

import torch
import xxhash
from tokenizers import Tokenizer
from torch import Tensor

from models.checkpoint import expected_tensors, write_checkpoint
from models.config import ModelConfig
from models.fingerprint import Fingerprints
from models.transformer import init_tensor


def initialise(
    config: ModelConfig,
    out: Path,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
    tokenizer: Tokenizer | None = None,
    replace: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Fingerprints:
    """Write a checkpoint of random weights, distributed as training starts, with one tensor in memory at a time.

    Each tensor has a generator of its own, seeded by `seed` and the tensor's name, so that models which share
    a tensor's name and shape share its values. Raises `CheckpointError` as `write_checkpoint` does.
    """
    shapes = expected_tensors(config)

    def tensor(name: str) -> Tensor:
        generator = torch.Generator().manual_seed(xxhash.xxh3_64_intdigest(f"{seed} {name}".encode()) >> 1)
        filled = torch.empty(shapes[name])
        init_tensor(name, filled, config.num_hidden_layers, generator)
        return filled

    return write_checkpoint(
        out, config, tensor, dtype=dtype, tokenizer=tokenizer, replace=replace, on_progress=on_progress
    )
