import dataclasses

import pytest
import typer
from typer.testing import CliRunner

from models.recipe import Cadence, TrainingConfig
from server.cli.architecture import Sizes
from server.cli.fields import field_texts, with_fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Some."""

    num_items: int
    """How many."""
    share: float = 0.5
    """What part of them."""
    compile: bool = False
    """Whether to."""


@pytest.fixture
def run():
    seen = {}

    @with_fields(settings=Settings)
    def command(*, name: str = "x", settings: dict) -> None:
        seen.update(name=name, settings=settings)

    app = typer.Typer()
    app.command()(command)

    def invoke(*arguments):
        result = CliRunner().invoke(app, arguments)
        return result, seen

    return invoke


def test_the_command_gets_the_fields_that_were_given(run):
    _, seen = run("--name", "y", "--num-items", "3", "--compile")
    assert {"name": "y", "settings": {"num_items": 3, "compile": True}} == seen


def test_a_switch_can_be_given_as_off(run):
    _, seen = run("--no-compile")
    assert {"compile": False} == seen["settings"]


def test_values_are_checked_by_the_fields_type(run):
    result, _ = run("--share", "much")
    assert 2 == result.exit_code


def test_help_has_the_fields_text_and_default(run):
    result, _ = run("--help")
    assert "What part of them. Default: 0.5." in " ".join(result.output.replace("│", " ").split())


@pytest.mark.parametrize("owner", [TrainingConfig, Cadence, Sizes])
def test_every_field_of_our_classes_has_a_text(owner):
    assert {field.name for field in dataclasses.fields(owner)} == field_texts(owner).keys()
