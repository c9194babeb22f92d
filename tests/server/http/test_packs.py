"""Packs over HTTP: chosen by name, loaded and unloaded by whoever has the admin key, and nobody else."""

import asyncio
import contextlib

import httpx
import msgspec
import pytest

from server.config import ServerConfig
from server.engine.config import EngineConfig
from server.engine.errors import RequestError
from server.engine.questions import Answer, ListPacks, LoadPack, PackList, PackState, Question, UnloadPack
from server.http.app import create_app
from server.http.errors import ApiError
from server.http.served_packs import ServedPacks, pack_directory
from server.http.service import Service
from server.process.client import EngineState
from server.process.errors import EngineUnavailableError
from tests.server.http.conftest import error_of, load_model
from tests.server.http.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio
PACKS = "/v1/memory/packs"
ADMIN = {"authorization": "Bearer boss"}


class PackEngine(FakeEngine):
    """Answers questions about packs; what is in `broken` cannot be loaded."""

    def __init__(self):
        super().__init__()
        self.num_restarts = 0
        self.packs = {}
        self.users = {}
        self.leaving = set()
        self.broken = set()
        self.asked = []
        self.was_listed = asyncio.Event()

    async def ask(self, question, timeout):  # noqa: ARG002, ASYNC109 as the client has it
        if self.state is not EngineState.READY:
            raise EngineUnavailableError(f"the engine is {self.state}", retry_after=2.5)
        question = msgspec.msgpack.decode(msgspec.msgpack.encode(question), type=Question)
        self.asked.append(question)
        return msgspec.msgpack.decode(msgspec.msgpack.encode(self.answer(question)), type=Answer)

    def answer(self, question):
        match question:
            case LoadPack():
                if question.directory in self.broken:
                    raise RequestError("the pack is broken", param="path")
                self.packs[question.name] = question.directory
                return self.state_of(question.name)
            case UnloadPack():
                if question.name not in self.packs:
                    raise RequestError("not loaded", param="name")
                self.leaving.add(question.name)
                answer = self.listed()
                if question.at_once:
                    self.users.pop(question.name, None)
                self.sweep()
                return answer
            case ListPacks():
                self.was_listed.set()
                self.sweep()
                return self.listed()

    def listed(self):
        return PackList(packs=[self.state_of(name) for name in sorted(self.packs)])

    def sweep(self):
        for name in [name for name in self.leaving if not self.users.get(name)]:
            self.leaving.discard(name)
            del self.packs[name]

    def state_of(self, name):
        return PackState(
            name=name,
            version=3,
            table_id="ab" * 16,
            description="",
            num_rows=7,
            num_bytes=700,
            num_requests=self.users.get(name, 0),
            is_leaving=name in self.leaving,
        )

    def restart(self, *at_start):
        self.num_restarts += 1
        self.packs = dict.fromkeys(at_start, "/at/start")
        self.users, self.leaving = {}, set()


@pytest.fixture
def engine():
    engine = PackEngine()
    engine.packs = {"first": "/at/start"}
    return engine


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "packs" / "python").mkdir(parents=True)
    return tmp_path / "packs"


@pytest.fixture
async def client(folder, connect_config):
    return await connect_config(engine_options={"pack": (f"first={folder / 'first'}",)})


