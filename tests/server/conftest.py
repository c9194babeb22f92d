"""Tiny checkpoints, a text, and a command line that touches nobody's home."""

import json
import shutil

import pytest
import torch

from models import bundled
from models.checkpoint import save_checkpoint
from models.config import Kind, ModelConfig
from models.tokenizer import train_tokenizer, vocab_size
from models.transformer import Transformer
from server.cli.app import main

SENTENCE = "Once upon a time a toll was paid in bread, no: in brød, by {} travellers at gate {}.\n"
TEXT = "".join(SENTENCE.format(index * 7 % 13, index) for index in range(60))


@pytest.fixture(autouse=True)
def _home_elsewhere(tmp_path_factory, monkeypatch):
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
    monkeypatch.setattr(bundled, "_DEMOS", home / "demos")


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer([TEXT], vocab_size=300)


def _write(directory, kind, tokenizer, **sizes):
    config = ModelConfig(
        model_type=kind,
        vocab_size=vocab_size(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=0,
        **sizes,
    )
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(1))
    save_checkpoint(model, directory, tokenizer=tokenizer)
    return directory


@pytest.fixture(scope="session")
def stored_models(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("models")
    return {
        "dense": _write(folder / "dense", Kind.DENSE, tokenizer),
        "memory": _write(folder / "memory", Kind.MEMORYLLM, tokenizer),
    }


@pytest.fixture
def memory_model(stored_models, tmp_path):
    return shutil.copytree(stored_models["memory"], tmp_path / "memory")


@pytest.fixture
def dense_model(stored_models, tmp_path):
    return shutil.copytree(stored_models["dense"], tmp_path / "dense")


@pytest.fixture
def demo(stored_models):
    """The bundled model that is meant where none is named."""
    return shutil.copytree(stored_models["memory"], bundled._DEMOS / "demo")


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


class Outcome:
    """What a command did."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def tolbooth(capsys):
    """Runs a command in this process."""

    def run(*arguments):
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def fails(tolbooth):
    """Runs a command that must fail as a mistake does: code 2, nothing on stdout, one line; returns that line."""

    def run(*arguments):
        outcome = tolbooth(*arguments)
        (line,) = outcome.err.splitlines()
        assert (2, "", "error: ") == (outcome.code, outcome.out, line[:7])
        return line

    return run
