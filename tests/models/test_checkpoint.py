"""Checkpoint directories: what is written is what is read, and what does not fit is refused in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import models.checkpoint
from models.checkpoint import (
    compute_fingerprints,
    expected_tensors,
    load_model,
    read_fingerprints,
    save_checkpoint,
)
from models.config import ModelConfig
from models.errors import CheckpointError, ConfigError
from models.initialise import initialise
from models.tokenizer import load_tokenizer, train_tokenizer
from models.weights import StoredWeights
from tests.models.checkpoint_samples import (
    DENSE,
    EVERY_KIND,
    FLEX,
    MEMORY,
    edit_json,
    equal_tensors,
    random_model,
    tensors_of,
)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "model"


@pytest.fixture
def saved(out):
    """Return the directory of a tiny MemoryLLM."""
    save_checkpoint(random_model(), out)
    return out


def refusal(directory, **options):
    with pytest.raises(CheckpointError) as caught:
        load_model(directory, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def names_in(directory):
    return [path.name for path in directory.iterdir()]


def rewrite(directory, change):
    """Let `change` edit the stored tensors, a dictionary."""
    path = directory / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)


# What is written is what is read


@pytest.mark.parametrize("config", EVERY_KIND.values(), ids=EVERY_KIND)
def test_a_checkpoint_gives_back_configuration_and_tensors(config, out):
    model = random_model(config)
    save_checkpoint(model, out)
    loaded = load_model(out)
    assert loaded.config == config
    assert equal_tensors(tensors_of(loaded), tensors_of(model))


def test_shards_give_back_the_same_tensors(out):
    model = random_model(FLEX)
    save_checkpoint(model, out, shard_bytes=4000)
    assert len(list(out.glob("model-*-of-*.safetensors"))) > 2
    assert equal_tensors(tensors_of(load_model(out)), tensors_of(model))


def test_shards_stay_within_their_limit(out):
    save_checkpoint(random_model(), out, shard_bytes=4000)
    sizes = [sum(tensor.nbytes for tensor in load_file(path).values()) for path in out.glob("*.safetensors")]
    assert max(sizes) <= 4000


def test_shards_and_a_single_file_have_the_same_fingerprints(out, saved, tmp_path):
    sharded = save_checkpoint(random_model(), tmp_path / "sharded", shard_bytes=4000)
    assert sharded == read_fingerprints(tmp_path / "sharded") == read_fingerprints(saved)


def test_the_safetensors_library_reads_the_file(saved):
    assert equal_tensors(load_file(saved / "model.safetensors"), tensors_of(random_model()))


def test_the_first_tensor_is_aligned(saved):
    header_bytes = int.from_bytes((saved / "model.safetensors").read_bytes()[:8], "little")
    assert header_bytes % 8 == 0


def test_storage_in_bf16_rounds_every_tensor(out):
    model = random_model()
    save_checkpoint(model, out, dtype=torch.bfloat16)
    rounded = {name: tensor.bfloat16() for name, tensor in tensors_of(model).items()}
    assert equal_tensors(tensors_of(load_model(out)), rounded)


def test_a_model_can_be_loaded_in_another_dtype(saved):
    halved = {name: tensor.half() for name, tensor in tensors_of(random_model()).items()}
    assert equal_tensors(tensors_of(load_model(saved, dtype=torch.float16)), halved)


def test_without_a_dtype_all_tensors_take_the_embeddings(saved):
    def widen(tensors):
        tensors["model.norm.weight"] = tensors["model.norm.weight"].double()

    rewrite(saved, widen)
    assert {tensor.dtype for tensor in tensors_of(load_model(saved)).values()} == {torch.float32}


def test_weights_are_backed_by_the_mapped_file(saved):
    model = load_model(saved)
    address = model.model.embed_tokens.weight.data_ptr()
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    mapped = [tuple(int(end, 16) for end in line[0].split("-")) for line in maps if str(saved) in line[-1]]
    assert any(start <= address < stop for start, stop in mapped)


def test_writing_to_a_loaded_weight_changes_no_file(saved):
    with torch.no_grad():
        load_model(saved).model.norm.weight.fill_(7)
    assert equal_tensors(tensors_of(load_model(saved)), tensors_of(random_model()))


def test_loaded_weights_can_be_trained(saved):
    assert all(parameter.requires_grad for parameter in load_model(saved).parameters())


def test_the_tokenizer_is_kept(out):
    tokenizer = train_tokenizer(["aab" * 50], vocab_size=260)
    config = ModelConfig(**{**vars(DENSE), "vocab_size": 260})
    save_checkpoint(random_model(config), out, tokenizer=tokenizer)
    assert load_tokenizer(out / "tokenizer.json").get_vocab() == tokenizer.get_vocab()


def test_a_tokenizer_with_more_ids_than_the_model_has_rows_is_refused(out):
    with pytest.raises(CheckpointError, match="the tokenizer has 257 ids"):
        save_checkpoint(random_model(), out, tokenizer=train_tokenizer(["a"], vocab_size=257))


def test_the_generation_config_is_kept(out):
    save_checkpoint(random_model(), out, generation={"temperature": 0.5})
    assert json.loads((out / "generation_config.json").read_text()) == {"temperature": 0.5}


def test_the_generation_config_names_the_end_of_text_by_default(saved):
    assert json.loads((saved / "generation_config.json").read_text()) == {"eos_token_id": 3}


def test_more_files_appear_with_the_checkpoint(out):
    save_checkpoint(random_model(), out, write_more=lambda directory: (directory / "trainer.json").write_text("{}"))
    assert (out / "trainer.json").read_text() == "{}"


def test_progress_counts_the_bytes_of_all_tensors(out):
    calls = []
    model = random_model()
    save_checkpoint(model, out, on_progress=lambda done, total: calls.append((done, total)))
    total = sum(tensor.nbytes for tensor in tensors_of(model).values())
    assert calls[-1] == (total, total)
    assert calls == sorted(calls)


def test_weights_cannot_be_stored_as_integers(out):
    with pytest.raises(CheckpointError, match=r"cannot be stored as torch\.int8"):
        save_checkpoint(random_model(), out, dtype=torch.int8)


# Slim checkpoints


@pytest.fixture
def slim(tmp_path):
    save_checkpoint(random_model(), tmp_path / "slim", slim=True)
    return tmp_path / "slim"


def test_a_slim_checkpoint_has_no_memory_tensors(slim):
    assert StoredWeights(slim).specs.keys() == expected_tensors(MEMORY, with_memory=False).keys()


def test_a_slim_checkpoint_keeps_both_fingerprints(slim, saved):
    assert read_fingerprints(slim) == read_fingerprints(saved)


def test_a_slim_checkpoint_loads_without_memory(slim):
    loaded = tensors_of(load_model(slim, with_memory=False))
    assert equal_tensors(loaded, {name: tensors_of(random_model())[name] for name in loaded})


def test_computed_memory_from_a_slim_checkpoint_is_refused(slim):
    assert "is a slim checkpoint" in refusal(slim)


def test_a_model_without_memory_is_saved_slim_with_its_tables_fingerprint(slim, out):
    table = read_fingerprints(slim).table
    save_checkpoint(load_model(slim, with_memory=False), out, slim=True, table_fingerprint=table)
    assert read_fingerprints(out) == read_fingerprints(slim)


@pytest.mark.parametrize(("is_slim", "match"), [(True, "fingerprint of the ToL table"), (False, "write it slim")])
def test_a_model_without_memory_does_not_become_a_full_or_anonymous_checkpoint(slim, out, is_slim, match):
    with pytest.raises(CheckpointError, match=match):
        save_checkpoint(load_model(slim, with_memory=False), out, slim=is_slim)


def test_memory_tensors_are_not_read_where_a_table_is_present(saved, monkeypatch):
    read = []
    original = StoredWeights.read
    monkeypatch.setattr(StoredWeights, "read", lambda self, name: (read.append(name), original(self, name))[1])
    load_model(saved, with_memory=False)
    assert sorted(read) == sorted(expected_tensors(MEMORY, with_memory=False))


# What does not fit


def test_all_tensors_that_do_not_fit_are_listed_at_once(saved):
    def spoil(tensors):
        del tensors["model.norm.weight"]
        tensors["model.layers.7.memory.norm.weight"] = torch.ones(16)
        tensors["model.layers.0.self_attn.q_proj.weight"] = torch.ones(16, 8)
        tensors["model.layers.1.memory.up_proj.weight"] = torch.ones(24, 16, dtype=torch.int32)

    rewrite(saved, spoil)
    message = refusal(saved)
    assert "missing model.norm.weight" in message
    assert "unexpected model.layers.7.memory.norm.weight" in message
    assert "model.layers.0.self_attn.q_proj.weight has shape [16, 8] instead of [16, 16]" in message
    assert "model.layers.1.memory.up_proj.weight is I32 instead of BF16, F16, F32, F64" in message


def test_a_missing_memory_tensor_of_a_full_checkpoint_is_named(saved):
    rewrite(saved, lambda tensors: tensors.pop("model.layers.1.memory.norm.weight"))
    assert "missing model.layers.1.memory.norm.weight" in refusal(saved)


def test_a_missing_directory_is_refused(tmp_path):
    assert "there is no such directory" in refusal(tmp_path / "nowhere")


def test_a_directory_without_weights_is_refused(saved):
    (saved / "model.safetensors").unlink()
    assert "neither model.safetensors nor model.safetensors.index.json" in refusal(saved)


def test_a_directory_without_a_configuration_is_refused(saved):
    (saved / "config.json").unlink()
    with pytest.raises(ConfigError, match="cannot read"):
        load_model(saved)


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_a_truncated_file_is_refused(saved, size):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    assert "is not a whole safetensors file" in refusal(saved)


def test_a_file_of_another_format_is_refused(saved):
    (saved / "model.safetensors").write_bytes(b"\x80\x04pickled" * 100)
    assert "is not a whole safetensors file" in refusal(saved)


@pytest.fixture
def sharded(out):
    save_checkpoint(random_model(), out, shard_bytes=4000)
    return out


INDEX = "model.safetensors.index.json"


def test_a_missing_shard_is_refused(sharded):
    next(sharded.glob("model-00002-*")).unlink()
    assert "model-00002-of-" in refusal(sharded)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", "x.bin", 3, None])
def test_an_index_that_names_no_plain_file_is_refused(sharded, name):
    edit_json(sharded / INDEX, weight_map={"model.norm.weight": name})
    assert "only plain names" in refusal(sharded)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": []}', "\udc80", "[" * 100_000])
def test_a_broken_index_is_refused(sharded, content):
    (sharded / INDEX).write_text(content, errors="surrogateescape")
    assert INDEX in refusal(sharded)


def test_a_tensor_in_two_shards_is_refused(sharded):
    first, second = sorted(sharded.glob("*.safetensors"))[:2]
    save_file(load_file(first) | load_file(second), second)
    assert "is in another shard too" in refusal(sharded)


def test_an_index_that_does_not_fit_its_shards_is_refused(sharded):
    weight_map = json.loads((sharded / INDEX).read_text())["weight_map"]
    files = sorted(set(weight_map.values()))
    edit_json(sharded / INDEX, weight_map=weight_map | {"model.norm.weight": files[0]})
    assert "model.norm.weight is in one and not in the other" in refusal(sharded)


def test_a_single_file_beside_an_index_is_refused(sharded):
    next(sharded.glob("*.safetensors")).rename(sharded / "model.safetensors")
    assert "has both" in refusal(sharded)


# Replacing


def test_an_existing_checkpoint_is_replaced_only_when_asked(saved):
    with pytest.raises(CheckpointError, match="holds a checkpoint already"):
        save_checkpoint(random_model(seed=1), saved)
    assert equal_tensors(tensors_of(load_model(saved)), tensors_of(random_model()))
    save_checkpoint(random_model(seed=1), saved, replace=True)
    assert equal_tensors(tensors_of(load_model(saved)), tensors_of(random_model(seed=1)))


def test_a_replaced_checkpoint_leaves_nothing_behind(saved):
    save_checkpoint(random_model(), saved, replace=True, shard_bytes=4000)
    assert not (saved / "model.safetensors").exists()
    assert names_in(saved.parent) == [saved.name]


def test_a_loaded_model_survives_the_replacement_of_its_checkpoint(saved):
    loaded = load_model(saved)
    save_checkpoint(random_model(seed=1), saved, replace=True)
    assert equal_tensors(tensors_of(loaded), tensors_of(random_model()))


def test_an_empty_directory_is_filled(out):
    out.mkdir()
    save_checkpoint(random_model(), out)
    assert load_model(out).config == MEMORY


def test_a_link_to_a_checkpoint_stays_a_link(saved, tmp_path):
    link = tmp_path / "latest"
    link.symlink_to(saved)
    save_checkpoint(random_model(seed=1), link, replace=True)
    assert link.is_symlink()
    assert equal_tensors(tensors_of(load_model(saved)), tensors_of(random_model(seed=1)))


@pytest.mark.parametrize("inside", ["notes.txt", "config.json", "sub/model.safetensors"])
def test_a_directory_that_is_no_checkpoint_is_never_replaced(out, inside):
    (out / inside).parent.mkdir(parents=True)
    (out / inside).write_text("mine")
    with pytest.raises(CheckpointError, match="is not a checkpoint alone"):
        save_checkpoint(random_model(), out, replace=True)
    assert (out / inside).read_text() == "mine"


def test_a_checkpoint_with_a_directory_inside_is_never_replaced(saved):
    (saved / ".git").mkdir()
    with pytest.raises(CheckpointError, match="is not a checkpoint alone"):
        save_checkpoint(random_model(), saved, replace=True)


def test_a_file_in_the_way_is_never_replaced(out):
    out.write_text("mine")
    with pytest.raises(CheckpointError, match="is not a checkpoint alone"):
        save_checkpoint(random_model(), out, replace=True)


def test_a_directory_filled_by_another_during_the_save_is_left_alone(out):
    def interfere(_directory):
        out.mkdir()
        (out / "notes.txt").write_text("mine")

    with pytest.raises(CheckpointError, match="is not a checkpoint alone"):
        save_checkpoint(random_model(), out, write_more=interfere)
    assert names_in(out.parent) == [out.name]


# Failures and kills


def test_a_full_disk_is_a_clear_error_and_leaves_the_old_checkpoint(saved, monkeypatch):
    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save_checkpoint(random_model(seed=1), saved, replace=True)
    assert equal_tensors(tensors_of(load_model(saved)), tensors_of(random_model()))
    assert names_in(saved.parent) == [saved.name]


def test_an_interrupted_save_leaves_nothing(out):
    def interrupt(_done, _total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(random_model(), out, on_progress=interrupt)
    assert names_in(out.parent) == []


# One process for all of it, since importing torch takes longer than a hundred of its forks.
KILLS = """
import dataclasses, json, os, shutil, signal, sys
from pathlib import Path
import torch
import paging.staging
from models.checkpoint import compute_fingerprints, read_fingerprints, save_checkpoint
from tests.models.checkpoint_samples import MEMORY, random_model

