"""Tiny checkpoints to look into, and slow references in float64."""

import dataclasses

import numpy as np

from models.analysis.cells import CellMemory
from models.checkpoint import save_checkpoint
from tests.models.tiny_models import MEMORY, float64_weights, random_model

CONFIG = dataclasses.replace(MEMORY, vocab_size=60)


def store(directory, config=CONFIG, *, seed=0, **options):
    """Write a random checkpoint; return its weights in float64 as they are stored."""
    model = random_model(config, seed=seed)
    save_checkpoint(model, directory, **options)
    return float64_weights(model)


def memory_of(directory, config=CONFIG, **options):
    """Return a stored model's cells, and its weights in float64."""
    weights = store(directory, config, **options)
    return CellMemory(directory), weights


def norm(x, weight, eps=CONFIG.rms_norm_eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def coefficients(weights, layer, config=CONFIG):
    """`c_t` of the whole vocabulary, [V, K]."""
    prefix = f"model.layers.{layer}.memory."
    x = norm(weights["model.embed_tokens.weight"], weights[prefix + "norm.weight"], config.rms_norm_eps)
    gate = x @ weights[prefix + "gate_proj.weight"].T
    return (x @ weights[prefix + "up_proj.weight"].T) * gate / (1 + np.exp(-gate))


def parts(weights, layer):
    """The layer's slice of the table, [V, d]."""
    return coefficients(weights, layer) @ weights[f"model.layers.{layer}.memory.down_proj.weight"].T


def cosines(vectors):
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return units @ units.T
