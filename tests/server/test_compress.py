"""`compress-tol`, `export-tol` in other encodings, `compress-report`, and `eval` of several tables."""

import json
import shutil

import pytest

from paging import LayerEncoding, Table
from server.cli.app import main
from tests.server.conftest import TEXT


@pytest.fixture(scope="session")
def exported(stored_models, tmp_path_factory):
    """A model with its bf16 table in it."""
    directory = shutil.copytree(stored_models["memory"], tmp_path_factory.mktemp("exported") / "memory")
    assert 0 == main(["export-tol", str(directory)])
    return directory


@pytest.fixture
def table(exported):
    return exported / "table"


def kinds(directory):
    with Table.open(directory) as table:
        return {layer: str(kind) for layer, kind in table.geometry.kinds.items()}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--encoding", "int8"], {0: "int8", 1: "int8"}),
        (["--encoding", "int4"], {0: "int4/32", 1: "int4/32"}),
        (["--encoding", "low-rank", "--rank", "7"], {0: "bf16@7", 1: "bf16@7"}),
        (["--encoding", "int8", "--rank", "16"], {0: "int8@16", 1: "int8@16"}),
        (["--layer-encoding", "1=int8@8"], {0: "bf16", 1: "int8@8"}),
        (["--encoding", "int4", "--group-size", "32", "--layer-encoding", "0=int8"], {0: "int8", 1: "int4/32"}),
        (["--encoding", "int8", "--keep-layers", "1"], {1: "int8"}),
        (["--drop-layers", "1"], {0: "bf16"}),
    ],
)
@pytest.mark.parametrize("command", ["compress-tol", "export-tol"])
def test_layers_are_stored_as_the_options_say(tolbooth, exported, table, tmp_path, command, options, expected):
    source = table if command == "compress-tol" else exported
    result = tolbooth(command, source, "--out", tmp_path / "small", *options, "--json").json
    assert expected == kinds(tmp_path / "small") == {int(layer): kind for layer, kind in result["layers"].items()}
    assert 0 == tolbooth("verify-tol", tmp_path / "small").code


def test_export_and_compress_say_the_same_of_a_table(tolbooth, exported, table, tmp_path):
    compressed = tolbooth("compress-tol", table, "--out", tmp_path / "a", "--encoding", "int8", "--json").json
    exported = tolbooth("export-tol", exported, "--out", tmp_path / "b", "--encoding", "int8", "--json").json
    names = ("fingerprint", "encoding", "rows", "row_bytes", "bytes")
    assert [exported[name] for name in names] == [compressed[name] for name in names]
    assert compressed["bytes"] <= compressed["source_bytes"]


def test_layers_can_be_left_out_of_a_compressed_table(tolbooth, table, tmp_path):
    tolbooth("compress-tol", table, "--out", tmp_path / "a", "--encoding", "int4")
    tolbooth("compress-tol", tmp_path / "a", "--out", tmp_path / "b", "--keep-layers", "0")
    assert {0: "int4/32"} == kinds(tmp_path / "b")


def test_people_are_told_the_size(tolbooth, table, tmp_path):
    out = tolbooth("compress-tol", table, "--out", tmp_path / "a", "--encoding", "int8").out
    assert "of the table before" in out
    assert "encoding  int8" in out


# Served and measured


@pytest.mark.parametrize("memory", ["mapped", "paged"])
def test_compressed_rows_measure_the_same_wherever_they_lie(tolbooth, exported, table, tmp_path, text_file, memory):
    tolbooth("compress-tol", table, "--out", tmp_path / "a", "--layer-encoding", "0=int4,1=int8@16")
    command = ("eval", exported, "--text", text_file, "--table", tmp_path / "a", "--json", "--memory")
    resident, other = (tolbooth(*command, each).json["bits_per_byte"] for each in ("resident", memory))
    assert resident == pytest.approx(other, rel=1e-9)


def test_tables_are_compared(tolbooth, exported, table, tmp_path, text_file):
    tolbooth("compress-tol", table, "--out", tmp_path / "int8", "--encoding", "int8")
    command = ("eval", exported, "--text", text_file, "--table", table, "--table", tmp_path / "int8")
    found = tolbooth(*command, "--json").json["tables"]
    assert [str(table), str(tmp_path / "int8")] == [each["table"] for each in found]
    assert ["bf16", "int8"] == [each["encoding"] for each in found]
    assert found[0]["table_bytes"] >= found[1]["table_bytes"]
    assert found[0]["perplexity"] == pytest.approx(found[1]["perplexity"], rel=0.01)
    assert len(TEXT.encode()) == found[0]["bytes"]
    lines = tolbooth(*command).out.splitlines()
    assert ["table", str(table), str(tmp_path / "int8")] == [line.split()[0] for line in lines]


def test_one_table_is_named_with_its_bytes(tolbooth, exported, table, text_file):
    result = tolbooth("eval", exported, "--text", text_file, "--table", table, "--json").json
    assert ("bf16", 2) == (result["encoding"], result["layers"])


# --auto


