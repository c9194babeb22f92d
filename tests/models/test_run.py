"""Runs on disk: stopping and resuming change nothing, and no kill or full disk loses the last checkpoint."""

import dataclasses
import errno
import json
import os
import shutil
import sys

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

import models.run
from models.checkpoint import load_model
from models.errors import CheckpointError, ConfigError
from models.evaluation import Evaluation
from models.recipe import Cadence, OptimizerName
from models.run import TrainingRun
from models.tokenizer import load_tokenizer, train_tokenizer
from tests.models.tiny_models import DENSE, MEMORY
from tests.models.training_samples import equal, trainer_of, weights_of

CADENCE = Cadence(checkpoint_steps=1, validation_steps=2)


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "run"


def run_at(directory, config=MEMORY, *, tokenizer=None, **changes):
    return TrainingRun(directory, trainer_of(config, **changes), tokenizer=tokenizer)


def started(directory, **changes):
    run = run_at(directory, **changes)
    run.start()
    return run


def resumed(directory, **changes):
    run = run_at(directory, **changes)
    run.resume()
    return run


def stop_after(run, num_steps):
    """Return a `should_stop` that lets `num_steps` more steps be taken."""
    last = run.trainer.step_count + num_steps
    return lambda: run.trainer.step_count >= last


def validate(run):
    """Return a validation whose result follows from the weights."""
    return lambda: Evaluation(
        tokens=10, bytes=30, cross_entropy=float(run.trainer.model.model.embed_tokens.weight.detach().double().std())
    )


def metrics_of(directory):
    return (directory / "metrics.jsonl").read_bytes()


def checkpoint_names(directory):
    return sorted(path.name for path in (directory / "checkpoints").glob("step-*"))


def unfinished(directory):
    """Files that take up room without being of a checkpoint."""
    return list((directory / "checkpoints").glob(".*/*"))


# From beginning to end


def test_a_run_ends_when_its_tokens_are_spent(directory):
    run = started(directory)
    assert run.train(CADENCE)
    assert run.trainer.step_count == run.trainer.config.num_steps == 6


def test_a_run_that_is_stopped_says_that_it_has_not_ended(directory):
    run = started(directory)
    assert not run.train(CADENCE, should_stop=stop_after(run, 2))
    assert run.trainer.step_count == 2


def test_there_is_a_line_for_each_step_and_each_validation(directory):
    run = started(directory)
    run.train(Cadence(validation_steps=4), validate=validate(run))
    lines = [json.loads(line) for line in metrics_of(directory).splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 4, 5, 6, 6]
    assert ["loss" in line for line in lines] == [True, True, True, True, False, True, True, False]
    assert lines[4]["validation_perplexity"] > 1


def test_steps_and_validations_are_told(directory):
    run = started(directory)
    steps, evaluations = [], []
    run.train(CADENCE, validate=validate(run), on_step=steps.append, on_validation=evaluations.append)
    assert [result.step for result in steps] == [1, 2, 3, 4, 5, 6]
    assert len(evaluations) == 3


def test_the_newest_two_checkpoints_are_kept(directory):
    started(directory).train(CADENCE)
    assert checkpoint_names(directory) == ["step-00000005", "step-00000006"]


def test_there_is_a_checkpoint_at_the_end_in_any_case(directory):
    started(directory).train(Cadence(checkpoint_steps=4))
    assert checkpoint_names(directory) == ["step-00000004", "step-00000006"]


def test_a_checkpoint_is_a_whole_model(directory):
    run = started(directory)
    run.train(CADENCE)
    loaded = load_model(directory / "checkpoints" / "step-00000006")
    assert equal({name: value.detach() for name, value in loaded.named_parameters()}, weights_of(run.trainer))


def test_the_finished_model_is_in_16_bits_with_tokenizer_and_counts(directory):
    tokenizer = train_tokenizer(["a b c"], vocab_size=260)
    config = dataclasses.replace(MEMORY, vocab_size=260)
    run = started(directory, config=config, tokenizer=tokenizer)
    run.train(CADENCE)
    counts_V = torch.arange(260)
    run.finish(counts_V)
    loaded = load_model(run.model_directory)
    expected = {name: value.bfloat16() for name, value in weights_of(run.trainer).items()}
    assert equal({name: value.detach() for name, value in loaded.named_parameters()}, expected)
    assert load_tokenizer(run.model_directory / "tokenizer.json").to_str() == tokenizer.to_str()
    assert load_file(run.model_directory / "token_counts.safetensors")["token_counts"].tolist() == counts_V.tolist()


def test_a_finished_model_can_be_written_again(directory):
    run = started(directory)
    run.train(CADENCE)
    for _ in range(2):
        run.finish(torch.zeros(MEMORY.vocab_size, dtype=torch.int64))
    assert load_model(run.model_directory).config == MEMORY


