"""A tiny model with two layers, its rows as values, and a text."""

from types import SimpleNamespace

import numpy as np
import torch

from models.compression.sample import Sample, SampleRows
from models.config import ModelConfig
from models.evaluation import EvaluationText
from models.transformer import Transformer
from paging import LayerEncoding, TableGeometry
from paging.basis import spectra
from tests.models.tiny_models import MEMORY, random_model

CONFIG = ModelConfig(**{**{name: getattr(MEMORY, name) for name in MEMORY.__dataclass_fields__}, "hidden_size": 64})


class KnownValues:
    """Rows in memory."""

    def __init__(self, values_VLD):
        self.values_VLD = values_VLD
        self.geometry = TableGeometry.uniform(
            hidden_size=values_VLD.shape[2],
            num_layers=values_VLD.shape[1],
            vocab_size=len(values_VLD),
            encoding=LayerEncoding.parse("fp32"),
        )
        self.fingerprint, self.ids, self.num_rows = "weights-1", None, len(values_VLD)

    def chunks(self, layers):
        yield self.values_VLD[:, list(layers)]

    def rows(self, numbers_N):
        return self.values_VLD[torch.from_numpy(numbers_N)]


def sample(num_tokens=300, seed=0):
    """A sample of a model whose first layer's memory matters and whose second one's hardly does."""
    model = random_model(CONFIG)
    generator = torch.Generator().manual_seed(seed)
    scales = torch.tensor([3.0, 0.01])[None, :, None] * torch.logspace(0, -1, 64)
    values = KnownValues(torch.randn(CONFIG.vocab_size, 2, 64, generator=generator) * scales)
    text = EvaluationText(
        ids=np.random.default_rng(seed).integers(0, CONFIG.vocab_size, num_tokens).tolist(), num_bytes=4 * num_tokens
    )
    assert isinstance(model, Transformer)
    found = spectra(values.chunks, range(2), hidden_size=64)
    rows = SampleRows(values, text, found, model)
    return SimpleNamespace(
        model=model, values=values, text=text, spectra=found, rows=rows, sample=Sample(model, rows, text)
    )