torch.set_num_threads(1)
out = Path(sys.argv[1])
config = dataclasses.replace(MEMORY, num_hidden_layers=1)
candidates = [random_model(config, seed=0), random_model(config, seed=1)]
prints = [save_checkpoint(model, out, replace=True) for model in candidates]

def killed_save(model, step):
    # Save in a child that is killed at its step-th event: a file call on the checkpoint, or progress.
    child = os.fork()
    if child != 0:
        return os.waitpid(child, 0)[1]
    seen = 0
    def hook(event, args):
        nonlocal seen
        if event.startswith(("fcntl.", "test.")) or args and str(args[0]).startswith(str(out.parent)):
            seen += 1  # before the kill, which is an event as well
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    save_checkpoint(model, out, replace=True, on_progress=lambda done, total: sys.audit("test.progress"))
    os._exit(0)

def kill_at_every_step():
    outcomes = []
    status = None
    while status != 0:
        old = prints.index(read_fingerprints(out))
        status = killed_save(candidates[1 - old], len(outcomes) + 1)
        now = compute_fingerprints(out)
        if now != read_fingerprints(out) or now not in prints or status not in (0, signal.SIGKILL):
            outcomes.append("broken")
            break
        outcomes.append("old" if now == prints[old] else "new")
        for left in out.parent.iterdir():
            if left != out:
                shutil.rmtree(left)
    return outcomes