def test_others_may_read_all_of_the_finished_model(directory):
    run = started(directory)
    run.finish(torch.zeros(MEMORY.vocab_size, dtype=torch.int64))
    modes = {path.stat().st_mode & 0o777 for path in run.model_directory.iterdir()}
    assert len(modes) == 1


# Stopping and resuming


@pytest.mark.parametrize("optimizer", list(OptimizerName))
@pytest.mark.parametrize("cadence", [CADENCE, Cadence(checkpoint_steps=4, validation_steps=4)], ids=["often", "seldom"])
def test_a_resumed_run_writes_the_same_metrics_and_weights_to_the_byte(tmp_path, optimizer, cadence):
    whole = started(tmp_path / "whole", optimizer=optimizer)
    whole.train(cadence, validate=validate(whole))
    directory = tmp_path / "parts"
    started(directory, optimizer=optimizer)
    done = False
    while not done:
        part = resumed(directory, optimizer=optimizer)
        done = part.train(cadence, validate=validate(part), should_stop=stop_after(part, 2))
    assert metrics_of(directory) == metrics_of(tmp_path / "whole")
    assert equal(weights_of(part.trainer), weights_of(whole.trainer))
    assert equal(part.trainer.optimizer_state(), whole.trainer.optimizer_state())


@pytest.mark.parametrize("cut_line", ["", '{"step": 6, "los'], ids=["whole lines", "a line cut short"])
def test_steps_after_the_last_checkpoint_are_done_again(tmp_path, cut_line):
    whole = started(tmp_path / "whole")
    whole.train(CADENCE, validate=validate(whole))
    directory = tmp_path / "killed"
    killed = started(directory)
    killed.train(Cadence(checkpoint_steps=3), validate=validate(killed), should_stop=stop_after(killed, 3))
    for _ in range(2):  # as far as it came without a checkpoint
        killed._add_metrics(killed.trainer.step()._asdict())
    with (directory / "metrics.jsonl").open("a") as file:
        file.write(cut_line)
    # Step 2's validation was not due for the run that was killed.
    again = resumed(directory)
    assert again.trainer.step_count == 3
    again.train(CADENCE, validate=validate(again))
    steps = [json.loads(line) for line in metrics_of(tmp_path / "whole").splitlines()]
    expected = [line for line in steps if "loss" in line or line["step"] > 3]
    assert [json.loads(line) for line in metrics_of(directory).splitlines()] == expected


def test_a_run_without_a_checkpoint_resumes_from_the_start(directory):
    started(directory)
    run = resumed(directory)
    assert run.trainer.step_count == 0
    assert run.train(CADENCE)


def test_resuming_a_run_that_has_ended_takes_no_step(directory):
    started(directory).train(CADENCE)
    before = metrics_of(directory)
    assert resumed(directory).train(CADENCE)
    assert metrics_of(directory) == before


def test_training_on_after_resuming_leaves_the_checkpoint_as_it_was(directory):
    run = started(directory)
    run.train(CADENCE, should_stop=stop_after(run, 2))
    files = sorted((directory / "checkpoints" / "step-00000002").iterdir())
    before = [path.read_bytes() for path in files]
    resumed(directory).trainer.step()
    assert [path.read_bytes() for path in files] == before


# What is refused


def refusal(error, action):
    with pytest.raises(error) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_second_run_in_one_directory_is_refused(directory):
    started(directory)
    assert "holds a run already" in refusal(CheckpointError, run_at(directory).start)


def test_two_cannot_train_in_one_directory_at_once(directory):
    first = started(directory)
    second = resumed(directory)

    def train_beside(_):
        with pytest.raises(CheckpointError, match="another process trains"):
            second.train(CADENCE)

    first.train(CADENCE, on_step=train_beside, should_stop=stop_after(first, 1))
    assert second.trainer.step_count == 0


def test_another_recipe_is_refused_with_what_differs(directory):
    started(directory)
    message = refusal(ConfigError, run_at(directory, learning_rate=0.5, seed=3).resume)
    assert "another recipe (learning_rate 0.01 -> 0.5, seed 0 -> 3)" in message


def test_another_model_is_refused_with_what_differs(directory):
    started(directory)
    config = dataclasses.replace(MEMORY, intermediate_size=48)
    assert "another model (intermediate_size 40 -> 48)" in refusal(ConfigError, run_at(directory, config).resume)


def test_another_kind_is_refused(directory):
    started(directory)
    assert "another model" in refusal(ConfigError, run_at(directory, DENSE).resume)


@pytest.mark.parametrize("content", [None, "", "[]", '{"model": []}', "{}"], ids=str)
def test_a_directory_without_a_sound_description_is_refused(directory, content):
    directory.mkdir()
    if content is not None:
        (directory / "run.json").write_text(content)
    assert str(directory) in refusal(CheckpointError, run_at(directory).resume)


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_damaged_optimizer_state_is_a_clear_error(directory, damage):
    run = started(directory)
    run.train(CADENCE, should_stop=stop_after(run, 1))
    path = directory / "checkpoints" / "step-00000001" / "trainer.safetensors"
    if damage == "missing":
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size - 1)
    assert str(path) in refusal(CheckpointError, run_at(directory).resume)


