"""The presets are the paper's models."""

import pytest

from models.errors import ConfigError
from models.presets import PRESETS, preset

# Parameters in millions without embeddings, truncated: dense, then active of memoryllm, flex1, flex2, flex3.
PAPER = {"250m": (265, 88, 110, 132, 154), "750m": (737, 245, 307, 368, 430), "1b": (1208, 402, 503, 604, 704)}
VARIANTS = ("dense", "memoryllm", "flex1", "flex2", "flex3")
ACTIVE = {f"{scale}-{name}": n for scale, row in PAPER.items() for name, n in zip(VARIANTS, row, strict=True)}


def test_presets_are_every_scale_in_every_variant():
    assert list(PRESETS) == list(ACTIVE)


@pytest.mark.parametrize("name", ACTIVE)
def test_active_parameters_agree_with_the_paper(name):
    assert abs(PRESETS[name].active_params - ACTIVE[name] * 1_000_000) <= 1_500_000


@pytest.mark.parametrize("name", ACTIVE)
def test_total_parameters_agree_with_the_paper(name):
    assert abs(PRESETS[name].total_params - PAPER[name.split("-")[0]][0] * 1_000_000) <= 1_500_000


@pytest.mark.parametrize("name", ACTIVE)
def test_counts_are_those_of_the_tensors(name):
    from models.checkpoint import expected_tensors
    from models.fingerprint import EMBEDDING, is_memory

    config = PRESETS[name]
    sizes = {}
    for tensor, shape in expected_tensors(config).items():
        sizes[tensor] = shape[0] * (shape[1] if len(shape) == 2 else 1)
    del sizes[EMBEDDING]
    assert config.total_params == sum(sizes.values())
    assert config.active_params == sum(size for tensor, size in sizes.items() if not is_memory(tensor))


@pytest.mark.parametrize("variant", VARIANTS[1:])
def test_the_1b_table_takes_the_papers_bytes(variant):
    assert PRESETS[f"1b-{variant}"].tol_bytes == 12_608_077_824


def test_a_dense_preset_has_no_table():
    assert PRESETS["1b-dense"].tol_bytes == 0


@pytest.mark.parametrize(("name", "millions"), [("1b-flex1", 4.194), ("1b-flex2", 8.388), ("1b-flex3", 12.582)])
def test_the_context_part_has_the_papers_parameters_per_layer(name, millions):
    config = PRESETS[name]
    assert 3 * config.hidden_size * config.context_size == pytest.approx(millions * 1e6, rel=0.005)


def test_an_unknown_preset_is_refused_with_the_names_there_are():
    with pytest.raises(ConfigError, match=r"there are 250m-dense, .*1b-flex3"):
        preset("2b-dense")
