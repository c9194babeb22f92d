import shutil
from pathlib import Path

import numpy as np
import pytest

from models.config import ModelConfig
from server.cli import bench_engine, bench_paging
from server.measuring import floor

QUICK = ("--threads", 1, "--repetitions", 1, "--context", 8, "--tokens", 4)


@pytest.fixture(autouse=True)
def _no_long_measurement(monkeypatch):
    monkeypatch.setattr(floor, "read_bandwidth", lambda _: 1e9)
    monkeypatch.setattr(bench_engine, "_WARM_IDS", 200)
    monkeypatch.setattr(bench_paging, "_LEASES", 50)


@pytest.fixture
def table(model_with_table):
    return model_with_table / "table"


def engine_figures(tolbooth, *arguments):
    result = tolbooth("bench", "engine", *arguments, *QUICK, "--json")
    assert 0 == result.code, result.err
    return result.json


def test_streams_and_prompts_are_measured(tolbooth, model_with_table):
    result = engine_figures(tolbooth, model_with_table, "--streams", "1,3", "--prefill", "16")
    tests = [(figure["test"], figure["streams"], figure["arm"]) for figure in result["figures"]]
    assert [("tg4", 1, "paged"), ("tg4", 3, "paged"), ("pp16", 1, "paged")] == tests
    assert all(figure["tokens_per_second"]["median"] > 0 for figure in result["figures"])


def test_beside_each_figure_stands_what_it_depends_on(tolbooth, model_with_table):
    result = engine_figures(tolbooth, model_with_table, "--streams", "2", "--prefill", "none")
    (figure,) = result["figures"]
    assert 0 <= figure["miss_rate"] <= 1
    assert figure["floor_share"] > 0
    assert 8 < figure["context"] < 16
    assert "every id as likely as any other" in result["ids"]
    assert "host tier" in result["paged"]


def test_other_memories_take_turns_with_it(tolbooth, model_with_table):
    options = ("--streams", "1", "--prefill", "8", "--tol-device-rows", 20)
    result = engine_figures(tolbooth, model_with_table, *options, "--compare", "resident", "--compare", "computed")
    arms = [figure["arm"] for figure in result["figures"]]
    assert ["paged", "resident", "computed"] * 2 == arms
    assert [None, None] == [figure["miss_rate"] for figure in result["figures"][1:3]]
    assert 1.0 == result["figures"][0]["ratio"]["median"]


def test_a_text_is_read_where_one_is_given(tolbooth, model_with_table, text_file):
    result = engine_figures(tolbooth, model_with_table, "--streams", "1", "--prefill", "none", "--text", text_file)
    assert str(text_file) in result["ids"]


def test_a_dense_model_is_measured_too(tolbooth, dense_model):
    result = engine_figures(tolbooth, dense_model, "--streams", "1", "--prefill", "none")
    assert [("dense", None)] == [(figure["arm"], figure["miss_rate"]) for figure in result["figures"]]


def test_people_read_a_table(tolbooth, model_with_table):
    out = tolbooth("bench", "engine", model_with_table, *QUICK, "--streams", "2", "--prefill", "8").out
    assert "tg4, 2 at once" in out
    assert "miss rate" in out
    assert "one run each" in out


def test_a_prompt_that_no_context_holds_is_not_the_default(tolbooth, model_with_table):
    result = engine_figures(tolbooth, model_with_table, "--streams", "none")
    assert ["pp63"] == [figure["test"] for figure in result["figures"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--streams", "0"], "--streams is '0'; give different whole numbers from 1 to 1,024"),
        (["--streams", "2,2"], "--streams is '2,2'"),
        (["--streams", "many"], "--streams is 'many'"),
        (["--streams", "none", "--prefill", "none"], "nothing is to be measured"),
        (["--context", 60, "--tokens", 8], "--context 60 and --tokens 8 are longer than the model's 64"),
        (["--prefill", "64"], "--prefill has 64; the model takes 64 tokens"),
        (["--streams", "8", "--max-num-seqs", 4], "--streams has 8, --max-num-seqs 4"),
        (["--compare", "paged"], "paged is measured once"),
        (["--text", "a.txt", "--trace", "b.npy"], "there are two texts"),
        (["--trace", "b.npy"], "cannot read the trace b.npy"),
        (["--memory", "resident", "--tol-device-rows", 9], "the memory is resident, not paged"),
        (["--repetitions", 0], "--repetitions"),
    ],
)
def test_mistakes_of_bench_engine_are_one_line(fails, model_with_table, options, message):
    arguments = (model_with_table, "--streams", "1", "--context", 8, "--tokens", 4, "--prefill", "none")
    assert message in fails("bench", "engine", *arguments, *options)


