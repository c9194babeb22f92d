import subprocess
import sys

import anyio
import numpy as np
import pytest

from models.analysis.cells import CellMemory
from models.checkpoint import load_model, save_checkpoint
from models.tokenizer import load_tokenizer
from server.http import memory_tokens
from tests.server.http.conftest import error_of

pytestmark = pytest.mark.anyio
PATH = "/v1/memory/tokens"


@pytest.fixture
async def memory_client(connect, memory_model):
    return await connect(memory_model)


async def test_a_token_is_told_by_cells_and_neighbours(memory_client, memory_model):
    answer = (await memory_client.get(f"{PATH}/65?layer=1&top=3")).json()
    memory = CellMemory(memory_model)
    c_K = memory.cells(1).coefficients(memory.embeddings(np.array([65])))[0]
    strongest = np.argsort(-np.abs(c_K))[:3]
    assert (65, 1, 2, 48) == tuple(answer[name] for name in ("token_id", "layer", "num_layers", "num_cells"))
    assert strongest.tolist() == [cell["cell"] for cell in answer["cells"]]
    assert c_K[strongest] == pytest.approx([cell["coefficient"] for cell in answer["cells"]], rel=1e-5)
    assert 3 == len(answer["nearest"])
    assert {"token_id", "token", "cosine", "row_cosine"} == answer["nearest"][0].keys()


async def test_the_first_layer_and_eight_of_each_are_the_default(memory_client):
    answer = (await memory_client.get(f"{PATH}/65")).json()
    assert (0, 8, 8) == (answer["layer"], len(answer["cells"]), len(answer["nearest"]))


async def test_an_answer_is_computed_once(memory_client, monkeypatch):
    first = await memory_client.get(f"{PATH}/65")
    monkeypatch.setattr(memory_tokens.TokenMemories, "_compute", None)
    assert first.json() == (await memory_client.get(f"{PATH}/65")).json()


async def test_many_questions_at_once_are_all_answered(memory_client):
    answers = {}

    async def ask(token_id):
        answers[token_id] = (await memory_client.get(f"{PATH}/{token_id}")).json()["token_id"]

    async with anyio.create_task_group() as group:
        for token_id in range(60, 72):
            group.start_soon(ask, token_id)
    assert {token_id: token_id for token_id in range(60, 72)} == answers


async def test_old_answers_make_room(memory_client, monkeypatch):
    monkeypatch.setattr(memory_tokens, "_MOST_KEPT", 2)
    for token_id in (60, 61, 62, 60):
        assert 200 == (await memory_client.get(f"{PATH}/{token_id}")).status_code


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("65?layer=2", "layer"),
        ("65?layer=-1", "layer"),
        ("65?layer=x", "layer"),
        ("65?top=0", "top"),
        ("65?top=33", "top"),
        ("65?tpo=3", "tpo"),
        ("100000", "token_id"),
        ("x", "token_id"),
        ("1" * 5000, "token_id"),
    ],
)
async def test_what_is_wrong_is_named(memory_client, path, param):
    assert param == error_of(await memory_client.get(f"{PATH}/{path}"), 400)["param"]


async def test_a_dense_model_says_why_it_has_no_cells(client, chat_model):
    error = error_of(await client.get(f"{PATH}/65"), 404)
    assert "no_memory_cells" == error["code"]
    assert "toy is a dense model" in error["message"]
    assert str(chat_model) not in error["message"]


async def test_a_slim_checkpoint_says_why_it_has_no_cells(connect, memory_model, tmp_path):
    tokenizer = load_tokenizer(memory_model / "tokenizer.json")
    save_checkpoint(load_model(memory_model), tmp_path / "slim", slim=True, tokenizer=tokenizer)
    error = error_of(await (await connect(tmp_path / "slim")).get(f"{PATH}/65"), 404)
    assert "slim checkpoint" in error["message"]


async def test_a_question_that_takes_too_long_is_given_up(memory_client, monkeypatch):
    monkeypatch.setattr(memory_tokens, "_SECONDS", 0.0)
    response = await memory_client.get(f"{PATH}/65")
    assert "memory_busy" == error_of(response, 503)["code"]
    assert "retry-after" in response.headers
    monkeypatch.undo()
    assert 200 == (await memory_client.get(f"{PATH}/65")).status_code


async def test_a_key_is_needed_where_there_are_keys(connect, memory_model):
    client = await connect(memory_model, api_key=("secret",))
    assert 401 == (await client.get(f"{PATH}/65")).status_code


async def test_the_answer_is_described(memory_client):
    document = (await memory_client.get("/openapi.json")).json()
    answer = document["paths"]["/v1/memory/tokens/{token_id}"]["get"]["responses"]["200"]
    assert {"$ref": "#/components/schemas/TokenMemory"} == answer["content"]["application/json"]["schema"]
    assert "TokenMemory" in document["components"]["schemas"]


def test_tokens_are_looked_up_without_torch():
    program = "import sys, server.http.memory_tokens; sys.exit('torch' in sys.modules)"
    assert 0 == subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode
