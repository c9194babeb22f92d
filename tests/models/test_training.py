"""The recipe's arithmetic: schedule, loss, accumulation, what a stopped trainer needs to go on."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ConfigError
from models.recipe import OptimizerName, Precision, TrainingConfig
from tests.models.tiny_models import DENSE, EVERY_KIND, MEMORY
from tests.models.training_samples import equal, trainer_of, weights_of

OPTIMIZERS = list(OptimizerName)


def recipe(**changes):
    sizes = {"max_tokens": 1000, "sequence_length": 10, "batch_size": 1, "micro_batch_size": 1}
    return TrainingConfig(**(sizes | changes))


# The schedule


def test_the_rate_warms_up_in_equal_parts():
    schedule = recipe(warmup_steps=4, learning_rate=0.8, min_learning_rate=0.1)
    assert [schedule.learning_rate_at(step) for step in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])


def test_the_cosine_starts_at_the_peak_and_ends_at_the_minimum():
    schedule = recipe(warmup_steps=10, learning_rate=0.8, min_learning_rate=0.1)
    assert schedule.num_steps == 100
    assert schedule.learning_rate_at(10) == pytest.approx(0.8)
    assert schedule.learning_rate_at(99) == pytest.approx(0.1)


def test_half_way_through_the_cosine_the_rate_is_half_way():
    schedule = recipe(max_tokens=1010, warmup_steps=0, learning_rate=0.8, min_learning_rate=0.2)
    assert schedule.learning_rate_at(50) == pytest.approx(0.5)


@given(
    warmup_steps=st.integers(0, 200),
    max_tokens=st.integers(1, 1500),
    learning_rate=st.floats(1e-5, 1.0),
    share=st.floats(0.01, 1),
)
def test_the_rate_rises_to_the_peak_and_then_never_rises(warmup_steps, max_tokens, learning_rate, share):
    schedule = recipe(
        max_tokens=max_tokens,
        warmup_steps=warmup_steps,
        learning_rate=learning_rate,
        min_learning_rate=learning_rate * share,
    )
    rates = [schedule.learning_rate_at(step) for step in range(schedule.num_steps)]
    warmup = min(warmup_steps, schedule.num_steps)
    assert all(0 < rate <= learning_rate * (1 + 1e-12) for rate in rates)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert max(rates) == pytest.approx(learning_rate)


def test_a_token_budget_is_rounded_up_to_whole_steps():
    assert recipe(max_tokens=1001, batch_size=2).num_steps == 51


def test_the_defaults_are_the_papers():
    paper = TrainingConfig(max_tokens=1)
    assert (paper.sequence_length, paper.learning_rate, paper.min_learning_rate) == (2048, 1e-4, 1e-5)
    assert (paper.warmup_steps, paper.beta1, paper.beta2) == (5000, 0.9, 0.95)
    assert (paper.weight_decay, paper.z_loss) == (0.1, 1e-6)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"sequence_length": 0}, "sequence_length is 0"),
        ({"micro_batch_size": 0}, "micro_batch_size is 0"),
        ({"batch_size": 6, "micro_batch_size": 4}, "batch_size 6 is not a multiple of micro_batch_size 4"),
        ({"warmup_steps": -1}, "warmup_steps and seed"),
        ({"seed": -1}, "warmup_steps and seed"),
        ({"learning_rate": 1e-6}, "min_learning_rate <= learning_rate"),
        ({"min_learning_rate": 0.0}, "min_learning_rate <= learning_rate"),
        ({"learning_rate": math.inf}, "learning rates must be finite"),
        ({"learning_rate": math.nan}, "learning rates must be finite"),
        ({"beta1": 1.0}, "beta1 and beta2"),
        ({"beta2": math.nan}, "beta1 and beta2"),
        ({"weight_decay": -0.1}, "weight_decay and z_loss"),
        ({"z_loss": math.nan}, "weight_decay and z_loss"),
        ({"grad_clip": 0.0}, "grad_clip above 0"),
        ({"grad_clip": math.nan}, "grad_clip above 0"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_recipe_that_cannot_work_is_refused(changes, complaint):
    with pytest.raises(ConfigError, match=complaint):
        recipe(**changes)


# Steps


@pytest.mark.parametrize("config", EVERY_KIND.values(), ids=EVERY_KIND)
def test_every_parameter_of_every_kind_learns(config):
    trainer = trainer_of(config)
    before = weights_of(trainer)
    trainer.step()
    assert [name for name, value in weights_of(trainer).items() if torch.equal(value, before[name])] == []


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_tiny_model_learns_a_tiny_corpus_by_heart(optimizer):
    ids = np.random.default_rng(1).permutation(MEMORY.vocab_size)
    trainer = trainer_of(ids=ids, optimizer=optimizer, max_tokens=80 * 32, warmup_steps=10, learning_rate=3e-2)
    losses = [trainer.step().loss for _ in range(trainer.config.num_steps)]
    assert losses[0] == pytest.approx(math.log(MEMORY.vocab_size), rel=0.05)
    assert losses[-1] < 0.1
    assert trainer.is_done


@pytest.mark.parametrize("config", [DENSE, MEMORY], ids=["dense", "memoryllm"])
def test_accumulated_gradients_give_the_update_of_one_large_batch(config):
    whole, parts = (trainer_of(config, micro_batch_size=size, dtype=torch.float64) for size in (4, 1))
    for _ in range(3):
        whole.step()
        parts.step()
    expected = weights_of(whole)
    for name, value in weights_of(parts).items():
        # The means over a step are added up in float32 there, hence no closer.
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-8, msg=name)


def test_a_step_tells_loss_gradient_and_rate():
    trainer = trainer_of()
    result = trainer.step()
    assert (result.step, result.learning_rate) == (1, trainer.config.learning_rate_at(0))
    assert result.loss == pytest.approx(math.log(MEMORY.vocab_size), rel=0.05)
    assert result.grad_norm > 0


def test_the_gradient_is_clipped_and_its_norm_before_that_is_told():
    loose, tight = trainer_of(grad_clip=1e3), trainer_of(grad_clip=1e-3)
    assert loose.step().grad_norm == tight.step().grad_norm > 1e-3
    gradients = [parameter.grad.flatten() for parameter in tight.model.parameters()]
    assert float(torch.cat(gradients).norm()) == pytest.approx(1e-3, rel=1e-2)


def test_bf16_products_stay_near_fp32_ones():
    narrow, wide = trainer_of(precision=Precision.BF16), trainer_of(precision=Precision.FP32)
    for _ in range(4):
        assert narrow.step().loss == pytest.approx(wide.step().loss, rel=2e-2)
    assert {value.dtype for value in weights_of(narrow).values()} == {torch.float32}


def test_norms_are_not_decayed():
    decayed, free = trainer_of(weight_decay=0.5), trainer_of(weight_decay=0.0)
    decayed.step()
    free.step()
    same = {name for name, value in weights_of(decayed).items() if torch.equal(value, weights_of(free)[name])}
    assert same == {name for name in weights_of(free) if name.endswith("norm.weight")}


# Failing


def spoil(trainer):
    """Let the loss be NaN until the returned function is called."""
    embedding = trainer.model.model.embed_tokens
    handle = embedding.register_forward_hook(lambda _module, _inputs, output: output * float("nan"))
    return handle.remove


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_loss_that_is_not_finite_is_an_error_and_changes_nothing(optimizer):
    trainer = trainer_of(optimizer=optimizer)
    trainer.step()
    before, state = weights_of(trainer), {key: value.clone() for key, value in trainer.optimizer_state().items()}
    spoil(trainer)
    with pytest.raises(ConfigError, match="step 2: the loss is nan"):
        trainer.step()
    assert trainer.step_count == 1
    assert equal(weights_of(trainer), before)
    assert equal(trainer.optimizer_state(), state)


def test_nothing_of_a_failed_step_is_left_in_the_next():
    trainer, untouched = trainer_of(), trainer_of()
    mend = spoil(trainer)
    with pytest.raises(ConfigError):
        trainer.step()
    mend()
    assert trainer.step() == untouched.step()
    assert equal(weights_of(trainer), weights_of(untouched))


# Going on


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_restored_trainer_goes_on_to_the_bit(optimizer):
    whole = trainer_of(optimizer=optimizer)
    for _ in range(3):
        whole.step()
    restored = trainer_of(optimizer=optimizer)
    restored.model.load_state_dict(weights_of(whole))
    restored.restore(3, {key: value.clone() for key, value in whole.optimizer_state().items()})
    assert [whole.step() for _ in range(3)] == [restored.step() for _ in range(3)]
    assert equal(weights_of(whole), weights_of(restored))


def test_the_optimizers_state_names_its_parameters():
    trainer = trainer_of(optimizer=OptimizerName.MUON)
    assert trainer.optimizer_state() == {}
    trainer.step()
    names = {key.rpartition("/")[0] for key in trainer.optimizer_state()}
    assert names == weights_of(trainer).keys()


def test_muon_takes_the_layers_matrices_alone():
    trainer = trainer_of(optimizer=OptimizerName.MUON)
    trainer.step()
    matrices = {name for name, value in weights_of(trainer).items() if "layers." in name and value.ndim == 2}
    entries = [key.rpartition("/") for key in trainer.optimizer_state()]
    assert {name for name, _, entry in entries if entry == "momentum_buffer"} == matrices


def test_state_of_another_model_is_refused():
    trainer = trainer_of()
    trainer.step()
    with pytest.raises(ConfigError, match="of another model"):
        trainer_of(DENSE).restore(1, trainer.optimizer_state())
