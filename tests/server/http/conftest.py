"""The application over an engine that says what it is told to, and clients of it."""

import contextlib
import json
import shutil

import httpx
import httpx2
import openai
import pytest

from server.config import ServerConfig
from server.engine.config import EngineConfig
from server.http.app import create_app
from server.http.lifecycle import Lifecycle
from server.http.served_model import ServedModel
from server.http.service import Service
from tests.server.http.fake_engine import FakeEngine

TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture(scope="session")
def chat_model(stored_models, tmp_path_factory):
    directory = shutil.copytree(stored_models["dense"], tmp_path_factory.mktemp("chat") / "toy")
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return directory


def load_model(directory, names=("toy", "alias")):
    return ServedModel.load(directory, names=names, max_model_len=None, max_prompt_bytes=10_000, created=1_700_000_000)


class Log(list):
    """The lines of the log."""

    def write(self, line):
        self.append(line)


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def lifecycle():
    return Lifecycle(max_open=100)


@pytest.fixture
def make_app(engine, chat_model, lifecycle, log):
    """Makes an application with some options other than the default."""

    def make(directory=chat_model, **options):
        config = ServerConfig(engine=EngineConfig(model=str(directory)), **options)
        service = Service(config=config, model=load_model(directory), engine=engine, lifecycle=lifecycle)
        return create_app(service, write_log=log.write)

    return make


@pytest.fixture
async def connect(make_app):
    """Makes clients of applications with some options other than the default."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(directory=None, **options):
            app = make_app(**options) if directory is None else make_app(directory, **options)
            transport = httpx.ASGITransport(app)
            return await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://toy"))

        yield make


@pytest.fixture
async def client(connect):
    return await connect()


@pytest.fixture
async def official(make_app):
    """The official client, unmodified."""
    transport = httpx2.ASGITransport(make_app())
    async with httpx2.AsyncClient(transport=transport) as http:
        yield openai.AsyncOpenAI(base_url="http://toy/v1", api_key="any", http_client=http, max_retries=0)


@pytest.fixture
async def complete(client):
    """Asks for a completion that is served; returns the answer."""

    async def ask(prompt="Once upon", **fields):
        response = await client.post("/v1/completions", json={"prompt": prompt, **fields})
        assert 200 == response.status_code, response.text
        return response.json()

    return ask


@pytest.fixture
async def chat(client):
    """Asks for a chat completion that is served; returns the answer."""

    async def ask(text="Once upon", **fields):
        body = {"messages": [{"role": "user", "content": text}], **fields}
        response = await client.post("/v1/chat/completions", json=body)
        assert 200 == response.status_code, response.text
        return response.json()

    return ask


def frames_of(response):
    """Return the frames of a stream, decoded, without the last."""
    *frames, last, nothing = response.text.split("\n\n")
    assert ("data: [DONE]", "") == (last, nothing)
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


@pytest.fixture
async def stream(client):
    """Asks for a stream; returns its frames."""

    async def ask(path="/v1/completions", **fields):
        wanted = (
            {"prompt": "Once upon"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "x"}]}
        )
        response = await client.post(path, json={**wanted, "stream": True, **fields})
        assert 200 == response.status_code, response.text
        return frames_of(response)

    return ask


@pytest.fixture
async def refused(client):
    """Asks for what is a mistake; returns the error."""

    async def ask(path="/v1/completions", status=400, **fields):
        wanted = (
            {"prompt": "Once upon"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "x"}]}
        )
        response = await client.post(path, json={**wanted, **fields})
        return error_of(response, status)

    return ask


def error_of(response, status):
    """Return the error of an answer, whose body must be as every error's."""
    assert status == response.status_code, response.text
    assert "application/json" == response.headers["content-type"]
    body = response.json()
    assert {"error"} == body.keys()
    assert {"message", "type", "param", "code"} == body["error"].keys()
    assert len(response.content) < 4000
    return body["error"]
