"""`tolbooth serve` in a process of its own, with its engine in another, and the official client against both."""

import contextlib
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import openai
import pytest

from models.export import export_table
from models.tokenizer import encode, load_tokenizer

PATIENCE = 60.0
"""Seconds that a test waits for what must happen, before it fails."""

COMMAND = """
import sys
from server.cli.app import main

code = main(sys.argv[1:])
print("torch" in sys.modules)
sys.exit(code)
"""
"""`tolbooth`, which at its end says whether it has imported torch."""


class ServerProcess:
    """A server that was started; its lines are read as they come."""

    def __init__(self, home, *arguments):
        environment = {**os.environ, "XDG_CACHE_HOME": str(home), "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, "serve", *map(str, arguments), "--port", "0", "--device", "cpu"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            cwd=Path(__file__).parents[3],
        )
        self.lines = queue.SimpleQueue()
        self.seen = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        with self.process.stdout:
            for line in self.process.stdout:
                self.lines.put(line.rstrip("\n"))
        self.lines.put(None)

    def line(self, start):
        """Wait for the line that begins so, and return what follows."""
        deadline = time.monotonic() + PATIENCE
        while (line := self.lines.get(timeout=max(0, deadline - time.monotonic()))) is not None:
            self.seen.append(line)
            if line.startswith(start):
                return line.removeprefix(start).strip()
        raise AssertionError("\n".join(self.seen))

    def end(self, *signals):
        """Send signals and return the exit code."""
        for number in signals:
            self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        self.reader.join(PATIENCE)
        return code


@contextlib.contextmanager
def started(home, *arguments):
    server = ServerProcess(home, *arguments)
    try:
        server.url = server.line("serving")
        yield server
    finally:
        if server.process.poll() is None:
            server.process.terminate()
            try:
                server.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                server.process.kill()
                server.process.wait()
        server.reader.join(PATIENCE)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def model(stored_models, tmp_path_factory):
    directory = shutil.copytree(stored_models["memory"], tmp_path_factory.mktemp("real") / "memory")
    export_table(directory, directory / "table")
    return directory


@pytest.fixture(scope="module")
def server(home, model):
    with started(home, model, "--max-num-seqs", 4, "--tol-device-rows", 20, "--threads", 1) as server:
        yield server


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=server.url, api_key="any", max_retries=0, timeout=PATIENCE) as client:
        yield client


def test_what_was_granted_is_told(server):
    told = "\n".join(server.seen)
    assert "20 of 300 rows" in told
    assert "weights" in told


def test_models(client):
    (card,) = client.models.list()
    assert ("memory", 64) == (card.id, card.max_model_len)


def test_greedy_completions_are_the_same_each_time(client):
    first, again = (
        client.completions.create(model="memory", prompt="Once upon", max_tokens=20, temperature=0) for _ in range(2)
    )
    assert first.choices[0].text == again.choices[0].text
    assert 20 == first.usage.completion_tokens


def test_a_stream_is_the_same_as_the_whole(client):
    wanted = {"model": "memory", "prompt": "Once upon", "max_tokens": 20, "seed": 7}
    chunks = client.completions.create(stream=True, **wanted)
    assert client.completions.create(**wanted).choices[0].text == "".join(chunk.choices[0].text for chunk in chunks)


def test_a_seed_gives_the_same_beside_others(client):
    wanted = {"model": "memory", "max_tokens": 12, "seed": 7, "temperature": 1.5}
    alone = client.completions.create(prompt="Once upon", **wanted).choices[0].text
    among = client.completions.create(prompt=["a", "Once upon", "b"], **wanted).choices[1].text
    assert alone == among


def test_choices_of_a_prompt(client):
    answer = client.completions.create(model="memory", prompt=["a", "b"], n=3, max_tokens=5)
    assert list(range(6)) == [choice.index for choice in answer.choices]


def test_scoring(client, model):
    answer = client.completions.create(model="memory", prompt="Once upon", max_tokens=0, echo=True, logprobs=2)
    logprobs = answer.choices[0].logprobs
    num_tokens = len(encode(load_tokenizer(model / "tokenizer.json"), "Once upon"))
    assert (None, num_tokens) == (logprobs.token_logprobs[0], len(logprobs.tokens))
    assert "Once upon" == answer.choices[0].text


def test_stop_strings(client):
    wanted = {"model": "memory", "prompt": "Once upon", "max_tokens": 30, "temperature": 0}
    text = client.completions.create(**wanted).choices[0].text
    stop = text[5:8]
    stopped = client.completions.create(stop=stop, **wanted).choices[0]
    assert (text[: text.index(stop)], "stop", stop) == (stopped.text, stopped.finish_reason, stopped.stop_reason)


