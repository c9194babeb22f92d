import socket
import ssl
from pathlib import Path

import httpx
import pytest

from server.config import ServerConfig
from server.engine.config import EngineConfig
from server.http.listening import ListenError, base_url, check_certificate, close_socket, open_socket
from tests.server.http.test_serving import serve  # noqa: F401 a fixture

CERTIFICATE = Path(__file__).parent / "localhost.pem"
"""A certificate for 127.0.0.1 and its key, made for these tests and known to everybody."""


def config_of(**options):
    return ServerConfig(engine=EngineConfig(model="toy"), **options)


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_free_port_is_told(monkeypatch):
    config = config_of(port=0, root_path="/llm")
    listener = open_socket(config)
    assert f"http://127.0.0.1:{listener.getsockname()[1]}/llm" == base_url(config, listener)
    close_socket(config, listener)


def test_a_port_in_use_is_named(taken):
    with pytest.raises(ListenError, match=f"cannot listen at 127.0.0.1:{taken}: .*in use"):
        open_socket(config_of(port=taken))


@pytest.mark.parametrize("host", ["no.such.host.invalid", "8.8.8.8"])
def test_an_address_of_others_is_named(host):
    with pytest.raises(ListenError, match=f"cannot listen at {host}:0"):
        open_socket(config_of(host=host, port=0))


def test_a_unix_socket_is_removed_in_the_end(tmp_path):
    config = config_of(uds=str(tmp_path / "s"))
    close_socket(config, open_socket(config))
    assert [] == list(tmp_path.iterdir())


def test_a_unix_socket_that_nobody_listens_at_is_replaced(tmp_path):
    config = config_of(uds=str(tmp_path / "s"))
    open_socket(config).close()
    close_socket(config, open_socket(config))


def test_a_unix_socket_in_use_stays(tmp_path):
    config = config_of(uds=str(tmp_path / "s"))
    first = open_socket(config)
    with pytest.raises(ListenError, match="in use"):
        open_socket(config)
    close_socket(config, first)


def test_a_file_is_never_replaced_by_a_socket(tmp_path):
    (tmp_path / "s").write_text("mine")
    with pytest.raises(ListenError):
        open_socket(config_of(uds=str(tmp_path / "s")))
    assert "mine" == (tmp_path / "s").read_text()


@pytest.mark.parametrize("content", [None, "nonsense"])
def test_a_certificate_that_cannot_be_used_is_named(tmp_path, content):
    path = tmp_path / "c.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ListenError, match=str(path)):
        check_certificate(config_of(ssl_certfile=str(path)))


@pytest.mark.anyio
async def test_it_serves_https(serve):  # noqa: F811 a fixture
    running = await serve(ssl_certfile=str(CERTIFICATE))
    check_certificate(config_of(ssl_certfile=str(CERTIFICATE)))
    async with httpx.AsyncClient(verify=ssl.create_default_context(cafile=CERTIFICATE)) as client:
        assert 200 == (await client.get(f"{running.url}/health")).status_code
    assert running.url.startswith("https://")
