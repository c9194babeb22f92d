"""A small model with a table, whose tokens depend on all of their context."""

import pytest
import torch

from models.checkpoint import load_model, save_checkpoint
from models.config import Kind, ModelConfig
from models.export import export_table
from models.transformer import Transformer
from paging import Encoding
from server.engine.model_tables import TABLE_DIRECTORY
from tests.server.engine.real_engine import Reference


@pytest.fixture(scope="session")
def small_model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("small") / "model"
    config = ModelConfig(
        model_type=Kind.MEMORYLLM,
        vocab_size=96,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(1))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith("norm.weight"):
                parameter.mul_(15)  # fresh weights hardly look at their context
    save_checkpoint(model, directory)
    export_table(directory, directory / TABLE_DIRECTORY, encoding=Encoding.FP32)
    return directory


@pytest.fixture(scope="session")
def exact(small_model):
    """The model in float64, without cache or table."""
    return Reference(load_model(small_model).double())
