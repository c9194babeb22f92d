"""Options that are lists of numbers, from every place where options come from."""

import pytest

from models.errors import ConfigError
from server.settings import resolve_settings


def resolve(*, flags=None, environment=None, file=None):
    return resolve_settings(flags=flags or {}, environment=environment or {}, file=file, default_model="demo").engine


def test_flags_are_lists_of_numbers():
    engine = resolve(flags={"tol_alpha": [0.5, 1.0], "tol_drop_layers": [3], "pack": ["a=x", "b=y"]})
    assert ((0.5, 1.0), (3,), ("a=x", "b=y")) == (engine.tol_alpha, engine.tol_drop_layers, engine.pack)


def test_the_environment_separates_by_commas():
    engine = resolve(environment={"TOLBOOTH_TOL_ALPHA": "0.5, 1", "TOLBOOTH_TOL_DROP_LAYERS": "3,5"})
    assert ((0.5, 1.0), (3, 5)) == (engine.tol_alpha, engine.tol_drop_layers)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("tol-alpha: 0.5", (0.5,)), ("tol_alpha: [0.5, 1]", (0.5, 1.0)), ('tol_alpha: "0.5"', (0.5,))],
)
def test_a_file_has_one_or_several(tmp_path, text, expected):
    (tmp_path / "config.yaml").write_text(text)
    assert expected == resolve(file=tmp_path / "config.yaml").tol_alpha


@pytest.mark.parametrize("environment", [{"TOLBOOTH_TOL_ALPHA": "half"}, {"TOLBOOTH_TOL_DROP_LAYERS": "1.5"}])
def test_what_is_no_number_is_a_mistake(environment):
    with pytest.raises(ConfigError, match="TOLBOOTH_TOL"):
        resolve(environment=environment)


def test_a_serving_command_takes_them_more_than_once(fails):
    assert "two packs are called a" in fails("serve", "--pack", "a=x", "--pack", "a=y")
    assert "it must be NAME=DIR" in fails("serve", "--pack", "a")
