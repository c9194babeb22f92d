"""Tiny models for the tests of the architectures, of training and of tables."""

import dataclasses

import numpy as np
import torch

from models.attention import PackedContext
from models.computed_rows import ComputedRows
from models.config import ContextForm, Kind, ModelConfig
from models.corpus import TokenShards
from models.transformer import Transformer

DENSE = ModelConfig(
    model_type=Kind.DENSE,
    vocab_size=50,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=40,
    max_position_embeddings=64,
    eos_token_id=0,
)
MEMORY = dataclasses.replace(DENSE, model_type=Kind.MEMORYLLM)
FLEX = dataclasses.replace(DENSE, model_type=Kind.FLEX_MEMORYLLM, context_beta=3)
EVERY_KIND = {
    "dense": DENSE,
    "memoryllm": MEMORY,
    **{
        f"flex{beta}-{form}": dataclasses.replace(FLEX, context_beta=beta, context_form=form)
        for beta in (1, 2, 3)
        for form in ContextForm
    },
}


def random_model(config=MEMORY, *, seed=0, dtype=torch.float32):
    """A model whose parts all matter: larger weights than at the start of training, norms that are not 1."""
    model = Transformer(config).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_norm = name.endswith("norm.weight")
            values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(1 + 0.3 * values if is_norm else 0.25 * values)
    return model


def float64_weights(model):
    return {name: parameter.detach().double().numpy() for name, parameter in model.named_parameters()}


def rows_of(model, ids):
    return ComputedRows(model).fetch(ids) if model.config.has_memory else None


def random_ids(num_tokens, config=MEMORY, *, seed=0):
    return torch.randint(config.vocab_size, (num_tokens,), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def packed_logits(model, *sequences, rows=None, alpha_NL=None):
    """Scores of whole sequences in one forward pass, [N, V]."""
    ids_N = torch.cat(sequences)
    positions_N = torch.cat([torch.arange(len(ids)) for ids in sequences])
    context = PackedContext([len(ids) for ids in sequences])
    rows = rows_of(model, ids_N) if rows is None else rows.fetch(ids_N)
    return model.logits(model(ids_N, positions_N, context, rows, alpha_NL))


def corpus_of(ids, vocab_size):
    return TokenShards([np.asarray(ids, dtype=np.uint16)], ["tokens.npy"], vocab_size=vocab_size)
