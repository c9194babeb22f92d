"""Tiny training runs."""

import dataclasses

import numpy as np
import torch

from models.batches import Batches
from models.recipe import TrainingConfig
from models.training import Trainer
from models.transformer import Transformer
from tests.models.tiny_models import MEMORY, corpus_of

RECIPE = TrainingConfig(
    max_tokens=6 * 4 * 8,
    sequence_length=8,
    batch_size=4,
    micro_batch_size=2,
    learning_rate=1e-2,
    min_learning_rate=1e-3,
    warmup_steps=2,
)
RANDOM_IDS = np.random.default_rng(0).integers(0, MEMORY.vocab_size, 500)


def trainer_of(config=MEMORY, *, ids=RANDOM_IDS, dtype=torch.float32, **changes):
    """A trainer of `RECIPE` with `changes`, on freshly initialised weights."""
    recipe = dataclasses.replace(RECIPE, **changes)
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(recipe.seed))
    batches = Batches(
        corpus_of(ids, config.vocab_size),
        sequence_length=recipe.sequence_length,
        batch_size=recipe.micro_batch_size,
        seed=recipe.seed,
    )
    return Trainer(model.to(dtype), batches, recipe)


def weights_of(trainer):
    return {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