def test_repeated_prompts_are_cached(client):
    prompt = list(range(1, 50))
    for _ in range(2):
        usage = client.completions.create(model="memory", prompt=prompt, max_tokens=1).usage
    assert usage.prompt_tokens_details.cached_tokens >= 32


@pytest.mark.parametrize("stop", [None, "e"])
def test_memory_stats(client, stop):
    extra = {"return_memory_stats": True}
    chunks = client.completions.create(
        model="memory", prompt="gate", max_tokens=8, temperature=0, stop=stop, stream=True, extra_body=extra
    )
    *others, last = chunks
    tiers = [tier for chunk in others for tier in chunk.choices[0].tiers]
    assert (set(), last.usage.completion_tokens) == (set(tiers) - {"device", "host", "storage"}, len(tiers))


def test_memory_stats_add_up(client):
    answer = client.completions.create(
        model="memory", prompt="gate", max_tokens=8, extra_body={"return_memory_stats": True}
    )
    tol = answer.usage.tol
    assert tol["rows"] == tol["hits"] + tol["minor_faults"] + tol["major_faults"] > 0


def test_mistakes_of_a_client_are_told(client):
    with pytest.raises(openai.BadRequestError, match="64 tokens"):
        client.completions.create(model="memory", prompt="gate " * 100)


def test_a_client_that_goes_frees_its_place(server, client):
    chunks = client.completions.create(
        model="memory", prompt="x", max_tokens=60, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(chunks))
    chunks.close()
    await_metric(server, "tolbooth_requests_running", 0)


def test_the_memory_tells_what_was_asked_of_it_and_rows_are_pinned_and_warmed(server):
    memory = server.url + "/memory"
    pinned = httpx.post(f"{memory}/pins", json={"token_ids": [7, 9]}, timeout=PATIENCE).json()
    warmed = httpx.post(f"{memory}/warm", json={"text": "Once upon"}, timeout=PATIENCE).json()
    told = httpx.get(memory, timeout=PATIENCE).json()
    curve = httpx.get(f"{memory}/curve", timeout=PATIENCE).json()
    ended = httpx.request("DELETE", f"{memory}/pins", json={"all": True}, timeout=PATIENCE).json()
    assert (2, 18, 0) == (pinned["rows"], told["pins"]["leasable_rows"], ended["rows"])
    assert (20, True) == (told["tiers"][0]["capacity_rows"], warmed["rows"] > 0)
    assert [20] == [point["rows"] for point in curve["points"] if point["is_present"]]


def figures(server):
    text = httpx.get(server.url.removesuffix("/v1") + "/metrics", timeout=PATIENCE).text
    pairs = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in pairs}


def await_metric(server, name, value):
    deadline = time.monotonic() + PATIENCE
    while figures(server).get(name) != value:
        assert time.monotonic() < deadline, f"{name} did not become {value}"


def await_health(server, status):
    deadline = time.monotonic() + PATIENCE
    while httpx.get(server.url.removesuffix("/v1") + "/health", timeout=PATIENCE).status_code != status:
        assert time.monotonic() < deadline, f"health did not become {status}"


def engine_pid(server):
    """Return the process that the server started."""
    path = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    (pid,) = path.read_text().split()
    return int(pid)


def test_an_engine_that_is_killed_ends_its_requests_and_comes_back(server, client):
    client.completions.create(model="memory", prompt="x", max_tokens=4)
    before = figures(server)["tolbooth_generation_tokens_total"]
    chunks = iter(
        client.completions.create(
            model="memory", prompt=["x"] * 16, max_tokens=60, stream=True, extra_body={"ignore_eos": True, "n": 4}
        )
    )
    next(chunks)
    os.kill(engine_pid(server), signal.SIGKILL)
    with pytest.raises(openai.APIError, match="not finished"):
        _ = list(chunks)
    await_health(server, 503)
    await_health(server, 200)
    client.completions.create(model="memory", prompt="x", max_tokens=4)
    after = figures(server)
    assert (1, True) == (after["tolbooth_engine_restarts_total"], after["tolbooth_generation_tokens_total"] >= before)


def test_a_signal_ends_the_server_which_has_never_imported_torch(home, model):
    with started(home, model, "--threads", 1) as server:
        assert 200 == httpx.post(f"{server.url}/completions", json={"prompt": "x"}, timeout=PATIENCE).status_code
        assert 0 == server.end(signal.SIGTERM)
        assert "" == server.line("False")


def test_a_model_that_cannot_be_served_ends_the_server_with_one_line(home, model):
    server = ServerProcess(home, model, "--tol-device-rows", 1)
    assert "need" in server.line("error:")
    assert 2 == server.end()
