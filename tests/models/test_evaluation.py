"""Perplexity and bits per byte: which predictions count, and what is made of them."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.attention import PackedContext
from models.computed_rows import ComputedRows
from models.errors import ConfigError, CorpusError
from models.evaluation import Evaluation, EvaluationText, batches, evaluate, windows
from models.tokenizer import train_tokenizer
from tests.models import reference
from tests.models.tiny_models import DENSE, EVERY_KIND, MEMORY, float64_weights, random_ids, random_model


def text_of(num_tokens, *, num_bytes=100):
    return EvaluationText(ids=random_ids(num_tokens).tolist(), num_bytes=num_bytes)


def rows_source(model):
    return ComputedRows(model) if model.config.has_memory else None


# Windows


@given(num_predictions=st.integers(1, 300), context_length=st.integers(1, 70))
def test_windows_score_every_prediction_once_and_in_order(num_predictions, context_length):
    scored = [
        position
        for window in windows(num_predictions, context_length)
        for position in range(window.first_scored, window.stop)
    ]
    assert scored == list(range(num_predictions))


@given(num_predictions=st.integers(1, 300), context_length=st.integers(1, 70))
def test_every_prediction_after_the_first_window_has_half_a_context_behind_it(num_predictions, context_length):
    for window in windows(num_predictions, context_length)[1:]:
        assert window.first_scored + 1 - window.start >= context_length / 2


@given(num_predictions=st.integers(1, 300), context_length=st.integers(1, 70))
def test_no_window_is_longer_than_the_context(num_predictions, context_length):
    for window in windows(num_predictions, context_length):
        assert 0 <= window.start <= window.first_scored < window.stop <= num_predictions
        assert window.stop - window.start <= context_length


def test_a_text_that_fits_the_context_is_one_window():
    assert len(windows(64, 64)) == 1
    assert len(windows(65, 64)) == 2


def batches_of(ids, *, max_rows, windows_per_batch=8):
    return batches(windows(len(ids) - 1, 4), ids, windows_per_batch, max_rows)


@given(ids=st.lists(st.integers(0, 9), min_size=2, max_size=80), max_rows=st.integers(4, 12) | st.none())
def test_batches_have_every_window_in_order_and_no_more_rows_than_fit(ids, max_rows):
    found = batches_of(ids, max_rows=max_rows)
    assert [window for batch in found for window in batch] == windows(len(ids) - 1, 4)
    for batch in found:
        rows = {token_id for window in batch for token_id in ids[window.start : window.stop]}
        assert 1 <= len(batch) <= 8
        assert max_rows is None or len(rows) <= max_rows


def test_a_window_whose_rows_do_not_fit_is_refused_with_the_number_needed():
    with pytest.raises(ConfigError, match="needs 4 rows at once and 3 can be held"):
        batches_of([1, 1, 1, 1, 1, 2, 3, 4, 5], max_rows=3)


# Measures


@pytest.mark.parametrize("config", EVERY_KIND.values(), ids=EVERY_KIND)
def test_a_model_without_preferences_has_the_vocabulary_as_its_perplexity(config):
    model = random_model(dataclasses.replace(config, tie_word_embeddings=False))
    with torch.no_grad():
        model.lm_head.weight.zero_()
    measured = evaluate(model, rows_source(model), text_of(150))
    assert measured.perplexity == pytest.approx(config.vocab_size, rel=1e-6)


def test_bits_per_byte_share_the_bits_of_all_tokens_among_the_bytes():
    measured = Evaluation(tokens=30, bytes=120, cross_entropy=2 * math.log(2))
    assert measured.bits_per_byte == pytest.approx(30 * 2 / 120)


def test_perplexity_is_the_exponential_of_the_cross_entropy():
    assert Evaluation(tokens=1, bytes=1, cross_entropy=math.log(7)).perplexity == pytest.approx(7)


def test_all_tokens_but_the_first_and_all_bytes_are_counted():
    measured = evaluate(random_model(DENSE), None, text_of(131, num_bytes=333))
    assert (measured.tokens, measured.bytes) == (130, 333)


@pytest.mark.parametrize("config", EVERY_KIND.values(), ids=EVERY_KIND)
def test_a_text_within_the_context_equals_the_reference(config):
    model = random_model(config, dtype=torch.float64)
    text = text_of(30)
    scores = reference.logits(config, float64_weights(model), text.ids[:-1])
    expected = np.mean(np.log(np.exp(scores).sum(axis=1)) - scores[range(29), text.ids[1:]])
    assert evaluate(model, rows_source(model), text).cross_entropy == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("windows_per_batch", [1, 3, 50])
@pytest.mark.parametrize("context_length", [1, 7, 16, 64])
def test_a_longer_text_equals_one_prediction_after_another(context_length, windows_per_batch):
    model = random_model(dtype=torch.float64)
    ids = random_ids(100)
    losses = []
    for window in windows(len(ids) - 1, context_length):
        for position in range(window.first_scored, window.stop):
            scores = one_prediction(model, ids[window.start : position + 1])
            losses.append(float(scores.logsumexp(0) - scores[ids[position + 1]]))
    text = EvaluationText(ids=ids.tolist(), num_bytes=1)
    measured = evaluate(
        model, ComputedRows(model), text, context_length=context_length, windows_per_batch=windows_per_batch
    )
    assert measured.cross_entropy == pytest.approx(sum(losses) / len(losses), rel=1e-10)


@torch.no_grad()
def one_prediction(model, ids):
    rows = ComputedRows(model).fetch(ids)
    return model.logits(model(ids, torch.arange(len(ids)), PackedContext([len(ids)]), rows)[-1:])[0]


def test_a_longer_context_than_the_models_is_the_models():
    model = random_model(DENSE)
    assert evaluate(model, None, text_of(150), context_length=1000) == evaluate(model, None, text_of(150))


@pytest.mark.parametrize("context_length", [0, -5])
def test_a_context_of_nothing_is_refused(context_length):
    with pytest.raises(ConfigError, match=f"context length is {context_length}"):
        evaluate(random_model(DENSE), None, text_of(10), context_length=context_length)


def test_progress_goes_up_to_all_tokens():
    calls = []
    evaluate(random_model(DENSE), None, text_of(200), windows_per_batch=2, on_progress=lambda *call: calls.append(call))
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    assert calls[-1] == (199, 199)


def test_evaluating_keeps_no_gradients():
    model = random_model()
    evaluate(model, ComputedRows(model), text_of(20))
    assert all(parameter.grad is None for parameter in model.parameters())


# Texts


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["one two three four"] * 5, vocab_size=270)


def test_documents_stand_between_ends_of_text(tokenizer):
    text = EvaluationText.from_text("one two\n<|endoftext|>\nthree\n", tokenizer)
    assert text.ids.count(0) == 3
    assert (text.ids[0], text.ids[-1]) == (0, 0)


def test_bytes_are_those_of_the_documents_in_utf_8(tokenizer):
    assert EvaluationText.from_text("näh…", tokenizer).num_bytes == len("näh…".encode())


@pytest.mark.parametrize("text", ["", "<|endoftext|>", "<|endoftext|>\n<|endoftext|>"])
def test_a_text_that_says_nothing_is_refused(tokenizer, text):
    with pytest.raises(CorpusError, match="no documents"):
        EvaluationText.from_text(text, tokenizer)


def test_a_one_word_text_can_be_evaluated(tokenizer):
    text = EvaluationText.from_text("one", tokenizer)
    model = random_model(dataclasses.replace(MEMORY, vocab_size=270))
    assert evaluate(model, ComputedRows(model), text).tokens == len(text.ids) - 1
