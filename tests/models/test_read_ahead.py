"""Reading a checkpoint's weights before they are asked for: the right bytes, and no word of what is wrong."""

import struct
import subprocess
import sys

import pytest

from models.checkpoint import save_checkpoint
from models.read_ahead import read_ahead, weight_spans
from tests.models.checkpoint_samples import random_model


@pytest.fixture
def saved(tmp_path):
    """Return the directory of a tiny MemoryLLM."""
    save_checkpoint(random_model(), tmp_path / "model")
    return tmp_path / "model"


def num_bytes(model, *, with_memory):
    return sum(tensor.nbytes for name, tensor in model.named_parameters() if with_memory or ".memory." not in name)


@pytest.mark.parametrize("with_memory", [True, False])
def test_what_is_asked_for_is_read_and_nothing_else(saved, with_memory):
    calls = []
    read_ahead(saved, with_memory=with_memory, on_progress=lambda *call: calls.append(call))
    expected = num_bytes(random_model(), with_memory=with_memory)
    assert (expected, expected) == calls[-1]


def test_shards_are_read_too(tmp_path):
    save_checkpoint(random_model(), tmp_path / "model", shard_bytes=4000)
    spans = weight_spans(tmp_path / "model", with_memory=True)
    assert 1 < len({span.path for span in spans})
    assert num_bytes(random_model(), with_memory=True) == sum(span.end - span.start for span in spans)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 64,
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 3) + b"{x}",
        struct.pack("<Q", 12) + b'{"a": {}, 1}',
        struct.pack("<Q", 31) + b'{"a": {"data_offsets": [0, 99]}}'[:31],
        struct.pack("<Q", 32) + b'{"a": {"data_offsets": [0, 99]}}',
        struct.pack("<Q", 32) + b'{"a": {"data_offsets": ["", 1]}}',
        struct.pack("<Q", 30) + b'{"a": {"data_offsets": [0, 1]}',
        struct.pack("<Q", 29) + b'{"a": {"data_offsets": [99]}}',
    ],
)
def test_a_file_that_is_not_sound_is_left_to_who_loads_it(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    assert [] == weight_spans(tmp_path, with_memory=True)


def test_a_directory_without_weights_is_nothing_to_read(tmp_path):
    calls = []
    read_ahead(tmp_path, with_memory=True, on_progress=lambda *call: calls.append(call))
    assert [] == calls


def test_what_progress_raises_ends_it(saved):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_ahead(saved, with_memory=True, on_progress=stop)


def test_it_needs_no_torch():
    program = "import sys, server.engine.reading, models.read_ahead; sys.exit('torch' in sys.modules)"
    assert 0 == subprocess.run([sys.executable, "-c", program], check=False).returncode
