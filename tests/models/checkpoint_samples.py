"""Tiny models for the tests of checkpoints."""

import dataclasses
import json

import torch

from models.config import Kind, ModelConfig
from models.transformer import Transformer

DENSE = ModelConfig(
    model_type=Kind.DENSE,
    vocab_size=40,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=24,
    eos_token_id=3,
)
MEMORY = dataclasses.replace(DENSE, model_type=Kind.MEMORYLLM)
FLEX = dataclasses.replace(DENSE, model_type=Kind.FLEX_MEMORYLLM, context_beta=3)
EVERY_KIND = {"dense": DENSE, "memoryllm": MEMORY, "flex": FLEX}


def random_model(config=MEMORY, *, seed=0):
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(seed))
    return model


def tensors_of(model):
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def equal_tensors(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def edit_json(path, **changes):
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | changes))
