"""What is no sound table, or the wrong one, is refused in one line that says what to do."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paging import Manifest, Table, TableError, TableFormatError, TableMismatchError
from paging.manifest import manifest_text, parse_manifest
from tests.paging.sample_tables import edit_manifest, flip_byte, shard_paths, write_table


@pytest.fixture
def table(tmp_path):
    write_table(tmp_path / "table", rows_per_shard=5)
    return tmp_path / "table"


@pytest.fixture(scope="module")
def manifest_bytes(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sound") / "table"
    write_table(directory, rows_per_shard=5)
    return (directory / "manifest.json").read_bytes()


def refusal(directory, **expected):
    with pytest.raises(TableError) as caught:
        Table.open(directory, **expected)
    message = str(caught.value)
    assert "\n" not in message
    assert re.search("copy|export|update|name ", message), f"says nothing of what to do: {message}"
    return message


def test_manifest_survives_its_own_text(manifest_bytes):
    manifest = parse_manifest(manifest_bytes.decode())
    assert isinstance(manifest, Manifest)
    assert manifest_text(manifest).encode() == manifest_bytes


@given(st.data())
def test_any_flipped_bit_of_the_manifest_is_refused(manifest_bytes, data):
    flipped = bytearray(manifest_bytes)
    flipped[data.draw(st.integers(0, len(flipped) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(TableFormatError):
        parse_manifest(flipped.decode("latin-1"))


@settings(max_examples=40)
@given(st.text() | st.recursive(st.none() | st.integers(), st.lists).map(json.dumps))
def test_anything_else_is_no_manifest(text):
    with pytest.raises(TableFormatError):
        parse_manifest(text)


def test_deeply_nested_json_is_no_manifest():
    with pytest.raises(TableFormatError, match="is not JSON"):
        parse_manifest("[" * 100_000)


def test_directory_without_a_manifest(tmp_path):
    assert "is no table, it has no manifest.json" in refusal(tmp_path)


def test_path_that_is_no_directory(tmp_path):
    (tmp_path / "file").touch()
    assert "is no table" in refusal(tmp_path / "file")


def test_manifest_that_is_not_ascii(table):
    flip_byte(table / "manifest.json", 5)
    assert "not ASCII" in refusal(table)


def test_manifest_of_something_else(table):
    (table / "manifest.json").write_text('{"format": "web-app"}')
    assert "not the manifest of a table" in refusal(table)


@pytest.mark.parametrize("version", [3, 0, "1", True, None])
def test_unknown_version(table, version):
    edit_manifest(table, lambda values: values.update(version=version))
    assert "of the format is unknown, this release reads 1 and 2; update tolbooth" in refusal(table)


def test_changed_value(table):
    path = table / "manifest.json"
    path.write_text(path.read_text().replace('"weights-1"', '"weights-2"'))
    assert "does not match its own digest" in refusal(table)


def test_version_that_the_encodings_do_not_have(table):
    edit_manifest(table, lambda values: values.update(version=2))
    with pytest.raises(TableFormatError, match="version is 2; a table of bf16 is one of version 1"):
        Table.open(table)


def path_of(values, *keys):
    for key in keys:
        values = values[key]
    return values


@pytest.mark.parametrize(
    ("keys", "changes", "message"),
    [
        ((), {"extra": 1}, "unknown keys: ['extra']"),
        ((), {"num_rows": "10"}, "num_rows of the manifest has a wrong type"),
        ((), {"num_rows": True}, "num_rows of the manifest has a wrong type"),
        ((), {"num_rows": 9}, "9 rows for 10 ids"),
        ((), {"row_bytes": 383}, "row_bytes is 383; the segments give 384"),
        ((), {"row_stride": 4096}, "row_stride is 4096; the segments give 512"),
        ((), {"table_id": "../" * 10 + "ab"}, "32 hexadecimal digits"),
        ((), {"fingerprint": "a\nb"}, "is not 1 to 256 letters"),
        ((), {"row_checksum": "crc32"}, "this release knows xxh3_64"),
        ((), {"hidden_size": 63}, "126"),
        (("segments", 0), {"encoding": "fp8"}, "encoding 'fp8' is unknown"),
        (("segments", 1), {"offset": 0}, "it must start at 128"),
        (("segments", 1), {"scale": 1}, "a segment has unknown keys"),
        (("auxiliary",), {"file": "../auxiliary.safetensors"}, "it must be auxiliary.safetensors"),
        (("auxiliary", "tensors", 0), {"dtype": "F32"}, "lists other tensors"),
        (("auxiliary", "tensors", 0), {"shape": [11]}, "lists other tensors"),
        (("shards", 0), {"file": "../rows-00000-of-00002.safetensors"}, "it must be rows-00000-of-00002.safetensors"),
        (("shards", 0), {"file": "/etc/passwd"}, "it must be rows-00000-of-00002.safetensors"),
        (("shards", 1), {"file": "rows-00000-of-00002.safetensors"}, "it must be rows-00001-of-00002.safetensors"),
        (("shards", 1), {"first_row": 4}, "does not start at row 5"),
        (("shards", 1), {"num_rows": 4}, "its rows take"),
        (("shards", 0), {"digest": "0"}, "digest of shard 0"),
    ],
)
def test_manifest_whose_values_are_not_sound(table, keys, changes, message):
    edit_manifest(table, lambda values: path_of(values, *keys).update(changes))
    with pytest.raises(TableFormatError, match=re.escape(message)) as caught:
        Table.open(table)
    assert "\n" not in str(caught.value)


def test_missing_key(table):
    edit_manifest(table, lambda values: values.pop("num_layers"))
    with pytest.raises(TableFormatError, match="lacks keys: num_layers"):
        Table.open(table)


def test_key_that_is_there_twice(table):
    path = table / "manifest.json"
    path.write_text(path.read_text().replace('"version": 1,', '"version": 1, "version": 1,'))
    assert "a key is there twice" in refusal(table)


def test_table_of_another_model(table):
    with pytest.raises(TableMismatchError, match="belongs to another model"):
        Table.open(table, expect_fingerprint="weights-2")
    assert "weights-2" in refusal(table, expect_fingerprint="weights-2")


@pytest.mark.parametrize("name", ["hidden_size", "num_layers", "vocab_size"])
def test_table_of_another_geometry(table, name):
    assert f"has {name} " in refusal(table, **{f"expect_{name}": 99})
    with pytest.raises(TableMismatchError):
        Table.open(table, **{f"expect_{name}": 99})


def test_truncated_shard(table):
    path = shard_paths(table)[1]
    os.truncate(path, path.stat().st_size - 1)
    assert f"{path} is truncated" in refusal(table)


def test_shard_that_is_too_long(table):
    with shard_paths(table)[1].open("ab") as file:
        file.write(b"\0")
    assert "is too long" in refusal(table)


def test_missing_shard(table):
    shard_paths(table)[1].unlink()
    assert "is missing" in refusal(table)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_shard_that_is_no_file(table, make):
    shard_paths(table)[1].unlink()
    make(shard_paths(table)[0].with_name("rows-00001-of-00002.safetensors"))
    assert "is not a regular file" in refusal(table)


def test_shard_of_another_table_of_the_same_size(table, tmp_path):
    write_table(tmp_path / "other", rows_per_shard=5)
    shutil.copy(shard_paths(tmp_path / "other")[0], shard_paths(table)[0])
    assert "it belongs to another table" in refusal(table)


def test_two_shards_of_one_table_swapped(table):
    first, second = shard_paths(table)
    first.rename(table / "aside")
    second.rename(first)
    (table / "aside").rename(second)
    assert "it is shard 1 of this table, not shard 0" in refusal(table)


@pytest.mark.parametrize("offset", [0, 7, 8, 100, 4095])
def test_flipped_byte_of_a_shard_header(table, offset):
    flip_byte(shard_paths(table)[0], offset)
    assert "its header is damaged" in refusal(table)


@pytest.mark.parametrize("offset", [0, 100, 4096, 4096 + 79])
def test_flipped_byte_of_the_auxiliary_file(table, offset):
    flip_byte(table / "auxiliary.safetensors", offset)
    assert "auxiliary.safetensors does not match its digest" in refusal(table)


def test_auxiliary_file_of_another_table(table, tmp_path):
    write_table(tmp_path / "other", rows_per_shard=5)
    shutil.copy(tmp_path / "other" / "auxiliary.safetensors", table)
    assert "does not match its digest" in refusal(table)


def test_refused_table_leaves_no_file_open(table):
    flip_byte(shard_paths(table)[1], 100)
    before = len(list(Path("/proc/self/fd").iterdir()))
    refusal(table)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
