import numpy as np
import pytest

from models.errors import ConfigError
from server.measuring.streams import RowUse, Streams

IDS = np.random.default_rng(3).integers(0, 250, 500)


def test_streams_read_the_text(start):
    streams = Streams(start(), IDS)
    starts = streams.starts(3, 20)
    streams.begin(starts, context=8, num_tokens=6)
    streams.run(6)
    for place, sequence in zip(starts, streams.engine.scheduler.started, strict=True):
        assert IDS[place : place + len(sequence.ids)].tolist() == sequence.ids


def test_behind_its_end_the_text_begins_again(start):
    streams = Streams(start(), IDS[:20])
    streams.begin([15], context=4, num_tokens=4)
    streams.run(4)
    (sequence,) = streams.engine.scheduler.started
    assert [*IDS[15:20], *IDS[:4]] == sequence.ids[:9]


def test_so_many_tokens_are_decoded_for_each_stream(start):
    streams = Streams(start(memory="resident"), IDS)
    streams.begin(streams.starts(4, 20), context=8, num_tokens=5)
    first, second = streams.run(2), streams.run(3)
    assert (8, 12) == (first.tokens, second.tokens)
    assert first.context < second.context


def test_every_call_starts_elsewhere_behind_what_is_warm():
    streams = Streams(type("", (), {"sampler": None})(), np.arange(100))
    assert ([5, 55], [15, 65]) == (streams.starts(2, 10, behind=10), streams.starts(2, 10, behind=10))


def test_nothing_is_left_behind(start):
    streams = Streams(start(tol_device_fraction=0.1), IDS)
    streams.begin(streams.starts(3, 20), context=8, num_tokens=5)
    streams.run(5)
    streams.end()
    assert not streams.engine.scheduler.has_work
    streams.engine.check_integrity()


def test_streams_that_do_not_fit_together_are_a_mistake(start):
    one_context = 2 * 2 * 2 * 8 * 4 * 64  # keys and values of 2 layers, 2 heads of 8 float32, 64 positions
    streams = Streams(start(kv_cache_bytes=one_context), IDS)
    with pytest.raises(ConfigError, match="lower streams or context, or raise kv_cache_bytes"):
        streams.begin(streams.starts(3, 60), context=30, num_tokens=30)
    assert not streams.engine.scheduler.has_work


def test_a_context_beyond_the_models_is_a_mistake(start):
    streams = Streams(start(), IDS)
    with pytest.raises(ConfigError, match="longer than max_model_len, 64"):
        streams.begin([0], context=60, num_tokens=5)


def test_rows_are_counted_where_they_are_paged(start):
    use = RowUse()
    streams = Streams(start(tol_device_rows=5, max_num_seqs=1), IDS)
    streams.begin([0], context=8, num_tokens=5)
    streams.run(5, use)
    assert 5 == use.requests
    assert 0 < use.miss_rate <= 1


def test_a_memory_that_is_not_paged_has_no_miss_rate(start):
    use = RowUse()
    Streams(start(memory="resident"), IDS).prefill(0, 8, use)
    assert use.miss_rate is None


def test_a_prompt_counts_each_of_its_rows(start):
    use = RowUse()
    streams = Streams(start(), IDS)
    assert streams.prefill(0, 30, use) > 0
    assert 30 == use.requests


def test_what_was_seen_before_is_there(start):
    use, told = RowUse(), []
    streams = Streams(start(tol_device_fraction=1.0), IDS)
    streams.warm(200, num_streams=2, on_progress=lambda done, total: told.append((done, total)))
    streams.prefill(0, 50, use)
    assert (50, 0) == (use.requests, use.major_faults)
    assert [(0, 200)] == told
