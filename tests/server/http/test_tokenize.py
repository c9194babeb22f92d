import pytest

from models.tokenizer import encode
from tests.server.http.conftest import error_of

pytestmark = pytest.mark.anyio


async def test_a_prompt_becomes_ids(client, tokenizer):
    answer = (await client.post("/tokenize", json={"prompt": "Once upon"})).json()
    ids = encode(tokenizer, "Once upon")
    assert {"count": len(ids), "max_model_len": 64, "tokens": ids, "token_strs": None} == answer


async def test_the_tokens_can_be_shown(client):
    answer = (await client.post("/tokenize", json={"prompt": "ab", "return_token_strs": True})).json()
    assert ["a", "b"] == answer["token_strs"]


async def test_messages_become_ids(client, tokenizer):
    body = {"messages": [{"role": "user", "content": "x"}], "add_generation_prompt": False}
    assert encode(tokenizer, "user: x\n") == (await client.post("/tokenize", json=body)).json()["tokens"]


async def test_an_empty_prompt_has_no_ids(client):
    assert [] == (await client.post("/tokenize", json={"prompt": ""})).json()["tokens"]


async def test_ids_become_text(client, tokenizer):
    ids = [*encode(tokenizer, "brød"), 0]
    answer = (await client.post("/detokenize", json={"tokens": ids})).json()
    assert {"prompt": "brød<|endoftext|>"} == answer


async def test_a_long_text_is_encoded_like_a_short_one(client, tokenizer):
    text = "Once upon a time. " * 2000
    assert encode(tokenizer, text) == (await client.post("/tokenize", json={"prompt": text})).json()["tokens"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "x", "messages": [{"role": "user", "content": "x"}]}, "prompt"),
        ("/tokenize", {"prompt": ["x"]}, "prompt"),
        ("/tokenize", {"prompt": "x", "add_generation_prompt": True}, "add_generation_prompt"),
        ("/detokenize", {"tokens": [300]}, "tokens"),
        ("/detokenize", {"tokens": ["x"]}, "tokens"),
        ("/detokenize", {}, "tokens"),
    ],
)
async def test_what_is_wrong_is_named(client, path, body, param):
    assert param == error_of(await client.post(path, json=body), 400)["param"]
