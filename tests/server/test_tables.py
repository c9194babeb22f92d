import pytest

from models.checkpoint import read_fingerprints
from paging import Encoding, Table
from server.engine.model_tables import cached_table


def test_export_puts_the_table_into_the_checkpoint(tolbooth, memory_model):
    outcome = tolbooth("export-tol", memory_model, "--json")
    with Table.open(memory_model / "table") as table:
        assert (str(memory_model / "table"), table.num_rows) == (outcome.json["table"], outcome.json["rows"])


def test_export_counts_the_bytes_on_disk(tolbooth, memory_model):
    result = tolbooth("export-tol", memory_model, "--json").json
    on_disk = sum(path.stat().st_size for path in (memory_model / "table").glob("*.safetensors"))
    assert on_disk == result["bytes"]
    assert result["bytes"] / result["seconds"] == pytest.approx(result["bytes_per_second"])


def test_export_goes_where_it_is_told_in_the_encoding_asked_for(tolbooth, memory_model, tmp_path):
    tolbooth("export-tol", memory_model, "--out", tmp_path / "t", "--encoding", "fp16")
    with Table.open(tmp_path / "t") as table:
        assert Encoding.FP16 == table.geometry.encoding


def test_export_of_a_demo_goes_to_the_cache(tolbooth, demo):
    tolbooth("export-tol", "--encoding", "fp32")
    with Table.open(cached_table(read_fingerprints(demo).table, Encoding.FP32)) as table:
        assert Encoding.FP32 == table.geometry.encoding
    assert not (demo / "table").exists()


def test_export_keeps_a_table_unless_asked(tolbooth, fails, memory_model):
    tolbooth("export-tol", memory_model)
    assert "is a table already" in fails("export-tol", memory_model)
    assert 0 == tolbooth("export-tol", memory_model, "--overwrite").code


def test_export_of_a_dense_model_is_a_mistake(fails, dense_model):
    assert "dense" in fails("export-tol", dense_model)


def test_export_prints_the_rate_for_people(tolbooth, memory_model):
    lines = tolbooth("export-tol", memory_model).out.splitlines()
    assert ["table", "rows", "bytes", "encoding", "seconds", "rate"] == [line.split()[0] for line in lines]


def test_verify_reports_a_sound_table(tolbooth, memory_model):
    exported = tolbooth("export-tol", memory_model, "--json").json
    report = tolbooth("verify-tol", memory_model / "table", "--json").json
    assert [exported[name] for name in ("rows", "bytes", "fingerprint")] == [
        report[name] for name in ("num_rows", "num_bytes", "fingerprint")
    ]


def test_verify_names_the_bad_row(tolbooth, fails, memory_model):
    tolbooth("export-tol", memory_model)
    with Table.open(memory_model / "table") as table:
        place = table.place(5)
    content = bytearray(place.path.read_bytes())
    content[place.offset] ^= 1
    place.path.write_bytes(content)
    assert f"row 5 ({place.path}, byte {place.offset})" in fails("verify-tol", memory_model / "table")