def test_a_full_disk_under_the_optimizers_state_is_a_clear_error(directory, monkeypatch):
    run = started(directory)
    run.train(CADENCE, should_stop=stop_after(run, 1))

    def full(*_args, **_options):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(models.run, "save_file", full)
    assert "No space left" in refusal(CheckpointError, lambda: run.train(CADENCE))
    assert checkpoint_names(directory) == ["step-00000001"]


def test_metrics_that_cannot_be_written_are_a_clear_error(directory):
    run = started(directory)
    (directory / "metrics.jsonl").mkdir()
    assert str(directory) in refusal(CheckpointError, lambda: run.train(CADENCE))


# Kills and failures at every operation on files

_FILE_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.listdir", "os.scandir", "os.truncate"}
_FILE_EVENTS |= {"ctypes.dlsym"}  # the call that swaps two directories is seen by its look-up alone
_FILE_CALLS = {"write", "fsync", "serialize_file"}
# How an interrupted process ends; 0 is the end of an action that has fewer operations.
_KILLED, _FAILED_CLEANLY, _WENT_ON = 9, 3, 4


def interrupted(action, number, *, fail):
    """Do `action` in a forked process that at its file operation `number` is killed, or told that the disk is full."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        count, last = 0, ""

        def operation(name):
            nonlocal count, last
            # Many writes to one file are as good as one.
            count, last = count + (name != "write" or last != "write"), name
            if count == number:
                if fail:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os._exit(_KILLED)

        sys.addaudithook(lambda event, _arguments: operation(event) if event in _FILE_EVENTS else None)

        def watch_call(_frame, event, call):
            if event == "c_call" and call.__name__ in _FILE_CALLS:
                operation(call.__name__)

        sys.setprofile(watch_call)
        action()
        sys.setprofile(None)
        os._exit(_WENT_ON if count >= number else 0)
    except CheckpointError:
        os._exit(_FAILED_CLEANLY)
    finally:
        os._exit(1)


def interruptions(directory, tmp_path, action, *, fail):
    """Yield copies of `directory` in which `action(copy)` was interrupted at its 1st, 2nd, ... file operation."""
    for number in range(1, 200):
        copy = tmp_path / f"interrupted-{number}"
        shutil.copytree(directory, copy)
        status = interrupted(lambda copy=copy: action(copy), number, fail=fail)
        if status == 0:
            assert number > 5
            return
        # Some operations may fail: those that look for and remove what is no longer needed.
        assert status in ((_WENT_ON, _FAILED_CLEANLY) if fail else (_KILLED,))
        yield copy
        shutil.rmtree(copy)
    pytest.fail("the action never came to its end")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("fail", [False, True], ids=["killed", "full disk"])
def test_wherever_saving_is_interrupted_the_run_can_be_resumed(directory, tmp_path, fail):
    run = started(directory)
    expected = {}
    for _ in range(2):
        run.train(CADENCE, should_stop=stop_after(run, 1))
        expected[run.trainer.step_count] = weights_of(run.trainer)
    run.trainer.step()
    expected[3] = weights_of(run.trainer)

    def save(copy):
        run.directory = copy
        run._save()

    found = []
    for copy in interruptions(directory, tmp_path, save, fail=fail):
        again = resumed(copy)
        assert equal(weights_of(again.trainer), expected[again.trainer.step_count])
        found.append(again.trainer.step_count)
        assert unfinished(copy) == []
        if not fail:  # which leaves nothing that a kill does not
            again.train(CADENCE, should_stop=stop_after(again, 1))
            assert len(checkpoint_names(copy)) == 2
    # The instant at which the new checkpoint counts comes once and is not taken back.
    assert set(found) == {2, 3}
    assert fail or found == sorted(found)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_wherever_resuming_is_killed_the_metrics_stay(directory, tmp_path):
    run = started(directory)
    run.train(CADENCE, should_stop=stop_after(run, 2))
    before = metrics_of(directory)
    for copy in interruptions(directory, tmp_path, resumed, fail=False):
        assert metrics_of(copy) == before


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_wherever_starting_is_killed_it_can_be_started_or_resumed(tmp_path):
    def start(number):
        return interrupted(lambda: started(tmp_path / f"run-{number}"), number, fail=False)

    statuses = [start(number) for number in range(1, 6)]
    assert set(statuses) == {_KILLED, 0}
    for number in range(1, 6):
        run = run_at(tmp_path / f"run-{number}")
        (run.resume if (run.directory / "run.json").exists() else run.start)()
        assert run.trainer.step_count == 0
