import numpy as np
import pytest

from paging.errors import TraceError
from paging.trace import load_trace


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64, np.uint64, ">i4"])
def test_integers_of_any_type_are_read(tmp_path, dtype):
    np.save(tmp_path / "ids.npy", np.array([3, 0, 9], dtype=dtype))
    assert [3, 0, 9] == load_trace(tmp_path / "ids.npy", vocab_size=10).tolist()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([1.0, 2.0]), "must be integers"),
        (np.array([[1, 2]]), r"int64 \[1, 2\]; it must be integers in one dimension"),
        (np.array(7), "in one dimension"),
        (np.array([], dtype=np.int64), "is empty"),
        (np.array([True]), "must be integers"),
        (np.array([1, 2, 10]), "id 10 at position 2, outside the vocabulary of 10"),
        (np.array([1, -1]), "id -1 at position 1"),
    ],
)
def test_what_is_no_trace_of_this_vocabulary_is_refused(tmp_path, values, message):
    np.save(tmp_path / "ids.npy", values)
    with pytest.raises(TraceError, match=message):
        load_trace(tmp_path / "ids.npy", vocab_size=10)


def test_a_pickle_is_not_read(tmp_path):
    np.save(tmp_path / "ids.npy", np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(TraceError, match=r"no \.npy file of numbers"):
        load_trace(tmp_path / "ids.npy", vocab_size=10)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x93NUMPY\x01\x00", b"PK\x03\x04 no archive"])
def test_a_broken_file_is_refused(tmp_path, content):
    (tmp_path / "ids.npy").write_bytes(content)
    with pytest.raises(TraceError, match="cannot read the trace"):
        load_trace(tmp_path / "ids.npy", vocab_size=10)


def test_an_archive_is_refused(tmp_path):
    np.savez(tmp_path / "ids.npz", ids=np.array([1]))
    with pytest.raises(TraceError, match=r"no \.npy file"):
        load_trace(tmp_path / "ids.npz", vocab_size=10)


def test_a_truncated_trace_is_refused(tmp_path):
    np.save(tmp_path / "ids.npy", np.arange(10))
    data = (tmp_path / "ids.npy").read_bytes()
    (tmp_path / "ids.npy").write_bytes(data[:-8])
    with pytest.raises(TraceError, match="cannot read the trace"):
        load_trace(tmp_path / "ids.npy", vocab_size=10)


def test_a_missing_trace_is_named(tmp_path):
    with pytest.raises(TraceError, match=r"ids\.npy: No such file"):
        load_trace(tmp_path / "ids.npy", vocab_size=10)