def test_a_dense_model_is_compared_with_no_other_memory(fails, dense_model):
    options = ("--streams", "1", "--context", 8, "--tokens", 4, "--prefill", "none", "--compare", "resident")
    assert "a dense model has no memory" in fails("bench", "engine", dense_model, *options)


def test_storages_and_leases_are_measured(tolbooth, table):
    result = tolbooth("bench", "paging", table, "--rows", 50, "--repetitions", 2, "--json").json
    assert {"direct", "mapped"} == result["cold_reads"].keys() | result["storages_refused"].keys()
    assert all(read["rows_per_second"]["median"] > 0 for read in result["cold_reads"].values())
    assert (64, []) == (result["lease"]["keys"], result["curve"])
    assert 0 < result["lease"]["median_us"] <= result["lease"]["p99_us"]


def test_a_trace_is_replayed(tolbooth, table, tmp_path):
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).integers(0, 200, 500))
    options = ("--trace", tmp_path / "ids.npy", "--fractions", "0.1,0.5", "--repetitions", 1)
    curve = tolbooth("bench", "paging", table, *options, "--json").json["curve"]
    assert [0.1, 0.5] == [point["fraction"] for point in curve]
    assert "optimum" in tolbooth("bench", "paging", table, *options).out


def test_a_table_has_no_more_rows_than_it_has(tolbooth, table, model_with_table):
    result = tolbooth("bench", "paging", table, "--rows", 60_000, "--repetitions", 1, "--json").json
    assert ModelConfig.load(model_with_table).vocab_size == result["rows_of_a_read"]


def test_a_storage_that_does_not_work_there_is_named(tolbooth, table):
    memory = Path("/dev/shm")  # noqa: S108 a file system without direct reads
    if not memory.is_dir():
        pytest.skip("there is no file system in memory")
    copy = shutil.copytree(table, memory / f"tolbooth-{table.parent.parent.name}")
    try:
        result = tolbooth("bench", "paging", copy, "--rows", 10, "--repetitions", 1, "--json").json
    finally:
        shutil.rmtree(copy)
    assert "mapped" in result["cold_reads"]
    assert {"direct"} == result["storages_refused"].keys() | (result["cold_reads"].keys() - {"mapped"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rows", 0], "--rows"),
        (["--fractions", "2"], "--fractions is '2'"),
        (["--trace", "nowhere.npy"], "cannot read the trace nowhere.npy"),
    ],
)
def test_mistakes_of_bench_paging_are_one_line(fails, table, options, message):
    assert message in fails("bench", "paging", table, "--repetitions", 1, *options)


def test_a_directory_that_is_no_table_is_a_mistake(fails, tmp_path):
    assert "manifest" in fails("bench", "paging", tmp_path)


def test_computing_rows_is_measured_and_leaves_nothing(tolbooth, memory_model):
    before = sorted(memory_model.rglob("*"))
    options = ("--encoding", "int8", "--encoding", "bf16", "--repetitions", 2, "--json")
    result = tolbooth("bench", "export", memory_model, *options).json
    assert ["int8", "bf16"] == list(result["encodings"])
    assert result["vocab_size"] == result["rows"]
    assert before == sorted(memory_model.rglob("*"))


def test_the_whole_vocabulary_is_called_an_estimate(tolbooth, memory_model):
    out = tolbooth("bench", "export", memory_model, "--repetitions", 1).out
    assert "estimate for all ids" in out
    assert "GFLOP/s" in out


def test_a_dense_model_has_nothing_to_export(fails, dense_model):
    assert "no memory to export" in fails("bench", "export", dense_model)
