"""Servers over a tiny model with a table, and streams of theirs."""

import contextlib
import itertools
import shutil

import pytest

from models.export import export_table
from tests.server.serving.server_process import ServerProcess
from tests.server.serving.streams import Stream


@pytest.fixture(scope="session")
def exported_model(stored_models, tmp_path_factory):
    directory = shutil.copytree(stored_models["memory"], tmp_path_factory.mktemp("serving") / "memory")
    export_table(directory, directory / "table")
    return directory


@pytest.fixture(scope="module")
def start(exported_model, tmp_path_factory):
    """Starts servers that end with the module; none of them may ever print a traceback."""
    folder, numbers, servers = tmp_path_factory.mktemp("servers"), itertools.count(), []

    def start_server(*arguments, model=exported_model, faulty=False):
        server = ServerProcess(folder / str(next(numbers)), model, *arguments, faulty=faulty)
        servers.append(server)
        return server

    yield start_server
    with contextlib.ExitStack() as stack:
        for server in servers:
            stack.callback(server.close)
    assert [] == [server.output for server in servers if "Traceback" in server.output]


@pytest.fixture
def open_stream():
    """Opens streams; they are closed at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda server, **body: stack.enter_context(contextlib.closing(Stream(server, **body)))
