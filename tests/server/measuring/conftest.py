"""A tiny model with a table, for measuring."""

import shutil

import pytest

from models.export import export_table
from server.engine.config import EngineConfig
from server.engine.model_tables import TABLE_DIRECTORY
from server.engine.starting import start_engine


@pytest.fixture(scope="session")
def model_with_table(stored_models, tmp_path_factory):
    directory = shutil.copytree(stored_models["memory"], tmp_path_factory.mktemp("measured") / "model")
    export_table(directory, directory / TABLE_DIRECTORY)
    return directory


@pytest.fixture
def start(model_with_table):
    """Starts engines that are closed in the end."""
    engines = []

    def start(model=model_with_table, **options):
        options = {"threads": 1, "device": "cpu", "max_num_seqs": 4, "enable_prefix_caching": False} | options
        engines.append(start_engine(EngineConfig(model=str(model), **options)))
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()
