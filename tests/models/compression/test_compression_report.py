"""The report of what compression costs: its figures, and its files."""

import json

import pytest

from models.errors import ConfigError
from tests.models.compression.compression_samples import sample

report = pytest.importorskip("models.compression.report", reason="matplotlib is not installed")


@pytest.fixture(scope="module")
def measured():
    made = sample(num_tokens=120)
    return report.measure(made.sample, made.spectra, model="tiny", text="words")


def test_widths_and_ranks_are_measured(measured):
    assert ["bf16", "int8", "int4/32", "int4/64"] == [cost.encoding for cost in measured.widths]
    assert [48, 32, 25, 19, 12, 6] == [cost.rank for cost in measured.ranks]
    assert sorted((cost.row_bytes for cost in measured.ranks), reverse=True) == [
        cost.row_bytes for cost in measured.ranks
    ]


def test_singular_values_are_shares_of_the_first(measured):
    for values in measured.singular_values.values():
        assert (1.0, 64) == (values[0], len(values))
        assert sorted(values, reverse=True) == list(values)


def test_the_report_is_text_pictures_and_json(measured, tmp_path):
    report.write(measured, tmp_path / "out")
    assert {"report.md", "report.json", "bits.png", "ranks.png", "spectra.png"} == {
        path.name for path in (tmp_path / "out").iterdir()
    }
    text = (tmp_path / "out" / "report.md").read_text()
    assert all(f"| {cost.encoding} | {cost.row_bytes}" in text for cost in measured.widths + measured.ranks)
    assert "tiny" == json.loads((tmp_path / "out" / "report.json").read_text())["model"]


def test_a_report_that_cannot_be_written_is_a_mistake(measured, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write the report"):
        report.write(measured, tmp_path / "file")
