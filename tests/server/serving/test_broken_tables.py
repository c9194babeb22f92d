"""A table's file is damaged while a server reads from it, and repaired again."""

import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from paging import Table
from paging.rowfiles import RowFiles
from tests.server.http.conftest import error_of
from tests.server.serving.server_process import LONGEST
from tests.server.serving.streams import text_of

pytestmark = pytest.mark.timeout(LONGEST)

SOUND = range(1, 60)
"""Tokens whose rows nothing happens to; far more than the server has room for."""
ON_SOUND = {"allowed_token_ids": list(SOUND), "ignore_eos": True, "temperature": 0, "max_tokens": 12}
PROMPTS = [list(SOUND)[start : start + 20] for start in range(0, 40, 5)]


@pytest.fixture(scope="module")
def model(exported_model, tmp_path_factory):
    return shutil.copytree(exported_model, tmp_path_factory.mktemp("broken") / "model")


@pytest.fixture(scope="module")
def server(start, model):
    server = start("--max-num-seqs", "4", "--tol-device-rows", "20", model=model)
    server.ready()
    return server


@pytest.fixture
def shard(model):
    """The file of all rows; repaired in place at the end."""
    (path,) = (model / "table").glob("rows-*")
    sound = path.read_bytes()
    yield path
    path.write_bytes(sound)


@pytest.fixture(scope="module")
def expected(server):
    """What requests that need sound rows alone are answered."""
    return texts(server)


def texts(server):
    """Return the answers to requests that together need more rows than there is room for, asked for at once."""
    salt = uuid.uuid4().hex  # what was computed before needs no rows any more
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        answers = pool.map(lambda prompt: server.post(prompt=prompt, cache_salt=salt, **ON_SOUND), PROMPTS)
        return [answer.json()["choices"][0]["text"] for answer in answers]


def offset_of(model, row):
    with Table.open(model / "table") as table:
        files = RowFiles.open(table.directory, table.manifest, table.checksums)
        try:
            return files.place(row).offset
        finally:
            files.close()


def truncate(shard, offset):
    with shard.open("r+b") as file:
        file.truncate(offset + 1)


def flip_a_bit(shard, offset):
    with shard.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


DAMAGES = [(truncate, 299, "the file ends"), (flip_a_bit, 290, "its checksum does not match its bytes")]
"""Each with a row that no other test needs."""


@pytest.mark.parametrize(("damage", "row", "cause"), DAMAGES)
def test_who_needs_a_damaged_row_is_told_which_and_others_are_served(
    server, model, shard, expected, damage, row, cause
):
    damage(shard, offset_of(model, row))
    with ThreadPoolExecutor(1) as pool:
        others = pool.submit(texts, server)
        error = error_of(server.post(prompt=[1, row, 2]), 500)
        assert expected == others.result()
    assert ("server_error", "engine_error") == (error["type"], error["code"])
    assert [] == [part for part in (f"row {row} ", shard.name, cause) if part not in error["message"]]
    server.await_idle()


@pytest.mark.parametrize(("damage", "row"), [(truncate, 298), (flip_a_bit, 291)])
def test_once_it_is_repaired_the_same_request_is_served(server, model, shard, damage, row):
    sound = shard.read_bytes()
    damage(shard, offset_of(model, row))
    wanted = {"prompt": [1, row, 2], **ON_SOUND}
    error_of(server.post(**wanted), 500)
    shard.write_bytes(sound)
    assert 200 == server.post(**wanted).status_code


@pytest.mark.parametrize(("damage", "row"), [(truncate, 297), (flip_a_bit, 292)])
def test_a_stream_that_comes_to_a_damaged_row_ends_with_an_error(server, model, shard, open_stream, damage, row):
    damage(shard, offset_of(model, row))
    stream = open_stream(server, prompt=[1, 2], logit_bias={str(row): 100}, max_tokens=9)
    *frames, last = stream.rest()
    assert (1, "engine_error") == (len(frames), last["error"]["code"])
    assert f"row {row} " in last["error"]["message"]


def test_one_choice_at_a_damaged_row_ends_its_request_and_no_other(server, model, shard, open_stream, expected):
    flip_a_bit(shard, offset_of(model, 293))
    beside = open_stream(server, prompt=PROMPTS[0], **ON_SOUND)
    error_of(server.post(prompt=[[1, 2], [1, 293]], n=2), 500)
    assert expected[0] == text_of(beside.rest())
    server.await_idle()


def test_errors_say_nothing_of_prompts(server, model, shard):
    flip_a_bit(shard, offset_of(model, 294))
    answer = server.post(prompt="A pilgrim's secret", logit_bias={"294": 100}, max_tokens=9)
    error_of(answer, 500)
    assert "pilgrim" not in answer.text + server.output
