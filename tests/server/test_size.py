import errno
import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from paging.frequencies import load_counts
from paging.simulation import CurvePoint
from server.cli import size_ids
from server.cli.size_plot import percent, plot_lines
from tests.server.conftest import TEXT


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "ids.npy"
    np.save(path, np.random.default_rng(0).zipf(1.3, size=2000) % 300)
    return path


def test_json_has_the_curve_in_the_order_asked_for(tolbooth, trace):
    result = tolbooth("size", "--trace", trace, "--vocab-size", 300, "--fractions", "0.2,0.05", "--json").json
    assert {"vocab_size", "tokens", "curve"} == result.keys()
    assert (300, 2000) == (result["vocab_size"], result["tokens"])
    assert [(0.2, 60), (0.05, 15)] == [(point["fraction"], point["rows"]) for point in result["curve"]]
    assert {"fraction", "rows", "hit_rate", "lru", "optimal"} == result["curve"][0].keys()


def test_five_sizes_are_the_default(tolbooth, trace):
    curve = tolbooth("size", "--trace", trace, "--vocab-size", 300, "--json").json["curve"]
    assert [0.01, 0.02, 0.05, 0.1, 0.2] == [point["fraction"] for point in curve]


def test_text_is_encoded_with_the_models_tokenizer(tolbooth, memory_model, text_file, tokenizer):
    result = tolbooth("size", memory_model, "--text", text_file, "--json").json
    assert tokenizer.get_vocab_size() == result["vocab_size"]
    assert len(tokenizer.encode(TEXT).ids) + 1 == result["tokens"]


def test_the_demo_is_meant_where_a_text_has_no_model(tolbooth, demo, memory_model, text_file):
    named = tolbooth("size", memory_model, "--text", text_file, "--json").out
    assert named == tolbooth("size", "--text", text_file, "--json").out


def test_several_texts_are_replayed_one_after_the_other(tolbooth, memory_model, text_file):
    once, twice = (
        tolbooth("size", memory_model, *files, "--json").json["tokens"]
        for files in (["--text", text_file], ["--text", text_file, "--text", text_file])
    )
    assert 2 * once == twice


def test_a_trace_with_a_model_takes_its_vocabulary(tolbooth, memory_model, tmp_path, tokenizer):
    np.save(tmp_path / "ids.npy", np.arange(20))
    result = tolbooth("size", memory_model, "--trace", tmp_path / "ids.npy", "--json").json
    assert tokenizer.get_vocab_size() == result["vocab_size"]


def test_a_seed_spares_first_uses(tolbooth, tmp_path):
    np.save(tmp_path / "ids.npy", np.arange(10))
    np.save(tmp_path / "seed.npy", np.arange(5))
    arguments = ("size", "--trace", tmp_path / "ids.npy", "--vocab-size", 100, "--fractions", "0.1", "--json")
    seeds = ("--seed-trace", tmp_path / "seed.npy", "--seed-trace", tmp_path / "seed.npy")
    assert 0 == tolbooth(*arguments).json["curve"][0]["hit_rate"]
    assert 0.5 == tolbooth(*arguments, *seeds).json["curve"][0]["hit_rate"]


def test_frequencies_can_be_kept(tolbooth, trace, tmp_path):
    tolbooth("size", "--trace", trace, "--vocab-size", 300, "--save-frequencies", tmp_path / "counts.safetensors")
    expected = np.bincount(np.load(trace), minlength=300)
    assert expected.tolist() == load_counts(tmp_path / "counts.safetensors").tolist()


def test_people_get_rows_bytes_and_rates(tolbooth, memory_model, text_file):
    point = tolbooth("size", memory_model, "--text", text_file, "--fractions", "0.5", "--json").json["curve"][0]
    lines = tolbooth("size", memory_model, "--text", text_file, "--fractions", "0.5").out.splitlines()
    (row,) = (line.split() for line in lines if line.split()[:2] == ["50", "%"] and "#" not in line)
    rates = [f"{point[name]:.4f}" for name in ("hit_rate", "lru", "optimal")]
    num_bytes = point["rows"] * 2 * 32 * 2 / 1000  # 2 layers of 32 values in 16 bits
    assert ["50", "%", str(point["rows"]), f"{num_bytes:.2f}", "kB", *rates] == row


def test_bytes_are_those_of_the_models_table(tolbooth, memory_model, text_file):
    before = tolbooth("size", memory_model, "--text", text_file).out
    tolbooth("export-tol", memory_model, "--encoding", "fp32")
    assert before != tolbooth("size", memory_model, "--text", text_file).out


