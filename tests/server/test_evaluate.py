import pytest

from tests.server.conftest import TEXT

KEYS = {"model", "memory", "context_length", "tokens", "bytes", "perplexity", "bits_per_byte"}


def test_json_has_the_measures_and_what_they_are_of(tolbooth, memory_model, text_file):
    result = tolbooth("eval", memory_model, "--text", text_file, "--memory", "computed", "--json").json
    assert KEYS == result.keys()
    expected = (str(memory_model), "computed", 64, len(TEXT.encode()))
    assert expected == tuple(result[name] for name in ("model", "memory", "context_length", "bytes"))


def test_several_texts_count_together(tolbooth, dense_model, text_file):
    result = tolbooth("eval", dense_model, "--text", text_file, "--text", text_file, "--json").json
    assert 2 * len(TEXT.encode()) == result["bytes"]


@pytest.mark.parametrize("memory", ["resident", "mapped", "paged"])
def test_a_table_in_full_precision_measures_what_computing_does(tolbooth, memory_model, text_file, memory):
    tolbooth("export-tol", memory_model, "--encoding", "fp32")
    computed, read = (
        tolbooth("eval", memory_model, "--text", text_file, "--memory", source, "--json").json["bits_per_byte"]
        for source in ("computed", memory)
    )
    assert computed == pytest.approx(read, rel=1e-6)


def test_few_device_rows_measure_the_same(tolbooth, memory_model, text_file):
    tolbooth("export-tol", memory_model)
    command = ("eval", memory_model, "--text", text_file, "--context-length", 16, "--json", "--memory")
    mapped, paged = (
        tolbooth(*command, *memory).json["bits_per_byte"] for memory in (["mapped"], ["paged", "--device-rows", 16])
    )
    assert mapped == pytest.approx(paged, rel=1e-6)


def test_a_window_with_more_rows_than_the_device_is_a_mistake(tolbooth, fails, memory_model, text_file):
    tolbooth("export-tol", memory_model)
    line = fails("eval", memory_model, "--text", text_file, "--memory", "paged", "--device-rows", 3)
    assert "rows at once and 3 can be held" in line


def test_device_rows_without_a_paged_memory_are_a_mistake(fails, memory_model, text_file):
    assert "not paged" in fails("eval", memory_model, "--text", text_file, "--device-rows", 9)


def test_a_dense_model_has_no_memory(tolbooth, dense_model, text_file):
    assert tolbooth("eval", dense_model, "--text", text_file, "--json").json["memory"] is None


def test_a_shorter_context_is_used(tolbooth, dense_model, text_file):
    result = tolbooth("eval", dense_model, "--text", text_file, "--context-length", 16, "--json").json
    assert 16 == result["context_length"]


def test_a_context_beyond_the_models_is_a_mistake(fails, dense_model, text_file):
    assert "context is 64" in fails("eval", dense_model, "--text", text_file, "--context-length", 65)


def test_a_missing_text_is_a_mistake(fails, dense_model, tmp_path):
    assert "cannot read the text" in fails("eval", dense_model, "--text", tmp_path / "none.txt")


def test_a_model_without_tokenizer_is_a_mistake(fails, dense_model, text_file):
    (dense_model / "tokenizer.json").unlink()
    assert "no tokenizer.json" in fails("eval", dense_model, "--text", text_file)


def test_16_bits_measure_nearly_the_same(tolbooth, dense_model, text_file):
    full, half = (
        tolbooth("eval", dense_model, "--text", text_file, "--dtype", dtype, "--json").json["bits_per_byte"]
        for dtype in ("fp32", "bf16")
    )
    assert full == pytest.approx(half, rel=1e-2)


def test_people_get_the_same_numbers(tolbooth, dense_model, text_file):
    result = tolbooth("eval", dense_model, "--text", text_file, "--json").json
    lines = tolbooth("eval", dense_model, "--text", text_file).out.splitlines()
    assert f"bits per byte  {result['bits_per_byte']:.4f}" == lines[-1]
