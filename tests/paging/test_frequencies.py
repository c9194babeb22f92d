import errno
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from paging.errors import FrequencyError
from paging.frequencies import count_keys, hottest_keys, load_counts, save_counts


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64])
def test_keys_of_any_integer_type_are_counted(dtype):
    assert [0, 2, 1, 0] == count_keys(np.array([1, 2, 1], dtype=dtype), 4).tolist()


def test_the_hottest_keys_come_first_and_unused_ones_never():
    assert [4, 1, 3] == hottest_keys(np.array([0, 3, 0, 3, 9]), 5).tolist()


def test_no_more_keys_than_asked_for():
    assert [4, 1] == hottest_keys(np.array([0, 3, 0, 3, 9]), 2).tolist()


def test_a_list_survives_the_disk(tmp_path):
    save_counts(tmp_path / "counts.safetensors", np.array([5, 0, 1 << 40]))
    assert [5, 0, 1 << 40] == load_counts(tmp_path / "counts.safetensors", num_keys=3).tolist()


def test_a_list_of_another_vocabulary_is_refused(tmp_path):
    save_counts(tmp_path / "counts.safetensors", np.array([5, 0, 1]))
    with pytest.raises(FrequencyError, match="3 ids, not 4"):
        load_counts(tmp_path / "counts.safetensors", num_keys=4)


@pytest.mark.parametrize(
    "tensors",
    [
        {"other": np.zeros(3, dtype=np.int64)},
        {"token_counts": np.zeros(3, dtype=np.float32)},
        {"token_counts": np.zeros((3, 1), dtype=np.int64)},
        {"token_counts": np.array([1, -1])},
    ],
)
def test_other_tensors_are_no_frequency_list(tmp_path, tensors):
    (tmp_path / "counts.safetensors").write_bytes(save(tensors))
    with pytest.raises(FrequencyError, match="is no frequency list"):
        load_counts(tmp_path / "counts.safetensors")


def test_a_file_of_something_else_is_no_frequency_list(tmp_path):
    (tmp_path / "counts.safetensors").write_bytes(b"something else")
    with pytest.raises(FrequencyError, match="is no frequency list"):
        load_counts(tmp_path / "counts.safetensors")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FrequencyError, match=r"counts\.safetensors: No such file"):
        load_counts(tmp_path / "counts.safetensors")


def test_a_full_disk_leaves_the_old_list(tmp_path, monkeypatch):
    path = tmp_path / "counts.safetensors"
    save_counts(path, np.array([1]))

    def fail(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(FrequencyError, match="No space left"):
        save_counts(path, np.array([2]))
    assert [1] == load_counts(path).tolist()
    assert [path] == list(tmp_path.iterdir())
