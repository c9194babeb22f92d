"""What the memory is worth: a model's quality with parts of it scaled down or left out.

| part     | kinds           | what is scaled                                                            |
|----------|-----------------|---------------------------------------------------------------------------|
| `memory` | memoryllm, flex | the layer's part of the rows                                              |
| `ffn`    | dense           | the output of the layer's FFN: what stands where memoryllm has its memory |
| `ffn-c`  | flex            | the output of the context-aware FFN beside the memory                     |

Shape legend: N tokens of the batch, L layers, d hidden size.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn

from models.analysis.probes import Probe
from models.attention import PackedContext
from models.config import Kind, ModelConfig
from models.evaluation import EvaluationText, Window, batches, evaluate
from models.rows import Rows, RowSource
from models.transformer import Transformer

ALPHAS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
_QUESTIONS_PER_BATCH = 32


class Part(StrEnum):
    """What is scaled."""

    MEMORY = "memory"
    FFN = "ffn"
    FFN_C = "ffn-c"


def parts_of(config: ModelConfig) -> list[Part]:
    """Return the parts that a model has, the one that the paper speaks of first."""
    if config.model_type is Kind.DENSE:
        return [Part.FFN]
    return [Part.MEMORY, Part.FFN_C] if config.model_type is Kind.FLEX_MEMORYLLM else [Part.MEMORY]


@dataclass(frozen=True)
class ScaledRows:
    """A row source whose layers count as much as `scale_L` says; 0 leaves a layer out."""

    source: RowSource
    scale_L: Sequence[float]

    @property
    def max_rows(self) -> int | None:
        """As many as the source can give at once."""
        return self.source.max_rows

    def fetch(self, row_keys_N: Tensor) -> "ScaledBatch":
        """Return the rows of these keys."""
        return ScaledBatch(self.source.fetch(row_keys_N), self.scale_L)


@dataclass(frozen=True)
class ScaledBatch(Rows):
    """The rows of one batch."""

    rows: Rows
    scale_L: Sequence[float]

    def gather(self, layer: int) -> Tensor:
        """Return one layer's values, scaled, [N, d]."""
        return self.rows.gather(layer) * self.scale_L[layer]


@contextmanager
def scaled(
    model: Transformer, rows: RowSource | None, part: Part, scale_L: Sequence[float]
) -> Iterator[RowSource | None]:
    """Scale one part of every layer while the context lasts; yield the rows to run the model with."""
    if part is Part.MEMORY:
        assert rows is not None, "a memory has rows"
        yield ScaledRows(rows, scale_L)
        return
    with ExitStack() as hooks:
        for layer, scale in zip(model.model.layers, scale_L, strict=True):
            mlp = layer.mlp
            assert isinstance(mlp, nn.Module), "the kind has this part"
            hooks.callback(mlp.register_forward_hook(_scaling(scale)).remove)
        yield rows


@dataclass(frozen=True, kw_only=True)
class LayerImportance:
    """Perplexity of a text with all of a part, and without it in each layer in turn."""

    part: Part
    whole: float
    without_L: list[float]


def layer_importance(
    model: Transformer,
    rows: RowSource | None,
    text: EvaluationText,
    part: Part,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> LayerImportance:
    """Measure what each layer's part is worth. `on_progress` is told (tokens done, tokens in all measurements)."""
    num_layers = model.config.num_hidden_layers
    scales = [[1.0] * num_layers] + [
        [0.0 if layer == dropped else 1.0 for layer in range(num_layers)] for dropped in range(num_layers)
    ]
    found = []
    for index, scale_L in enumerate(scales):
        with scaled(model, rows, part, scale_L) as scaled_rows:
            told = _share_of(on_progress, index, len(scales))
            found.append(evaluate(model, scaled_rows, text, on_progress=told).perplexity)
    return LayerImportance(part=part, whole=found[0], without_L=found[1:])


@dataclass(frozen=True, kw_only=True)
class AlphaPoint:
    """A model's quality with a part scaled by `alpha` in all layers."""

    alpha: float
    perplexity: float
    accuracy: dict[str, float]
    """By probe."""


def alpha_sweep(
    model: Transformer,
    rows: RowSource | None,
    text: EvaluationText,
    probes: Sequence[Probe],
    part: Part,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[AlphaPoint]:
    """Measure perplexity and probes for each of `ALPHAS`. `on_progress` is told (tokens done, tokens in all)."""
    points = []
    for index, alpha in enumerate(ALPHAS):
        with scaled(model, rows, part, [alpha] * model.config.num_hidden_layers) as scaled_rows:
            told = _share_of(on_progress, index, len(ALPHAS))
            perplexity = evaluate(model, scaled_rows, text, on_progress=told).perplexity
            accuracy = {probe.name: measure_probe(model, scaled_rows, probe) for probe in probes}
        points.append(AlphaPoint(alpha=alpha, perplexity=perplexity, accuracy=accuracy))
    return points


@torch.inference_mode()
def measure_probe(model: Transformer, rows: RowSource | None, probe: Probe) -> float:
    """Return the share of questions whose right choice has the highest score of its choices."""
    device = model.head_weight.device
    ids: list[int] = []
    todo = []
    question_at = {}
    for question in probe.questions:
        window = Window(len(ids), len(ids), len(ids) + len(question.context))
        question_at[window] = question
        todo.append(window)
        ids += question.context
    right = 0
    for batch in batches(todo, ids, _QUESTIONS_PER_BATCH, None if rows is None else rows.max_rows):
        lengths = [window.stop - window.start for window in batch]
        inputs_N = torch.tensor([each for window in batch for each in ids[window.start : window.stop]], device=device)
        positions_N = torch.cat([torch.arange(length) for length in lengths]).to(device)
        fetched = None if rows is None else rows.fetch(inputs_N)
        hidden_Nd = model(inputs_N, positions_N, PackedContext(lengths), fetched)
        last_S = torch.tensor(lengths).cumsum(0) - 1
        scores_SV = model.logits(hidden_Nd[last_S.to(device)])
        for window, scores_V in zip(batch, scores_SV, strict=True):
            question = question_at[window]
            right += int(scores_V[list(question.choices)].argmax()) == question.answer
    return right / len(probe.questions)


def _scaling(scale: float) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    return lambda _module, _inputs, output: output * scale


def _share_of(
    on_progress: Callable[[int, int], None] | None, index: int, count: int
) -> Callable[[int, int], None] | None:
    """Return a callback for one of `count` measurements of equal length."""
    if on_progress is None:
        return None
    return lambda done, total: on_progress(index * total + done, count * total)