report = {"exchange": kill_at_every_step()}
killed_save(candidates[0], 15)
report["left by a kill"] = len(os.listdir(out.parent)) - 1
save_checkpoint(candidates[0], out, replace=True)
report["left after the next save"] = len(os.listdir(out.parent)) - 1
paging.staging._exchange = lambda first, second: False
report["aside"] = kill_at_every_step()
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def kills(tmp_path_factory):
    """Return what became of saves that were killed."""
    result = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path_factory.mktemp("kills") / "model")],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert result.stderr == ""
    return json.loads(result.stdout)


@pytest.mark.parametrize("way", ["exchange", "aside"])
def test_a_kill_at_any_step_of_a_save_leaves_the_old_checkpoint_or_the_new_one(kills, way):
    outcomes = kills[way]
    first_new = outcomes.index("new")
    assert first_new > 15
    assert outcomes == ["old"] * first_new + ["new"] * (len(outcomes) - first_new)


def test_the_next_save_removes_what_a_killed_one_left(kills):
    assert (kills["left by a kill"], kills["left after the next save"]) == (1, 0)


# Random weights


@pytest.mark.parametrize("config", EVERY_KIND.values(), ids=EVERY_KIND)
def test_random_weights_load(config, out):
    initialise(config, out)
    assert {tensor.dtype for tensor in tensors_of(load_model(out)).values()} == {torch.bfloat16}


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path):
    prints = [initialise(MEMORY, tmp_path / str(i), seed=seed) for i, seed in enumerate((5, 5, 6))]
    assert prints[0] == prints[1]
    assert prints[0].backbone != prints[2].backbone
    assert prints[0].table != prints[2].table


def test_random_weights_are_made_one_tensor_at_a_time(out, monkeypatch):
    alive = []
    original = models.checkpoint.write_weights

    def watch(directory, config, shapes, read, **options):
        return original(directory, config, shapes, lambda name: alive.append(name) or read(name), **options)

    monkeypatch.setattr(models.checkpoint, "write_weights", watch)
    initialise(MEMORY, out)
    assert alive == sorted(expected_tensors(MEMORY))


def test_different_tensors_of_one_shape_differ(out):
    initialise(MEMORY, out, dtype=torch.float32)
    tensors = tensors_of(load_model(out))
    assert not torch.equal(*(tensors[f"model.layers.{i}.self_attn.q_proj.weight"] for i in (0, 1)))


def test_the_header_names_the_fingerprints(saved):
    with safe_open(saved / "model.safetensors", framework="pt") as file:
        metadata = file.metadata()
    stored = read_fingerprints(saved)
    assert metadata == {
        "format": "pt",
        "backbone_fingerprint": stored.backbone,
        "table_fingerprint": stored.table,
    }


def test_stored_fingerprints_are_those_of_the_tensors(saved):
    assert compute_fingerprints(saved) == read_fingerprints(saved)
