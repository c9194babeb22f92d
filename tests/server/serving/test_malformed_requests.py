"""Whatever is sent, there is an answer, it is never the server's fault, and the server goes on."""

import asyncio
import json
import shutil

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.http.requests import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from tests.server.http.conftest import TEMPLATE
from tests.server.serving.raw_client import connect, post, read_response
from tests.server.serving.server_process import LONGEST, NO_TLS, PATIENCE, eventually

pytestmark = pytest.mark.timeout(LONGEST)

MAX_BODY, MAX_HEADER = 100_000, 8192
OPTIONS = {"max-body-bytes": MAX_BODY, "max-header-bytes": MAX_HEADER, "max-n": 4, "max-prompts": 4, "max-sequences": 8}
VERSION = b"GET /version HTTP/1.1\r\nhost: toy\r\nconnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def server(start, exported_model, tmp_path_factory):
    model = shutil.copytree(exported_model, tmp_path_factory.mktemp("chat") / "model")
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    options = [part for name, value in OPTIONS.items() for part in (f"--{name}", str(value))]
    server = start(*options, "--tol-device-rows", "60", model=model)
    server.ready()
    num_files = server.num_files
    yield server
    server.await_idle()
    eventually(lambda: server.num_files <= num_files, "all connections are closed")
    assert 0 == server.figures()["tolbooth_engine_restarts_total"]


def answered(server, *requests):
    """Send requests on one connection; return the answers to them."""

    async def ask():
        reader, writer = await connect(server)
        try:
            found = []
            for request in requests:
                writer.write(request)
                found.append(await read_response(reader))
            return found
        finally:
            writer.close()

    return asyncio.run(ask())


def all_said(server, data):
    """Send bytes; return what comes until the server closes the connection."""

    async def ask():
        reader, writer = await connect(server)
        try:
            writer.write(data)
            async with asyncio.timeout(PATIENCE):
                return await reader.read()
        finally:
            writer.close()

    return asyncio.run(ask())


def get(path, *headers):
    return "\r\n".join([f"GET {path} HTTP/1.1", "host: toy", "connection: close", *headers]).encode() + b"\r\n\r\n"


NO_HTTP = [
    b"nonsense\r\n\r\n",
    b"\r\n\r\n\r\n\x00\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET /version HTTP/1.1\r\nno colon\r\n\r\n",
    b"GET /version HTTP/1.1\r\nhost : toy\r\n\r\n",
    b"GET /version HTTP/1.1\r\nx: \x00\r\n\r\n",
    b"GET /ver\xffsion HTTP/1.1\r\nhost: toy\r\n\r\n",
    b"GET /version HTTP/1.1\r\nx: " + b"y" * 2 * MAX_HEADER + b"\r\n\r\n",
    b"GET /version HTTP/1.1\r\n" + b"x: y\r\n" * MAX_HEADER + b"\r\n",
    b"GET /" + b"x" * 2 * MAX_HEADER,
    post(b"{}", "content-length: 3"),
    post(b"{}", "transfer-encoding: chunked"),
    b"POST /v1/completions HTTP/1.1\r\nhost: toy\r\ncontent-length: -1\r\n\r\n{}",
    b"POST /v1/completions HTTP/1.1\r\nhost: toy\r\ncontent-length: 99999999999999999999999\r\n\r\n{}",
    b"POST /v1/completions HTTP/1.1\r\nhost: toy\r\ncontent-length: x\r\n\r\n{}",
    b"POST /v1/completions HTTP/1.1\r\nhost: toy\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n{}\r\n",
    b"POST /v1/completions HTTP/1.1\r\nhost: toy\r\ntransfer-encoding: chunked\r\n\r\n-2\r\n{}\r\n",
    b"POST /v1/completions HTTP/1.1\r\nhost: toy\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffffff\r\n{}\r\n",
]


@pytest.mark.parametrize("data", NO_HTTP)
def test_what_is_no_http_is_refused_and_the_connection_closed(server, data):
    head, _, body = all_said(server, data).partition(b"\r\n\r\n")
    assert b"HTTP/1.1 400 Bad Request" == head.partition(b"\r\n")[0]
    assert {"message", "type", "param", "code"} == json.loads(body)["error"].keys()


