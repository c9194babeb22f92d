import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models import run as run_module
from models.checkpoint import load_model
from models.config import ModelConfig
from models.tokenizer import encode, load_tokenizer, save_tokenizer, vocab_size
from models.training import Trainer
from models.transformer import Transformer
from server.cli import training
from server.directories import data_directory
from tests.server.conftest import TEXT

ROOT = Path(__file__).resolve().parents[2]
SIZES = ("--kind", "memoryllm", "--hidden-size", 16, "--layers", 1, "--heads", 2, "--max-position-embeddings", 32)
RECIPE = ("--sequence-length", 16, "--batch-size", 4, "--micro-batch-size", 2, "--warmup-steps", 2, "--threads", 1)
STEPS = 6
COMMAND = ("train", *SIZES, *RECIPE, "--max-tokens", 4 * 16 * STEPS, "--learning-rate", 1e-3, "--device", "cpu")


def metrics(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def tokenizer_file(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path / "given" / "tokenizer.json")
    return tmp_path / "given" / "tokenizer.json"


@pytest.fixture
def command(text_file, tokenizer_file):
    return (*COMMAND, "--text", text_file, "--tokenizer", tokenizer_file)


@pytest.fixture
def uninterrupted(tolbooth, command, tmp_path):
    assert 0 == tolbooth(*command, "--out", tmp_path / "whole").code
    return tmp_path / "whole"


def test_text_becomes_a_model(tolbooth, command, tmp_path, tokenizer):
    outcome = tolbooth(*command, "--out", tmp_path / "run")
    model = tmp_path / "run" / "model"
    config = ModelConfig.load(model)
    assert (0, f"model  {model}\n") == (outcome.code, outcome.out)
    assert (vocab_size(tokenizer), 0, 0) == (config.vocab_size, config.bos_token_id, config.eos_token_id)
    assert STEPS == metrics(tmp_path / "run")[-1]["step"]


def test_a_trained_model_can_be_used_at_once(tolbooth, uninterrupted, text_file):
    assert 0 == tolbooth("eval", uninterrupted / "model", "--text", text_file, "--memory", "computed").code


def test_the_model_carries_the_counts_of_its_tokens(uninterrupted, tokenizer):
    counts = load_file(uninterrupted / "model" / "token_counts.safetensors")["token_counts"]
    ids = [*encode(tokenizer, TEXT), 0]
    assert np.bincount(ids, minlength=vocab_size(tokenizer)).tolist() == counts.tolist()


def test_weights_start_from_the_seed(tolbooth, command, tmp_path, monkeypatch):
    started = {}

    def remember(trainer):
        started.update({name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()})
        interrupt(trainer)

    monkeypatch.setattr(Trainer, "step", remember)
    assert 130 == tolbooth(*command, "--seed", 5, "--out", tmp_path / "run").code
    expected = Transformer(training.read_run(tmp_path / "run")[0])
    expected.init_weights(torch.Generator().manual_seed(5))
    assert all(torch.equal(parameter, started[name]) for name, parameter in expected.named_parameters())


def test_a_tokenizer_is_trained_where_none_is_given(tolbooth, text_file, tmp_path):
    tolbooth(*COMMAND, "--text", text_file, "--vocab-size", 280, "--out", tmp_path / "run")
    assert 280 == vocab_size(load_tokenizer(tmp_path / "run" / "tokenizer.json"))
    assert 280 == ModelConfig.load(tmp_path / "run" / "model").vocab_size


def test_a_larger_vocabulary_than_the_tokenizers_is_granted(tolbooth, command, tmp_path):
    tolbooth(*command, "--vocab-size", 320, "--out", tmp_path / "run")
    assert 320 == ModelConfig.load(tmp_path / "run" / "model").vocab_size


def test_a_smaller_one_is_a_mistake(fails, command, tmp_path):
    assert "the tokenizer has 300 ids" in fails(*command, "--vocab-size", 290, "--out", tmp_path / "run")


def test_shards_need_no_tokenizer(tolbooth, tmp_path):
    np.save(tmp_path / "ids.npy", np.arange(400, dtype=np.uint16) % 50)
    command = (*COMMAND, "--shards", tmp_path / "ids.npy", "--vocab-size", 50, "--out", tmp_path / "run")
    assert 0 == tolbooth(*command).code
    assert not (tmp_path / "run" / "model" / "tokenizer.json").exists()


def test_shards_of_another_run_train_the_same(tolbooth, uninterrupted, tokenizer_file, tmp_path):
    shards = ("--shards", uninterrupted / "tokens", "--tokenizer", tokenizer_file)
    tolbooth(*COMMAND, *shards, "--out", tmp_path / "run")
    assert metrics(uninterrupted) == metrics(tmp_path / "run")


def test_validation_is_measured_and_shown(tolbooth, command, text_file, tmp_path):
    outcome = tolbooth(*command, "--valid-text", text_file, "--validation-steps", 4, "--out", tmp_path / "run")
    found = [entry for entry in metrics(tmp_path / "run") if "validation_bits_per_byte" in entry]
    assert [4, STEPS] == [entry["step"] for entry in found]
    assert f"{found[-1]['validation_bits_per_byte']:.4f} bits per byte" in outcome.err


def test_a_run_has_a_place_of_its_own_outside_the_work_tree(tolbooth, command):
    assert 0 == tolbooth(*command).code
    (directory,) = (data_directory() / "runs").iterdir()
    assert directory.name.startswith("memoryllm-")


def test_weights_can_come_from_a_checkpoint(tolbooth, memory_model, text_file, tmp_path):
    tiny_rate = ("--learning-rate", 1e-12, "--min-learning-rate", 1e-12, "--max-tokens", 64)
    given = ("train", *RECIPE, *tiny_rate, "--text", text_file, "--init-from", memory_model)
    assert 0 == tolbooth(*given, "--max-position-embeddings", 128, "--out", tmp_path / "run").code
    (before, after) = (dict(load_model(path).named_parameters()) for path in (memory_model, tmp_path / "run" / "model"))
    assert 128 == ModelConfig.load(tmp_path / "run" / "model").max_position_embeddings
    assert all(torch.allclose(before[name], after[name].float(), rtol=2**-7) for name in before)


def test_weights_of_other_sizes_are_a_mistake(fails, command, dense_model, tmp_path):
    assert "do not fit" in fails(*command, "--init-from", dense_model, "--out", tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sequence-length", 64], "sequence_length is 64"),
        (["--batch-size", 3], "not a multiple"),
        (["--preset", "none"], "no preset"),
        (["--hidden-size", 15], "not a multiple"),
        (["--valid-text", "nowhere.txt"], "cannot read the text"),
        (["--shards", "."], "either --text FILE or --shards PATH"),
    ],
)
def test_mistakes_are_one_line(fails, command, tmp_path, options, message):
    assert message in fails(*command, *options, "--out", tmp_path / "run")


