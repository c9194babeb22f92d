import dataclasses

import numpy as np
import pytest
import torch

from models.analysis.ablation import ALPHAS, Part, alpha_sweep, layer_importance, measure_probe, parts_of, scaled
from models.analysis.probes import Probe, Question
from models.computed_rows import ComputedRows
from models.evaluation import EvaluationText, evaluate
from tests.models.tiny_models import DENSE, FLEX, MEMORY, packed_logits, random_ids, random_model

TEXT = EvaluationText(ids=random_ids(150).tolist(), num_bytes=400)
IDS = random_ids(20, seed=5)


def rows_of(model):
    return ComputedRows(model) if model.config.has_memory else None


def perplexity(model):
    return evaluate(model, rows_of(model), TEXT).perplexity


@pytest.mark.parametrize(
    ("config", "expected"),
    [(DENSE, [Part.FFN]), (MEMORY, [Part.MEMORY]), (FLEX, [Part.MEMORY, Part.FFN_C])],
)
def test_each_kind_has_its_parts(config, expected):
    assert expected == parts_of(config)


@pytest.mark.parametrize("config", [DENSE, MEMORY, FLEX], ids=["dense", "memoryllm", "flex"])
def test_without_a_layer_is_as_with_values_of_zero(config):
    for part in parts_of(config):
        model = random_model(config)
        found = layer_importance(model, rows_of(model), TEXT, part)
        assert perplexity(model) == pytest.approx(found.whole)
        for layer in range(config.num_hidden_layers):
            edited = random_model(config)
            block = edited.model.layers[layer]
            with torch.no_grad():
                (block.memory if part is Part.MEMORY else block.mlp).down_proj.weight.zero_()
            assert perplexity(edited) == pytest.approx(found.without_L[layer], rel=1e-5)


@pytest.mark.parametrize("config", [MEMORY, FLEX], ids=["memoryllm", "flex"])
def test_a_scaled_memory_is_the_models_own_alpha(config):
    model = random_model(config)
    scale_L = [0.5, 0.8]
    with scaled(model, ComputedRows(model), Part.MEMORY, scale_L) as rows, torch.no_grad():
        found = packed_logits(model, IDS, rows=rows)
    expected = packed_logits(model, IDS, alpha_NL=torch.tensor(scale_L).expand(len(IDS), 2))
    assert torch.allclose(expected, found, atol=1e-5)


def test_a_dense_model_is_whole_again_afterwards():
    model = random_model(DENSE)
    before = packed_logits(model, IDS)
    with pytest.raises(KeyError), scaled(model, None, Part.FFN, [0.0, 0.0]):
        raise KeyError
    assert torch.equal(before, packed_logits(model, IDS))


def probe_with(model, *, right):
    """Questions whose best choice is known from the model's own scores."""
    questions = []
    for seed in range(60):
        ids = random_ids(3 + seed % 5, seed=seed)
        best = int(packed_logits(model, ids)[-1, [3, 4, 5, 6]].argmax())
        questions.append(
            Question(context=tuple(ids.tolist()), choices=(3, 4, 5, 6), answer=best if seed < right else (best + 1) % 4)
        )
    return Probe(name="made-up", stands_for="nothing", questions=questions)


@pytest.mark.parametrize("right", [0, 17, 60])
def test_a_probe_counts_the_questions_whose_answer_scores_highest(right):
    model = random_model()
    assert right / 60 == measure_probe(model, ComputedRows(model), probe_with(model, right=right))


def test_few_rows_at_once_measure_the_same():
    model = random_model()
    rows = ComputedRows(model)
    rows.max_rows = 8
    assert 17 / 60 == measure_probe(model, rows, probe_with(model, right=17))


def test_a_sweep_measures_text_and_probes_at_each_alpha():
    model = random_model()
    told = []
    points = alpha_sweep(
        model,
        ComputedRows(model),
        TEXT,
        [probe_with(model, right=60)],
        Part.MEMORY,
        on_progress=lambda *each: told.append(each),
    )
    assert list(ALPHAS) == [point.alpha for point in points]
    assert perplexity(model) == pytest.approx(points[0].perplexity)
    assert 1.0 == points[0].accuracy["made-up"]
    assert points[-1].accuracy["made-up"] < 1
    assert told[-1][0] == told[-1][1]
    assert np.all(np.diff([done for done, _ in told]) > 0)


def test_a_sweep_halves_the_memory_at_the_end():
    model, halved = random_model(), random_model()
    with torch.no_grad():
        for memory in halved.memories:
            memory.down_proj.weight.mul_(0.5)
    points = alpha_sweep(model, ComputedRows(model), TEXT, [], Part.MEMORY)
    assert perplexity(halved) == pytest.approx(points[-1].perplexity, rel=1e-5)
    assert dataclasses.asdict(points[-1])["accuracy"] == {}
