import sys

import pytest

from models.errors import CheckpointError
from server.hub import find_model


@pytest.fixture
def _no_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)


@pytest.fixture
def hub(monkeypatch):
    """Replaces the download."""
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def arrange(answer):
        def snapshot_download(repo_id, **options):
            arrange.asked = (repo_id, options)
            if isinstance(answer, Exception):
                raise answer
            return str(answer)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)

    return arrange


def test_a_directory_goes_before_the_hub(dense_model, monkeypatch):
    monkeypatch.chdir(dense_model.parent.parent)
    name = f"{dense_model.parent.name}/{dense_model.name}"
    assert dense_model.resolve() == find_model(name).resolve()


@pytest.mark.usefixtures("_no_hub")
def test_without_the_extra_the_error_says_how_to_get_it():
    with pytest.raises(CheckpointError, match=r"pip install tolbooth\[hub\]"):
        find_model("org/name")


@pytest.mark.parametrize("name", ["name", "a/b/c", "/org/name", "../name", "org/", "org name/x"])
def test_what_is_no_id_is_not_looked_for_in_the_hub(hub, name):
    hub(AssertionError())
    with pytest.raises(CheckpointError, match="no model at"):
        find_model(name)


def test_a_model_of_the_hub_is_downloaded_without_pickles(hub, dense_model):
    hub(dense_model)
    assert dense_model == find_model("org/name")
    repo_id, options = hub.asked
    assert ("org/name", False) == (repo_id, any("bin" in pattern for pattern in options["allow_patterns"]))


def test_without_a_network_the_error_says_so(monkeypatch, tmp_path):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="the Hugging Face hub cannot be reached"):
        find_model("org/name")


def test_other_failures_are_one_error(hub):
    hub(OSError("disk full"))
    with pytest.raises(CheckpointError, match=r"cannot download org/name .*disk full"):
        find_model("org/name")
