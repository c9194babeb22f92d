"""`--auto` keeps to its bytes, and spends them where they matter."""

import pytest

from models.compression.auto import choose_kinds, row_weights
from models.compression.candidates import candidates
from models.errors import ConfigError
from models.evaluation import EvaluationText
from paging import LayerEncoding, TableGeometry
from paging.shard_plan import table_bytes
from tests.models.compression.compression_samples import CONFIG, sample

SIZES = {"hidden_size": 64, "num_layers": 2, "vocab_size": CONFIG.vocab_size}
FP32 = LayerEncoding.parse("fp32")


@pytest.fixture(scope="module")
def made():
    return sample(num_tokens=150)


def bytes_of(kinds):
    return table_bytes(TableGeometry.mixed(**SIZES, kinds=kinds), num_rows=CONFIG.vocab_size)


def choose(made, target, **options):
    return choose_kinds(made.sample, target_bytes=target, layers=[0, 1], num_rows=CONFIG.vocab_size, **options)


@pytest.mark.parametrize("text", ["fp32", "bf16", "int8", "int4/128@128", "int4/32"])
def test_a_plan_takes_no_more_than_the_target(made, text):
    target = bytes_of(dict.fromkeys(range(2), LayerEncoding.parse(text if "@" not in text else "int4/64")))
    plan = choose(made, target)
    assert plan.num_bytes == bytes_of(plan.kinds) <= target


def test_where_there_is_room_for_everything_it_costs_nothing(made):
    plan = choose(made, bytes_of({0: FP32, 1: FP32}))
    assert plan.after.divergence < 1e-5
    assert (plan.before.evaluation.tokens, 0.0) == (149, pytest.approx(plan.before.divergence, abs=1e-7))


def test_bytes_go_to_the_layer_that_matters(made):
    plan = choose(made, bytes_of(dict.fromkeys(range(2), LayerEncoding.parse("int4/32"))))
    assert plan.costs[1]["dropped"] < plan.costs[0]["dropped"]
    uniform = made.sample.measure(dict.fromkeys(range(2), LayerEncoding.parse("int4/32")))
    assert plan.after.divergence <= uniform.divergence
    assert 0 in plan.kinds


def test_a_target_below_the_smallest_table_names_it(made):
    with pytest.raises(
        ConfigError, match=r"the target is 5000 bytes; the smallest table of 50 rows, .* int4/.*, takes \d+"
    ):
        choose(made, 5000)


def test_the_least_target_that_is_named_can_be_had(made):
    with pytest.raises(ConfigError) as caught:
        choose(made, 1)
    least = int(str(caught.value).split()[-1])
    assert choose(made, least).num_bytes <= least


def test_layers_that_are_not_to_be_kept_are_left_out(made):
    plan = choose_kinds(made.sample, target_bytes=10**6, layers=[1], num_rows=CONFIG.vocab_size)
    assert [1] == [*plan.kinds]


def test_progress_ends_within_what_was_announced(made):
    calls = []
    choose(made, bytes_of(dict.fromkeys(range(2), LayerEncoding.parse("int8"))), on_progress=lambda *c: calls.append(c))
    assert all(1 <= done <= total for done, total in calls)
    assert sorted(calls) == calls


def test_every_candidate_can_be_had():
    for hidden_size in (3, 24, 64, 256, 960, 2048):
        found = candidates(hidden_size, FP32)
        assert FP32 == found[0]
        assert all(kind.flaw(hidden_size) is None for kind in found)
        assert len(set(found)) == len(found)


def test_rows_count_by_their_use_and_all_a_little():
    weights = row_weights(EvaluationText(ids=[1, 1, 3, 1], num_bytes=4), 4)
    assert [0.25, 1.0, 0.25, 0.5] == weights.tolist()
