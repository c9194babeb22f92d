"""Costs that are measured without a table are those of the table."""

import pytest
import torch

from models.evaluation import evaluate, scored_batches
from models.table_rows import ResidentRows
from paging import LayerEncoding, Table
from paging.compression import encode_table
from tests.models.compression.compression_samples import sample


@pytest.fixture(scope="module")
def made():
    return sample()


@pytest.mark.parametrize("texts", [["int8", "int4/32"], ["int4/64", None], ["bf16@20", "int8@64"], ["fp32", "fp32"]])
def test_a_choice_costs_what_a_table_stored_so_does(made, tmp_path, texts):
    choices = {layer: None if text is None else LayerEncoding.parse(text) for layer, text in enumerate(texts)}
    kinds = {layer: choice for layer, choice in choices.items() if choice is not None}
    encode_table(made.values, tmp_path / "table", kinds, known=made.spectra)
    with Table.open(tmp_path / "table") as table:
        expected = evaluate(made.model, ResidentRows(table, dtype=torch.float32), made.text).cross_entropy
    assert expected == pytest.approx(made.sample.measure(choices).evaluation.cross_entropy, rel=1e-5)


def test_what_was_measured_is_not_measured_again(made, monkeypatch):
    first = made.sample.measure({0: None})
    monkeypatch.setattr("models.compression.sample.scored_batches", None)
    assert first is made.sample.measure({0: None, 1: LayerEncoding.parse("fp32")})


def test_rows_as_they_are_move_no_prediction(made):
    assert made.sample.measure({}).divergence == pytest.approx(0, abs=1e-7)


def test_predictions_move_as_far_as_their_distributions_differ(made):
    choices = {0: LayerEncoding.parse("int4/64")}
    scores = []
    for each in ({}, choices):
        made.rows.choose(each)
        batches = scored_batches(made.model, made.rows, made.text)
        hidden = torch.cat([batch.hidden_Md for batch in batches])
        scores.append((hidden.double() @ made.model.head_weight.detach().double().T).log_softmax(-1))
    expected = float((scores[0].exp() * (scores[0] - scores[1])).sum(-1).mean())
    assert expected == pytest.approx(made.sample.measure(choices).divergence, rel=1e-3)


def test_a_layer_that_the_source_lacks_is_zeros(made):
    batch = made.rows.fetch(torch.tensor(made.text.ids[:3]))
    assert torch.equal(torch.zeros(3, 64), batch.gather(7))