UNUSUAL = [
    get("//"),
    get("/%ff%00"),
    get("/v1/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd"),
    get("/v1/models/" + "x" * 4000),
    get("/?a=b&&&=%zz"),
    get("http://elsewhere/health"),
    get("/version", "x-request-id: " + "x" * 4000),
    get("/version", "authorization: Bearer \xff"),
    get("/version", "upgrade: websocket", "sec-websocket-key: x"),
    get("/v1/completions"),
    b"OPTIONS * HTTP/1.1\r\nhost: toy\r\nconnection: close\r\n\r\n",
    b"DELETE /v1/models HTTP/1.1\r\nhost: toy\r\nconnection: close\r\n\r\n",
    b"PUT /v1/completions HTTP/1.1\r\nhost: toy\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}",
    b"HEAD /health HTTP/1.1\r\nhost: toy\r\nconnection: close\r\n\r\n",
    b"GET /version HTTP/1.0\r\n\r\n",
    b"GET /version HTTP/1.1\r\nconnection: close\r\n\r\n",
]


@pytest.mark.parametrize("data", UNUSUAL)
def test_what_is_unusual_is_no_fault_of_the_server(server, data):
    status = int(all_said(server, data).split()[1])
    assert 200 <= status < 500


BAD_BODIES = [
    b"",
    b" ",
    b"{",
    b"{}{}",
    b"null",
    b"[]",
    b'"x"',
    b'{"prompt": "x",}',
    b"{'prompt': 'x'}",
    b'\xef\xbb\xbf{"prompt": "x"}',
    '{"prompt": "x"}'.encode("utf-16"),
    b'{"prompt": "\xff"}',
    b'{"prompt": "\\ud800"}',
    b'{"prompt": "x", "stop": ["\\udfff"]}',
    b'{"prompt": "x", "\\ud800": 1}',
    b'{"prompt": "x", "temperature": NaN}',
    b'{"prompt": "x", "temperature": Infinity}',
    b'{"prompt": "x", "temperature": -Infinity}',
    b'{"prompt": "x", "temperature": 1e999}',
    b'{"prompt": "x", "max_tokens": 1e999}',
    b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}",
    b'{"prompt": "x", "logit_bias": {"1": 1e999}}',
    b'{"prompt": "x", "temperature": 1, "temperature": "x"}',
    b'{"prompt": ' + b"[" * 40_000 + b"]" * 40_000 + b"}",
    b'{"suffix": ' + b'{"a":' * 15_000 + b"1" + b"}" * 15_000 + b', "prompt": "x"}',
    b'{"prompt": [' + b"1," * 40_000 + b"1]}",
]


@pytest.mark.parametrize("body", BAD_BODIES)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"])
def test_a_bad_body_is_a_mistake_and_the_connection_goes_on(server, path, body):
    refused, version = answered(server, post(body, path=path), VERSION)
    assert (400, 200) == (refused.status, version.status)
    assert "invalid_request_error" == refused.error["type"]


@pytest.mark.parametrize(
    "content_type", ["text/plain", "multipart/form-data; boundary=x", "application/json; charset=x", ""]
)
def test_the_kind_of_the_body_does_not_matter(server, content_type):
    request = post({"prompt": "x", "max_tokens": 1}, f"content-type: {content_type}")
    assert [200, 200] == [answer.status for answer in answered(server, request, VERSION)]


def chunked(*parts, headers=()):
    lines = ["POST /v1/completions HTTP/1.1", "host: toy", "transfer-encoding: chunked", *headers]
    body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body + b"0\r\n\r\n"


def test_a_body_in_chunks_is_one_body(server):
    request = chunked(b'{"pro', b'mpt": "x"', b', "max_tokens": 1}')
    assert [200, 200] == [answer.status for answer in answered(server, request, VERSION)]


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST /v1/completions HTTP/1.1\r\nhost: toy\r\ncontent-length: %d\r\n\r\n" % (MAX_BODY + 1),
        chunked(*[b" " * 1000] * (MAX_BODY // 1000 + 2)),
    ],
)
def test_a_body_that_is_too_large_is_refused_and_not_waited_for(server, request_bytes):
    (refused,) = answered(server, request_bytes)
    assert (413, "body_too_large", "close") == (refused.status, refused.error["code"], refused.headers["connection"])


def test_who_asks_whether_to_go_on_is_answered(server):
    body = b'{"prompt": "x", "max_tokens": 1}'
    assert all_said(server, post(body, "expect: 100-continue", "connection: close")).startswith(b"HTTP/1.1 ")