def test_auto_keeps_to_its_target(tolbooth, exported, table, tmp_path, text_file):
    whole = tolbooth("compress-tol", table, "--out", tmp_path / "int8", "--encoding", "int8", "--json").json
    command = ("compress-tol", table, "--out", tmp_path / "auto", "--auto", "--target-bytes", 165_000)
    result = tolbooth(*command, "--text", text_file, "--model", exported, "--json").json
    assert result["bytes"] <= 165_000
    assert result["fingerprint"] == whole["fingerprint"]
    assert result["auto"]["perplexity_before"] > 1
    assert {"0", "1"} == result["auto"]["costs"].keys()
    assert 0 == tolbooth("verify-tol", tmp_path / "auto").code


def test_auto_exports_too(tolbooth, exported, tmp_path, text_file):
    command = ("export-tol", exported, "--out", tmp_path / "auto", "--auto", "--target-bytes", 165_000)
    out = tolbooth(*command, "--text", text_file).out
    assert "sample" in out
    assert all(LayerEncoding.parse(kind) for kind in kinds(tmp_path / "auto").values())


# The report


def test_the_report_is_written_and_printed(tolbooth, exported, tmp_path, text_file):
    pytest.importorskip("matplotlib")
    command = ("compress-report", exported, "--text", text_file, "--out", tmp_path / "report")
    printed = tolbooth(*command, "--json").json
    assert printed == json.loads((tmp_path / "report" / "report.json").read_text())
    assert "perplexity" in tolbooth(*command).out


# What goes wrong


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing would change"),
        (["--encoding", "int5"], "int5"),
        (["--encoding", "low-rank"], "needs a rank"),
        (["--encoding", "low-rank", "--rank", 33], "rank 33 does not fit layers of 32 values; give 1 to 32"),
        (["--encoding", "int8", "--rank", 0], "rank 0 does not fit"),
        (["--encoding", "int4", "--group-size", 64], "the group size 64 does not divide hidden_size of 32"),
        (["--encoding", "int4", "--group-size", 31], "the group size 31 is none of 32, 64, 128"),
        (["--encoding", "int8", "--group-size", 32], "int8 takes no group size"),
        (["--rank", 8], "no encoding; say --encoding too"),
        (["--layer-encoding", "2=int8"], "--layer-encoding names layer 2; there are the layers 0, 1"),
        (["--layer-encoding", "0:int8"], "give LAYERS=ENCODING"),
        (["--layer-encoding", "0=int9"], "is no encoding; give one of"),
        (["--layer-encoding", "0=int8,0-1=int4"], "names layer 0 twice"),
        (["--layer-encoding", "0=int8", "--drop-layers", "0"], "layer 0, which is left out"),
        (["--drop-layers", "7"], "--drop-layers names layer 7"),
        (["--drop-layers", "0-1"], "no layer would be left"),
        (["--drop-layers", "1-0"], "give layers such as 0-3,7"),
        (["--keep-layers", "first"], "give layers such as 0-3,7"),
        (["--auto"], "--auto needs --target-bytes and --text"),
        (["--target-bytes", 5], "go with --auto alone"),
        (["--encoding", "int8", "--model", "demo"], "goes with --auto alone"),
    ],
)
def test_options_that_do_not_fit_are_a_mistake(fails, table, tmp_path, options, message):
    assert message in fails("compress-tol", table, "--out", tmp_path / "a", *options)
    assert [] == [path.name for path in tmp_path.iterdir()]


def test_a_compressed_table_is_not_compressed_again(tolbooth, fails, table, tmp_path):
    tolbooth("compress-tol", table, "--out", tmp_path / "a", "--encoding", "int8")
    line = fails("compress-tol", tmp_path / "a", "--out", tmp_path / "b", "--encoding", "int4")
    assert "is compressed already (layer 0 is int8)" in line


def test_a_table_that_is_not_there_is_a_mistake(fails, tmp_path):
    assert "is no table" in fails("compress-tol", tmp_path, "--out", tmp_path / "a", "--encoding", "int8")


def auto(table, tmp_path, text_file, *options):
    return ("compress-tol", table, "--out", tmp_path / "a", "--auto", "--text", text_file, "--target-bytes", *options)


def test_an_impossible_target_names_the_least(fails, exported, table, tmp_path, text_file):
    line = fails(*auto(table, tmp_path, text_file, 5000, "--model", exported))
    assert "the target is 5000 bytes; the smallest table of 300 rows" in line


def test_auto_without_a_model_is_a_mistake(fails, table, tmp_path, text_file):
    assert "needs the table's --model" in fails(*auto(table, tmp_path, text_file, 10**6))


def test_auto_with_another_model_is_a_mistake(fails, dense_model, table, tmp_path, text_file):
    assert "is not that of" in fails(*auto(table, tmp_path, text_file, 10**6, "--model", dense_model))


def test_auto_with_an_encoding_is_a_mistake(fails, exported, table, tmp_path, text_file):
    options = (10**6, "--model", exported, "--encoding", "int8")
    assert "--auto chooses encodings itself" in fails(*auto(table, tmp_path, text_file, *options))


def test_a_mixed_table_of_a_demo_needs_a_place(fails, demo):
    assert "give --out" in fails("export-tol", "--drop-layers", "0")


def test_a_report_of_a_dense_model_is_a_mistake(fails, dense_model, tmp_path, text_file):
    pytest.importorskip("matplotlib")
    assert "dense" in fails("compress-report", dense_model, "--text", text_file, "--out", tmp_path / "report")