@pytest.mark.parametrize("missing", ["--max-tokens", "--kind", "--text"])
def test_what_is_missing_is_named(fails, command, tmp_path, missing):
    index = command.index(missing)
    assert missing in fails(*command[:index], *command[index + 2 :], "--out", tmp_path / "run")


def test_a_run_is_not_begun_twice(fails, command, uninterrupted):
    assert "holds a run already" in fails(*command, "--out", uninterrupted)


def test_a_folder_with_other_things_is_left_alone(fails, command, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("")
    assert "is not empty" in fails(*command, "--out", tmp_path / "run")


def test_leftovers_of_a_run_that_never_began_are_not_trained_on(tolbooth, command, uninterrupted, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("Something else entirely. " * 40)
    failing = [other if part == command[command.index("--text") + 1] else part for part in command]
    assert 2 == tolbooth(*failing, "--sequence-length", 16, "--vocab-size", 9, "--out", tmp_path / "run").code
    assert 0 == tolbooth(*command, "--out", tmp_path / "run").code
    assert metrics(uninterrupted) == metrics(tmp_path / "run")


@pytest.fixture
def interrupted(tolbooth, command, tmp_path, monkeypatch):
    """A run that a signal stopped in its third step."""
    directory, take_step = tmp_path / "run", Trainer.step

    def step(trainer):
        if trainer.step_count == 2:
            signal.raise_signal(signal.SIGTERM)
        return take_step(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        outcome = tolbooth(*command, "--out", directory)
    assert 130 == outcome.code
    assert f"saved after step 3; go on with: tolbooth train --resume --out {directory}" == outcome.err.splitlines()[-1]
    return directory


def test_a_stopped_run_goes_on_to_the_same_losses(tolbooth, interrupted, uninterrupted):
    assert 0 == tolbooth("train", "--resume", "--out", interrupted).code
    assert metrics(uninterrupted) == metrics(interrupted)


def test_a_stopped_run_ends_with_the_same_model(tolbooth, interrupted, uninterrupted):
    tolbooth("train", "--resume", "--out", interrupted)
    first, second = (path / "model" / "model.safetensors" for path in (uninterrupted, interrupted))
    assert first.read_bytes() == second.read_bytes()


def test_the_same_command_resumes(tolbooth, interrupted, command, uninterrupted):
    assert 0 == tolbooth(*command, "--resume", "--out", interrupted).code
    assert metrics(uninterrupted) == metrics(interrupted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--learning-rate", 2e-3], "learning_rate"),
        (["--layers", 2], "num_hidden_layers"),
        (["--text", "pyproject.toml"], "another --text"),
    ],
)
def test_another_command_does_not(fails, interrupted, options, message):
    assert message in fails("train", *options, "--resume", "--out", interrupted)


def interrupt(trainer):
    raise KeyboardInterrupt


def test_shards_that_changed_are_not_gone_on_with(tolbooth, fails, tmp_path, monkeypatch):
    shard = tmp_path / "ids.npy"
    np.save(shard, np.arange(400, dtype=np.uint16) % 50)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", interrupt)
        tolbooth(*COMMAND, "--shards", shard, "--vocab-size", 50, "--out", tmp_path / "run")
    np.save(shard, np.arange(500, dtype=np.uint16) % 50)
    assert "has changed" in fails("train", "--resume", "--out", tmp_path / "run")


def test_a_run_that_is_done_resumes_to_its_end(tolbooth, uninterrupted):
    before = metrics(uninterrupted)
    assert 0 == tolbooth("train", "--resume", "--out", uninterrupted).code
    assert before == metrics(uninterrupted)


def test_a_finished_model_is_left_alone(tolbooth, uninterrupted):
    tolbooth("export-tol", uninterrupted / "model")
    assert 0 == tolbooth("train", "--resume", "--out", uninterrupted).code
    assert 0 == tolbooth("verify-tol", uninterrupted / "model" / "table").code


def test_resuming_nothing_is_a_mistake(fails, tmp_path):
    assert "no run to resume" in fails("train", "--resume", "--out", tmp_path)


def test_resuming_needs_the_directory(fails):
    assert "--out DIR" in fails("train", "--resume")


def test_a_second_signal_stops_at_once(tolbooth, command, tmp_path, monkeypatch):
    def step(trainer):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Trainer, "step", step)
    assert 130 == tolbooth(*command, "--out", tmp_path / "run").code
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_full_disk_is_one_line(tolbooth, command, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_module, "save_checkpoint", full)
    outcome = tolbooth(*command, "--out", tmp_path / "run")
    assert (2, True) == (outcome.code, "No space left on device" in outcome.err.splitlines()[-1])


KILLED = """
import os, signal, sys
from models import run
from models.training import Trainer

take_step, save = Trainer.step, run.save_checkpoint

def step(trainer):
    if trainer.step_count == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return take_step(trainer)

Trainer.step = step
from server.cli.app import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_killed_run_goes_on_from_its_last_checkpoint(tolbooth, command, uninterrupted, tmp_path):
    directory = tmp_path / "killed"
    arguments = [str(part) for part in (*command, "--checkpoint-steps", 2, "--out", directory)]
    process = subprocess.run([sys.executable, "-c", KILLED, *arguments], cwd=ROOT, capture_output=True, check=False)
    assert -signal.SIGKILL == process.returncode
    assert [1, 2, 3, 4, 5] == [entry["step"] for entry in metrics(directory)]
    assert 0 == tolbooth("train", "--resume", "--out", directory).code
    assert metrics(uninterrupted) == metrics(directory)


def test_ctrl_c_saves_a_real_process(command, tmp_path):
    directory = tmp_path / "run"
    arguments = [str(part) for part in (*command, "--max-tokens", 10**9, "--out", directory)]
    program = "import sys; from server.cli.app import main; sys.exit(main(sys.argv[1:]))"
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        lines = iter(process.stderr)
        assert any(line.startswith("step 1 ") for line in lines)
        process.send_signal(signal.SIGINT)
        last = list(lines)[-1]
    assert 130 == process.returncode
    assert f"saved after step {metrics(directory)[-1]['step']};" in last
    assert "Traceback" not in last