def test_a_trace_alone_has_no_bytes(tolbooth, trace):
    lines = tolbooth("size", "--trace", trace, "--vocab-size", 300, "--fractions", "0.1").out.splitlines()
    assert any(line.split()[:4] == ["10", "%", "30", "-"] for line in lines)


def test_a_picture_is_drawn(tolbooth, trace, tmp_path):
    pytest.importorskip("matplotlib")
    outcome = tolbooth("size", "--trace", trace, "--vocab-size", 300, "--png", tmp_path / "curve.png")
    assert 0 == outcome.code
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_without_matplotlib_is_a_mistake(fails, trace, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    line = fails("size", "--trace", trace, "--vocab-size", 300, "--png", tmp_path / "curve.png")
    assert "--png needs matplotlib" in line


def test_a_picture_that_cannot_be_written_is_a_mistake(fails, trace, tmp_path):
    pytest.importorskip("matplotlib")
    line = fails("size", "--trace", trace, "--vocab-size", 300, "--png", tmp_path / "missing" / "curve.png")
    assert "cannot write the picture" in line


@pytest.mark.parametrize("fractions", ["", "0", "1.5", "-0.1", "nan", "inf", "a", "0.1,,0.2"])
def test_sizes_that_are_no_fractions_are_a_mistake(fails, trace, fractions):
    assert "--fractions is" in fails("size", "--trace", trace, "--vocab-size", 300, "--fractions", fractions)


def test_nothing_to_replay_is_a_mistake(fails):
    assert "either --text or --trace" in fails("size", "--vocab-size", 300)


def test_text_and_trace_together_are_a_mistake(fails, trace, text_file):
    assert "either --text or --trace" in fails("size", "--trace", trace, "--text", text_file)


def test_a_trace_without_vocabulary_is_a_mistake(fails, trace):
    assert "give --vocab-size" in fails("size", "--trace", trace)


def test_another_vocabulary_than_the_models_is_a_mistake(fails, memory_model, trace):
    assert "leave it out" in fails("size", memory_model, "--trace", trace, "--vocab-size", 7)


def test_ids_outside_the_vocabulary_are_a_mistake(fails, trace):
    assert "outside the vocabulary of 20" in fails("size", "--trace", trace, "--vocab-size", 20)


def test_a_seed_outside_the_vocabulary_is_a_mistake(fails, tmp_path, trace):
    np.save(tmp_path / "seed.npy", np.array([300]))
    line = fails("size", "--trace", trace, "--vocab-size", 300, "--seed-trace", tmp_path / "seed.npy")
    assert "seed.npy has id 300" in line


def test_a_trace_that_is_too_long_is_a_mistake(fails, trace, monkeypatch):
    monkeypatch.setattr(size_ids, "MAX_TOKENS", 1999)
    assert "at most 1,999 are replayed" in fails("size", "--trace", trace, "--vocab-size", 300)


def test_a_text_that_is_too_long_is_a_mistake(fails, memory_model, text_file, monkeypatch):
    monkeypatch.setattr(size_ids, "MAX_TOKENS", 100)
    assert "more than 100 tokens" in fails("size", memory_model, "--text", text_file)


def test_a_full_disk_is_a_mistake(fails, trace, tmp_path, monkeypatch):
    def fail(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", fail)
    line = fails("size", "--trace", trace, "--vocab-size", 300, "--save-frequencies", tmp_path / "counts")
    assert "No space left" in line


def test_a_trace_needs_no_torch(trace):
    code = (
        "import sys; from server.cli.app import main; "
        f"main(['size', '--trace', {str(trace)!r}, '--vocab-size', '300', '--json']); sys.exit('torch' in sys.modules)"
    )
    assert 0 == subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode


def test_the_plot_marks_rates_along_one_axis():
    points = [
        CurvePoint(fraction=0.05, rows=5, hit_rate=0.75, lru=0.5, optimal=1.0),
        CurvePoint(fraction=0.1, rows=10, hit_rate=1.0, lru=1.0, optimal=1.0),
    ]
    first, second, axis, _ = plot_lines(points)
    assert [6, 6 + 55] == [first.index("L"), first.index("|")]
    assert "#" == second.strip()[-1]
    assert second.index("#") == first.index("|")
    assert ["0.500", "1.000"] == axis.split()


def test_a_plot_of_equal_rates_is_drawn():
    points = [CurvePoint(fraction=1.0, rows=1, hit_rate=0.0, lru=0.0, optimal=0.0)]
    assert "#" in plot_lines(points)[0]


def test_fractions_are_written_without_needless_digits():
    assert ["10 %", "0.5 %", "29 %"] == [percent(value) for value in (0.1, 0.005, 0.29)]
