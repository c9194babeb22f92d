"""Training of the memory alone: the rest stays to the bit what it was."""

import dataclasses
import json

import pytest
import torch

from models.checkpoint import load_model, read_fingerprints, save_checkpoint
from models.errors import ConfigError
from models.fingerprint import is_memory
from models.recipe import Cadence, OptimizerName
from models.run import RUN_FILE, TrainingRun, read_run
from tests.models.tiny_models import DENSE, EVERY_KIND, MEMORY
from tests.models.training_samples import RECIPE, equal, trainer_of, weights_of

WITH_MEMORY = {name: config for name, config in EVERY_KIND.items() if config.has_memory}


@pytest.mark.parametrize("config", WITH_MEMORY.values(), ids=WITH_MEMORY.keys())
@pytest.mark.parametrize("optimizer", list(OptimizerName))
def test_only_the_memory_changes(config, optimizer):
    trainer = trainer_of(config, memory_only=True, optimizer=optimizer)
    before = weights_of(trainer)
    for _ in range(3):
        trainer.step()
    changed = {name for name, value in weights_of(trainer).items() if not torch.equal(before[name], value)}
    assert {name for name in before if is_memory(name)} == changed


def test_the_loss_goes_down():
    trainer = trainer_of(memory_only=True, max_tokens=40 * 4 * 8)
    losses = [trainer.step().loss for _ in range(40)]
    assert sum(losses[-5:]) < sum(losses[:5])


def test_a_run_goes_on_as_if_it_had_not_stopped():
    straight = trainer_of(memory_only=True)
    for _ in range(6):
        straight.step()
    first = trainer_of(memory_only=True)
    for _ in range(3):
        first.step()
    second = trainer_of(memory_only=True)
    second.model.load_state_dict(weights_of(first))
    second.restore(3, {name: value.clone() for name, value in first.optimizer_state().items()})
    for _ in range(3):
        second.step()
    assert equal(weights_of(straight), weights_of(second))


def test_the_state_of_a_run_on_all_weights_is_refused():
    whole = trainer_of()
    whole.step()
    with pytest.raises(ConfigError, match="another model"):
        trainer_of(memory_only=True).restore(1, whole.optimizer_state())


def test_a_dense_model_has_no_memory_to_train():
    with pytest.raises(ConfigError, match="dense"):
        trainer_of(DENSE, memory_only=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_finished_copy_has_the_models_backbone(tmp_path, dtype):
    save_checkpoint(trainer_of().model, tmp_path / "model", dtype=dtype)
    trainer = trainer_of(memory_only=True)
    trainer.model.load_state_dict(load_model(tmp_path / "model", dtype=torch.float32).state_dict())
    run = TrainingRun(tmp_path / "run", trainer, tokenizer=None)
    run.start()
    run.train(Cadence())
    run.finish(torch.zeros(MEMORY.vocab_size, dtype=torch.int64), dtype=dtype)
    mine, theirs = read_fingerprints(tmp_path / "model"), read_fingerprints(run.model_directory)
    assert mine.backbone == theirs.backbone
    assert mine.table != theirs.table


def test_a_run_of_an_earlier_release_goes_on(tmp_path):
    run = TrainingRun(tmp_path / "run", trainer_of(), tokenizer=None)
    run.start()
    path = tmp_path / "run" / RUN_FILE
    stored = json.loads(path.read_text())
    del stored["recipe"]["memory_only"]
    path.write_text(json.dumps(stored))
    assert dataclasses.replace(RECIPE, memory_only=False) == read_run(tmp_path / "run")[1]
    TrainingRun(tmp_path / "run", trainer_of(), tokenizer=None).resume()
    with pytest.raises(ConfigError, match="memory_only False -> True"):
        TrainingRun(tmp_path / "run", trainer_of(memory_only=True), tokenizer=None).resume()
