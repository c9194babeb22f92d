"""More requests at once than are served at once: each has an answer, or is told when to come again."""

import asyncio
import collections
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from tests.server.serving.raw_client import ask, post
from tests.server.serving.server_process import LONGEST, eventually

pytestmark = pytest.mark.timeout(LONGEST)

NUM_REQUESTS = 1000
MAX_WAITING, MAX_NUM_SEQS = 10, 4


@pytest.fixture(scope="module")
def patient(start):
    """A server whose queue is as long as it is by default."""
    server = start("--max-num-seqs", "8", "--tol-device-rows", "60")
    server.ready()
    return server


@pytest.fixture(scope="module")
def strict(start):
    """A server with a short queue."""
    server = start("--max-num-seqs", str(MAX_NUM_SEQS), "--max-waiting", str(MAX_WAITING), "--tol-device-rows", "60")
    server.ready()
    return server


def answers(server, count, **wanted):
    """Return the answers to so many requests at once."""

    async def ask_all():
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(ask(server, post({"prompt": [number % 290 + 1, 1], **wanted}, "connection: close")))
                for number in range(count)
            ]
        return [task.result() for task in tasks]

    return asyncio.run(ask_all())


def test_a_thousand_requests_at_once_are_all_answered(patient):
    num_files = patient.num_files
    found = answers(patient, NUM_REQUESTS, max_tokens=1)
    assert {200: NUM_REQUESTS} == collections.Counter(answer.status for answer in found)
    patient.await_idle()
    eventually(lambda: patient.num_files <= num_files, "all connections are closed")


NUM_SCRAPES, NUM_WATCHED = 100, 300


@pytest.fixture(scope="module")
def watched(patient):
    """Scrapes before, while and after many requests are served."""
    with ThreadPoolExecutor(1) as pool:
        scrapes = [patient.figures()]
        load = pool.submit(answers, patient, NUM_WATCHED, max_tokens=8, ignore_eos=True)
        scrapes += [patient.figures() for _ in range(NUM_SCRAPES)]
        assert {200} == {answer.status for answer in load.result()}
    return [*scrapes, patient.figures()]


def test_at_every_scrape_hits_and_faults_are_all_requests_for_rows(watched):
    for found in watched:
        hits = sum(found[f'tolbooth_tol_row_hits_total{{tier="{tier}"}}'] for tier in ("device", "host"))
        assert found["tolbooth_tol_row_requests_total"] == hits + found["tolbooth_tol_major_faults_total"]
    assert watched[0]["tolbooth_tol_row_requests_total"] < watched[-1]["tolbooth_tol_row_requests_total"]


def test_no_counter_ever_falls(watched):
    for before, after in pairwise(watched):
        counters = {name for name in before if name.partition("{")[0].endswith(("_total", "_bucket", "_count", "_sum"))}
        assert [] == [name for name in counters if before[name] > after[name]]


def test_what_requests_got_is_what_the_engine_made(watched):
    def gained(name):
        return watched[-1][f"tolbooth_{name}"] - watched[0][f"tolbooth_{name}"]

    assert NUM_WATCHED == gained('request_success_total{finished_reason="length"}')
    assert 8 * NUM_WATCHED == gained("generation_tokens_total") == gained("request_generation_tokens_sum")
    assert 2 * NUM_WATCHED == gained("prompt_tokens_total") == gained("request_prompt_tokens_sum")
    assert gained("engine_steps_total") == gained("step_batch_size_count")
    assert NUM_WATCHED == gained("request_queue_seconds_count") == gained("request_prefill_seconds_count")
    # Tokens that are put together with a first one have no distance.
    assert 0 < gained("inter_token_latency_seconds_count") <= 7 * NUM_WATCHED


@pytest.fixture(scope="module")
def rush(strict):
    """What many clients are answered that come at once to a server with a short queue."""
    return answers(strict, 200, max_tokens=30, ignore_eos=True)


def test_who_finds_the_queue_full_is_told_when_to_come_again(rush):
    assert {200, 429} == {answer.status for answer in rush}
    refused = [answer for answer in rush if answer.status == 429]
    assert {("rate_limit_error", "queue_full")} == {(each.error["type"], each.error["code"]) for each in refused}
    assert {"1"} == {answer.headers["retry-after"] for answer in refused}


def test_as_many_as_there_is_room_for_are_served(rush):
    assert MAX_WAITING <= sum(answer.status == 200 for answer in rush)


def test_after_a_rush_nothing_is_held(strict, rush):
    strict.await_idle()
    assert 200 == strict.post(prompt="x").status_code


def test_more_choices_than_may_ever_wait_are_a_mistake(strict):
    refused, served = (answers(strict, 1, n=n)[0] for n in (MAX_WAITING + 1, MAX_WAITING))
    assert (400, 200) == (refused.status, served.status)
    assert f"at most {MAX_WAITING}" in refused.error["message"]
