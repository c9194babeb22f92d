import numpy as np
import pytest

from models.errors import ConfigError
from server.loadgen.prompts import text_prompts, trace_prompts


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(chr(ord("a") + number % 26) for number in range(10_000)))
    return path


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "ids.npy"
    np.save(path, np.arange(5_000, dtype=np.int32))
    return path


def test_prompts_are_pieces_of_the_text(text):
    prompts = text_prompts(text, count=20, num_tokens=8, seed=0)
    assert {32} == {len(prompt) for prompt in prompts}
    assert all(prompt in text.read_text() for prompt in prompts)


def test_prompts_are_stretches_of_the_trace_and_do_not_overlap_where_there_is_room(trace):
    prompts = trace_prompts(trace, count=20, num_tokens=10, seed=0)
    assert all(list(range(prompt[0], prompt[0] + 10)) == prompt for prompt in prompts)
    assert 20 == len({prompt[0] * 20 // 4990 for prompt in prompts})


def test_the_seed_decides_which(trace):
    first, again, other = (trace_prompts(trace, count=5, num_tokens=10, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_a_text_of_one_prompt_gives_it_every_time(text):
    prompts = text_prompts(text, count=3, num_tokens=2500, seed=0)
    assert [text.read_text()] * 3 == prompts


def test_a_text_that_is_too_short_is_a_mistake(text):
    with pytest.raises(ConfigError, match="has 10,000 of the 10,004 characters or ids that one prompt takes"):
        text_prompts(text, count=1, num_tokens=2501, seed=0)


def test_a_text_that_is_not_there_is_a_mistake(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the text .*none"):
        text_prompts(tmp_path / "none", count=1, num_tokens=1, seed=0)