@pytest.fixture
async def connect_config(chat_model, engine, lifecycle, log, folder):
    """Makes clients of applications with options of the engine too."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(*, engine_options, **options):
            given = {"admin_key": ("boss",), "packs_dir": str(folder)} | options
            config = ServerConfig(engine=EngineConfig(model=str(chat_model), **engine_options), **given)
            service = Service(config=config, model=load_model(chat_model), engine=engine, lifecycle=lifecycle)
            transport = httpx.ASGITransport(create_app(service, write_log=log.write))
            return await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://toy"))

        yield make


async def load(client, name="python", path="python", **headers):
    return await client.post(PACKS, json={"name": name, "path": path}, headers=headers or ADMIN)


async def complete(client, model, **fields):
    return await client.post("/v1/completions", json={"model": model, "prompt": "Once", **fields})


# Choosing


@pytest.mark.parametrize("name", ["toy:first", "alias:first"])
async def test_a_pack_is_chosen_behind_the_models_name(client, engine, name):
    response = await complete(client, name)
    assert (200, name, "first") == (response.status_code, response.json()["model"], engine.requests[-1].pack)


async def test_without_a_pack_there_is_none(client, engine):
    await complete(client, "toy")
    assert engine.requests[-1].pack is None


async def test_chats_choose_packs_too(client, engine):
    body = {"model": "toy:first", "messages": [{"role": "user", "content": "x"}]}
    assert 200 == (await client.post("/v1/chat/completions", json=body)).status_code
    assert "first" == engine.requests[-1].pack


@pytest.mark.parametrize("name", ["toy:", "toy:second", "other:first", "first", ":first", "toy:first:first"])
async def test_what_is_not_loaded_is_no_model(client, name):
    assert "model_not_found" == error_of(await complete(client, name), 404)["code"]


async def test_packs_are_listed_as_models(client):
    cards = {card["id"]: card for card in (await client.get("/v1/models")).json()["data"]}
    assert ["toy", "alias", "toy:first"] == [*cards]
    assert ("toy", False) == (cards["toy:first"]["parent"], "parent" in cards["toy"])
    assert "toy:first" == (await client.get("/v1/models/toy:first")).json()["id"]


# Loading, listing, unloading


async def test_a_pack_is_loaded_and_served(client, engine, folder):
    card = (await load(client)).json()
    assert ("toy:python", "python", 3, 7) == (card["id"], card["name"], card["version"], card["rows"])
    assert str((folder / "python").resolve()) == engine.packs["python"]
    assert 200 == (await complete(client, "toy:python")).status_code


async def test_packs_are_listed(client):
    listed = (await client.get(PACKS, headers=ADMIN)).json()
    assert ("list", ["first"]) == (listed["object"], [card["name"] for card in listed["data"]])


async def test_an_unloaded_pack_is_no_model_any_more(client, engine):
    response = await client.delete(f"{PACKS}/first", headers=ADMIN)
    assert (200, {"name": "first", "ended_requests": 0}) == (response.status_code, response.json())
    assert {} == engine.packs
    error_of(await complete(client, "toy:first"), 404)
    assert 2 == len((await client.get("/v1/models")).json()["data"])


async def test_unloading_waits_for_requests_to_end(client, engine):
    engine.users["first"] = 1
    unloading = asyncio.create_task(client.delete(f"{PACKS}/first", headers=ADMIN))
    await engine.was_listed.wait()
    error_of(await complete(client, "toy:first"), 404)
    del engine.users["first"]
    assert 0 == (await unloading).json()["ended_requests"]


async def test_requests_that_do_not_end_in_time_are_ended(client, engine):
    engine.users["first"] = 2
    response = await client.delete(f"{PACKS}/first?timeout=0", headers=ADMIN)
    assert {"name": "first", "ended_requests": 2} == response.json()
    assert UnloadPack(name="first", at_once=True) in engine.asked


@pytest.mark.parametrize("seconds", ["-1", "601", "nan", "soon", ""])
async def test_a_time_out_has_bounds(client, engine, seconds):
    error = error_of(await client.delete(f"{PACKS}/first?timeout={seconds}", headers=ADMIN), 400)
    assert ("timeout", {"first"}) == (error["param"], {*engine.packs})


async def test_a_pack_that_is_not_loaded_cannot_be_unloaded(client):
    error = error_of(await client.delete(f"{PACKS}/second", headers=ADMIN), 404)
    assert ("name", "pack_not_found") == (error["param"], error["code"])


async def test_what_the_engine_refuses_is_a_mistake(client, engine, folder):
    engine.broken.add(str((folder / "python").resolve()))
    assert "path" == error_of(await load(client), 400)["param"]
    error_of(await complete(client, "toy:python"), 404)


@pytest.mark.parametrize("name", ["", "a/b", "a b", "..", "x" * 65])
async def test_a_pack_needs_a_name_that_is_one(client, name):
    assert "name" == error_of(await load(client, name=name), 400)["param"]


@pytest.mark.parametrize("body", [{}, {"name": "x"}, {"path": "x"}, {"name": "x", "path": "x", "more": 1}, {"name": 1}])
async def test_a_body_of_another_shape(client, body):
    error_of(await client.post(PACKS, json=body, headers=ADMIN), 400)


# Where packs may lie


@pytest.mark.parametrize(
    "path", ["", "..", "../packs/python", "python/../../x", "/etc", "a\0b", "missing", ".", "python/.."]
)
async def test_nothing_outside_the_folder_is_loaded(client, engine, path):
    assert "path" == error_of(await load(client, path=path), 400)["param"]
    assert not [question for question in engine.asked if isinstance(question, LoadPack)]


async def test_links_out_of_the_folder_are_not_followed(client, folder):
    (folder.parent / "secret").mkdir()
    (folder / "link").symlink_to(folder.parent / "secret")
    (folder / "loop").symlink_to(folder / "loop")
    for path in ("link", "loop"):
        assert "path" == error_of(await load(client, path=path), 400)["param"]


def test_links_within_the_folder_are(folder):
    (folder / "latest").symlink_to(folder / "python")
    assert (folder / "python").resolve() == pack_directory(str(folder), "latest")


def test_a_folder_may_itself_be_a_link(folder, tmp_path):
    (tmp_path / "elsewhere").symlink_to(folder)
    assert (folder / "python").resolve() == pack_directory(str(tmp_path / "elsewhere"), "python")


async def test_without_a_folder_nothing_is_loaded(connect_config):
    client = await connect_config(engine_options={}, packs_dir=None)
    assert "--packs-dir" in error_of(await load(client), 400)["message"]


def test_a_folder_that_is_gone_has_no_packs(tmp_path):
    with pytest.raises(ApiError, match="no pack at"):
        pack_directory(str(tmp_path / "gone"), "python")


# Who may


@pytest.mark.parametrize(("method", "path"), [("GET", PACKS), ("POST", PACKS), ("DELETE", f"{PACKS}/first")])
@pytest.mark.parametrize(("key", "status"), [(None, 401), ("wrong", 401), ("plain", 403)])
async def test_packs_are_for_admins(connect_config, engine, method, path, key, status):
    client = await connect_config(engine_options={}, api_key=("plain",))
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    error_of(await client.request(method, path, headers=headers), status)
    assert [] == engine.asked


# An engine that died


async def test_a_new_engine_is_given_the_packs_of_the_one_before(client, engine, folder):
    await load(client)
    engine.restart("first")
    assert 200 == (await complete(client, "toy:python")).status_code
    assert str((folder / "python").resolve()) == engine.packs["python"]


async def test_a_new_engine_unloads_what_had_been_unloaded(client, engine):
    await client.delete(f"{PACKS}/first", headers=ADMIN)
    engine.restart("first")
    assert [] == (await client.get(PACKS, headers=ADMIN)).json()["data"]


async def test_what_a_new_engine_cannot_load_is_served_no_more(client, engine, folder):
    await load(client)
    engine.restart("first")
    engine.broken.add(str((folder / "python").resolve()))
    await complete(client, "toy:first")
    error_of(await complete(client, "toy:python"), 404)


async def test_while_the_engine_is_down_packs_wait(client, engine):
    engine.state = EngineState.DOWN
    assert "engine_unavailable" == error_of(await client.get(PACKS, headers=ADMIN), 503)["code"]


async def test_requests_without_packs_ask_the_engine_nothing(client, engine):
    engine.restart("first")
    await complete(client, "toy")
    assert [] == engine.asked


def test_names_are_those_at_the_start_and_those_since(engine):
    assert ["a", "b"] == ServedPacks(engine, {"b": 1, "a": 2}).names