@pytest.mark.parametrize(
    "text", ["\x00", "\uffff", "\u202e", "e\u0301" * 10, "\U0001f468\u200d\U0001f469", "\r\n\r\n", "<|endoftext|>"]
)
def test_any_text_is_a_prompt(server, text):
    answer = server.post(prompt=text, max_tokens=2, echo=True)
    assert 200 == answer.status_code, answer.text
    assert answer.json()["choices"][0]["text"].startswith(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
IDS = st.lists(st.integers(0, 299), min_size=1, max_size=5)
TEXT = st.text(max_size=6)
WORDS = st.lists(st.text(min_size=1, max_size=3), max_size=3)
LIKELY = {
    "max_tokens": st.integers(0, 8),
    "n": st.integers(1, 4),
    "temperature": st.floats(0, 3),
    "top_p": st.floats(0.01, 1),
    "top_k": st.integers(-1, 310),
    "min_p": st.floats(0, 1),
    "min_tokens": st.integers(0, 3),
    "presence_penalty": st.floats(-2, 2),
    "frequency_penalty": st.floats(-2, 2),
    "repetition_penalty": st.floats(1e-300, 1e300),
    "logit_bias": st.dictionaries(st.integers(0, 299).map(str), st.floats(-1e300, 1e300), max_size=3),
    "allowed_token_ids": IDS,
    "bad_words": WORDS,
    "stop": TEXT | WORDS,
    "stop_token_ids": IDS,
    "include_stop_str_in_output": st.booleans(),
    "ignore_eos": st.booleans(),
    "seed": st.integers(0, 2**64 - 1),
    "skip_special_tokens": st.booleans(),
    "add_special_tokens": st.booleans(),
    "truncate_prompt_tokens": st.integers(1, 70),
    "priority": st.integers(-(2**31), 2**31 - 1),
    "cache_salt": TEXT,
    "stream": st.booleans(),
    "return_memory_stats": st.booleans(),
    "user": TEXT,
}
OF_COMPLETIONS = {
    "prompt": TEXT | IDS | st.lists(TEXT, min_size=1, max_size=3) | st.lists(IDS, min_size=1, max_size=3),
    "echo": st.booleans(),
    "logprobs": st.integers(0, 20),
    "prompt_logprobs": st.integers(0, 20),
}
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant"]), "content": TEXT}, optional={"name": TEXT}
)
OF_CHATS = {
    "messages": st.lists(MESSAGE, min_size=1, max_size=3),
    "logprobs": st.just(value=True),
    "top_logprobs": st.integers(0, 20),
    "max_completion_tokens": st.integers(0, 8),
    "add_generation_prompt": st.booleans(),
}
KINDS = {
    "/v1/completions": (CompletionRequest, {"prompt": "x", "max_tokens": 3}, LIKELY | OF_COMPLETIONS),
    "/v1/chat/completions": (ChatRequest, {"messages": [{"role": "user", "content": "x"}]}, LIKELY | OF_CHATS),
    "/tokenize": (TokenizeRequest, {"prompt": "x"}, {"prompt": TEXT, "return_token_strs": st.booleans()}),
    "/detokenize": (DetokenizeRequest, {}, {"tokens": IDS}),
}


@st.composite
def requests(draw):
    """A request of likely values, and sometimes of one that is not."""
    path = draw(st.sampled_from(["/v1/completions", "/v1/chat/completions"] * 3 + [*KINDS]))
    kind, body, likely = KINDS[path]
    body = {**body}
    for name in draw(st.lists(st.sampled_from([*likely]), max_size=6, unique=True)):
        body[name] = draw(likely[name])
    if draw(st.integers(0, 2)) == 0:
        body[draw(st.sampled_from(kind.__struct_fields__))] = draw(JSON)
    return path, body


@pytest.fixture(scope="module")
def http(server):
    with httpx.Client(base_url=server.url, timeout=PATIENCE, verify=NO_TLS) as client:
        yield client


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(requests())
def test_any_values_of_any_fields_are_served_or_told_to_be_mistakes(http, request_made):
    path, body = request_made
    answer = http.post(path, content=json.dumps(body).encode())
    if answer.status_code == 200:
        if answer.headers["content-type"].startswith("text/event-stream"):
            assert answer.text.endswith("data: [DONE]\n\n")
            assert '"error"' not in answer.text
        return
    assert answer.status_code in {400, 404}, answer.text
    assert "invalid_request_error" == answer.json()["error"]["type"]
