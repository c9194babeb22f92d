import json

import pytest

from server.cli.bench_serve import parse_goal
from server.loadgen.summary import Goal
from tests.server.loadgen.test_hit_rates import page


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("Once upon a time. " * 1000)
    return path


def bench(tolbooth, server, text, *options):
    return tolbooth("bench", "serve", server.url, "--text", text, "--requests", 4, *options)


def test_json_has_everything(tolbooth, server, text):
    server.metrics = [page(0), page(10, 9, 0, 1, 100)]
    result = bench(tolbooth, server, text, "--concurrency", 2, "--goal", "ttft=60,e2e=60", "--json").json
    assert (4, 0, 12) == (result["requests"], result["failed"], result["completion_tokens"])
    assert ("fake", 2, None) == (result["model"], result["concurrency"], result["rate"])
    assert {"mean", "p50", "p90", "p99"} == result["ttft"].keys() == result["e2e"].keys()
    assert pytest.approx(result["requests_per_second"]) == result["goodput"]
    assert 0.9 == result["rows"]["device"]


def test_people_read_times_and_hit_rates(tolbooth, server, text):
    server.metrics = [page(0), page(10, 9, 0, 1, 100)]
    out = bench(tolbooth, server, text).out
    assert "4, 0 failed" in out
    assert "10 asked for: device 90.00%, host 0.00%, storage 10.00% (100 B read)" in out
    assert "first token" in out


def test_an_address_may_end_in_v1(tolbooth, server, text):
    result = tolbooth("bench", "serve", f"{server.url}/v1/", "--text", text, "--requests", 1, "--json").json
    assert 1 == result["requests"]


def test_options_of_sampling_are_sent(tolbooth, server, text):
    bench(tolbooth, server, text, "--max-tokens", 9, "--temperature", 0.5, "--ignore-eos", "--model", "other")
    body = server.bodies[0]
    assert ("other", 9, 0.5, True) == tuple(body[name] for name in ("model", "max_tokens", "temperature", "ignore_eos"))


def test_a_server_where_everything_fails_is_a_failure(tolbooth, server, text):
    server.status = 500
    result = bench(
        tolbooth,
        server,
        text,
        "--json",
    )
    assert 2 == result.code
    assert 4 == json.loads(result.out)["failed"]
    assert "every request failed; the commonest reason: HTTP 500: no room" in result.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trace", "x.npy"], "give either --text or --trace"),
        (["--rate", 1, "--concurrency", 1], "give either --concurrency or a --rate above 0"),
        (["--rate", 0], "give either --concurrency or a --rate above 0"),
        (["--goal", "tft=1"], "--goal has 'tft=1'; give seconds for ttft, tpot, e2e"),
        (["--prompt-tokens", 1_000_000], "characters or ids that one prompt takes"),
    ],
)
def test_mistakes_are_one_line(tolbooth, server, text, options, message):
    result = bench(tolbooth, server, text, *options)
    assert 2 == result.code
    assert message in result.err
    assert not server.bodies


def test_an_address_that_is_none_is_a_mistake(tolbooth, text):
    result = tolbooth("bench", "serve", "localhost:8000", "--text", text)
    assert (2, True) == (result.code, "is no address of a server" in result.err)


def test_a_server_that_is_not_there_is_one_line(tolbooth, server, text):
    server.server_close()
    result = bench(tolbooth, server, text)
    assert 2 == result.code
    assert "which model it serves" in result.err


def test_a_goal_names_seconds():
    assert Goal(ttft=0.5, tpot=0.05) == parse_goal("ttft=0.5, tpot=0.05")


@pytest.mark.parametrize("text", ["ttft", "ttft=0", "ttft=nan", "e2e=-1", "", "speed=1"])
def test_a_goal_that_is_none_is_a_mistake(text):
    with pytest.raises(Exception, match="give seconds for"):
        parse_goal(text)
