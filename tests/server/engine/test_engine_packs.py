"""Packs in an engine: each request has the rows of its own, beside whatever others, and nothing else changes."""

import math
from types import SimpleNamespace

import pytest
import torch

from models.attention import PackedContext
from models.computed_rows import ComputedRows
from models.errors import ConfigError, PackError
from models.packs import Pack
from models.row_edits import layer_values
from models.rows import Rows
from paging import Encoding, TableError
from server.engine.errors import RequestError
from server.engine.memory_options import MemoryOptions
from server.engine.messages import FinishReason
from server.engine.questions import ListPacks, LoadPack, UnloadPack
from tests.models.pack_samples import make_base, make_pack
from tests.server.engine.fake_model import Outcomes, request, run_all
from tests.server.engine.real_engine import Recorder, started

TOLERANCE = 1e-3
"""Of log probabilities in float32 against float64, of scores that go into the tens."""
PROMPT = [index * 11 % 95 + 1 for index in range(40)]


@pytest.fixture(scope="module")
def packs(small_model, tmp_path_factory):
    """Two packs of the same ids, and one more."""
    folder = tmp_path_factory.mktemp("packs")
    where = SimpleNamespace(model=small_model, table=small_model / "table")
    for seed, (name, ids) in enumerate([("a", range(0, 96, 2)), ("b", range(0, 96, 2)), ("c", range(90, 96))]):
        make_pack(where, folder / name, ids, name=name, seed=seed)
    return folder


def options(packs, *names):
    return {"pack": tuple(f"{name}={packs / name}" for name in names)}


class ExactRows:
    """The rows of one view of the memory in float64."""

    def __init__(self, model, pack):
        with torch.no_grad():
            computed = ComputedRows(model).fetch(torch.arange(96))
            self.values_VLd = torch.stack([computed.gather(layer) for layer in range(2)], dim=1)
        if pack is not None:
            with Pack.open(pack) as opened:
                rows = layer_values(opened.table.read_all(), opened.table.geometry, (0, 1))
                self.values_VLd[torch.from_numpy(opened.ids)] = rows.double()

    def fetch(self, ids_N):
        return ExactBatch(self.values_VLd[ids_N])


class ExactBatch(Rows):
    def __init__(self, values_NLd):
        self.values_NLd = values_NLd

    def gather(self, layer):
        return self.values_NLd[:, layer]


@torch.inference_mode()
def exact_logprobs(model, ids, pack):
    ids_N = torch.tensor(ids)
    rows = ExactRows(model, pack).fetch(ids_N)
    return model.logits(model(ids_N, torch.arange(len(ids)), PackedContext([len(ids)]), rows)).log_softmax(dim=-1)


def asked(name, pack=None, prompt_ids=PROMPT, **params):
    return request(name, prompt_ids, pack=pack, **({"max_tokens": 10, "logprobs": 2} | params))


def mixed_requests():
    return [
        asked("plain", None),
        asked("with a", "a"),
        asked("with b", "b"),
        asked("with c", "c", PROMPT[:30]),
        asked("short a", "a", [4]),
        asked("short b", "b", [4], max_tokens=14),
        asked("two", "b", PROMPT[5:25], n=2, temperature=0.8),
        asked("odd", "a", [1, 3, 5, 7]),
    ]


def assert_exact(exact, packs, requests, outcomes):
    for each in requests:
        for choice in range(each.params.n):
            tokens = outcomes.tokens[each.request_id, choice]
            pack = None if each.pack is None else packs / each.pack
            scores = exact_logprobs(exact.model, [*each.prompt_ids, *tokens], pack)[len(each.prompt_ids) - 1 :]
            logprobs = outcomes.logprobs[each.request_id, choice]
            assert len(tokens) == len(logprobs) > 0
            for position, found in enumerate(logprobs):
                for candidate in (found.actual, *found.top):
                    assert abs(float(scores[position, candidate.token_id]) - candidate.logprob) < TOLERANCE
                if each.params.is_greedy:
                    assert float(scores[position].max() - scores[position, tokens[position]]) < TOLERANCE


VARIANTS = {
    "paged": {},
    "resident": {"memory": "resident"},
    "mapped": {"memory": "mapped"},
    "computed": {"memory": "computed"},
    "few slots": {"tol_device_rows": 5, "max_num_seqs": 4, "defer_after": 0.0},
    "a host tier": {"tol_device_rows": 9, "max_num_seqs": 8, "tol_host_bytes": 60_000},
    "few tokens": {"max_num_seqs": 3, "max_num_batched_tokens": 5},
    "one context of blocks": {"kv_cache_bytes": 64 * 2 * 2 * 2 * 8 * 4},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_in_a_mixed_batch_each_gets_what_it_gets_alone(small_model, exact, packs, name):
    with started(small_model, **options(packs, "a", "b", "c"), **VARIANTS[name]) as engine:
        outcomes = run_all(engine, *mixed_requests())
        again = run_all(engine, *mixed_requests())  # now prefixes are cached, each pack's for itself
    assert_exact(exact, packs, mixed_requests(), outcomes)
    assert_exact(exact, packs, mixed_requests(), again)


@pytest.mark.parametrize("memory", ["paged", "resident", "mapped", "computed"])
def test_without_a_pack_the_bits_are_the_same_with_packs_loaded_and_without(small_model, packs, memory):
    recorded = []
    for given in ({}, options(packs, "a", "b")):
        with started(small_model, memory=memory, enable_prefix_caching=False, **given) as engine:
            requests = [asked(f"plain {number}", None, PROMPT[number:]) for number in range(5)]
            run_all(engine, *requests)  # brings the rows: then no memory changes what runs together
            recorded.append(Recorder(engine))
            run_all(engine, *requests)
    without, with_packs = recorded
    assert without.chunks == with_packs.chunks
    assert all(torch.equal(*pair) for pair in zip(without.scores, with_packs.scores, strict=True))


def test_paged_rows_of_packs_give_the_same_bits_as_resident_ones(small_model, packs):
    recorded = []
    shared = {"max_num_seqs": 1, "max_num_batched_tokens": 1, "enable_prefix_caching": False}
    for given in ({"tol_device_rows": 2, "defer_after": math.inf}, {"memory": "resident"}):
        with started(small_model, **shared, **given, **options(packs, "a", "b", "c")) as engine:
            recorded.append(Recorder(engine))
            run_all(engine, *mixed_requests())
    paged, resident = recorded
    assert paged.chunks == resident.chunks
    assert all(torch.equal(*pair) for pair in zip(paged.scores, resident.scores, strict=True))


def test_packs_and_shares_go_together(small_model, exact, packs):
    with started(small_model, **options(packs, "a")) as engine:
        asked_for = asked("none", "a", memory=MemoryOptions(drop_layers=[0, 1]))
        outcomes = run_all(engine, asked_for, asked("with a", "a"))
        without = run_all(engine, asked("none", None, memory=MemoryOptions(drop_layers=[0, 1])))
    assert_exact(exact, packs, [asked("with a", "a")], outcomes)
    assert outcomes.tokens["none", 0] == without.tokens["none", 0]


# Prefixes


def test_a_prefix_is_not_shared_between_packs(small_model, packs):
    with started(small_model, **options(packs, "a", "b")) as engine:
        cached = [
            run_all(engine, asked("x", pack)).first["x"].num_cached_tokens for pack in (None, "a", "b") for _ in "12"
        ]
    assert [0, 32] * 3 == cached


def test_another_pack_under_the_same_name_finds_no_prefix(small_model, exact, packs):
    with started(small_model, **options(packs, "a")) as engine:
        run_all(engine, asked("x", "a"))
        engine.answer(UnloadPack(name="a"))
        engine.answer(LoadPack(name="a", directory=str(packs / "b")))
        outcomes = run_all(engine, asked("x", "a"))
    assert 0 == outcomes.first["x"].num_cached_tokens
    assert_exact(exact, packs, [asked("x", "b")], outcomes)


# Loading and unloading


def states(engine):
    return [(state.name, state.num_requests, state.is_leaving) for state in engine.answer(ListPacks()).packs]


def test_packs_are_listed_with_what_they_are(small_model, packs):
    with started(small_model, **options(packs, "c")) as engine:
        engine.answer(LoadPack(name="a", directory=str(packs / "a")))
        first, second = engine.answer(ListPacks()).packs
    assert ("a", 48, 48 * 2 * 32 * 4) == (first.name, first.num_rows, first.num_bytes)
    assert ("c", 1, False, 0) == (second.name, second.version, second.is_leaving, second.num_requests)


def test_the_same_pack_loaded_twice_is_loaded_once(small_model, packs):
    with started(small_model, **options(packs, "a")) as engine:
        again = engine.answer(LoadPack(name="a", directory=str(packs / "a")))
        assert [again] == list(engine.answer(ListPacks()).packs)


@pytest.mark.parametrize("memory", ["paged", "resident"])
def test_unloading_frees_the_keys(small_model, exact, packs, memory):
    with started(small_model, memory=memory, **options(packs, "a", "b")) as engine:
        run_all(engine, *mixed_requests()[:3])
        ranges = {pack.name: pack.keys for pack in engine._intake._packs.loaded}
        engine.answer(UnloadPack(name="a"))
        engine.check_integrity()
        engine.answer(LoadPack(name="c", directory=str(packs / "c")))
        assert ranges["a"].start == engine._intake._packs.named("c").keys.start
        outcomes = run_all(engine, asked("with c", "c"), asked("with b", "b"), asked("plain"))
    assert_exact(exact, packs, [asked("with c", "c"), asked("with b", "b"), asked("plain")], outcomes)


def begin(engine, *requests, steps=3):
    """Add requests and go so many steps; return what was told."""
    outcomes = Outcomes()
    for each in requests:
        engine.add(each)
    for _ in range(steps):
        outcomes.take(engine.step())
        engine.check_integrity()
    return outcomes


def finish(engine, outcomes):
    while engine.has_work:
        outcomes.take(engine.step())
        engine.check_integrity()
    return outcomes


def test_requests_under_way_keep_a_pack_that_is_unloaded(small_model, exact, packs):
    with started(small_model, **options(packs, "a")) as engine:
        outcomes = begin(engine, asked("x", "a"))
        engine.answer(UnloadPack(name="a"))
        assert [("a", 1, True)] == states(engine)
        with pytest.raises(RequestError, match="not loaded"):
            engine.add(asked("y", "a"))
        finish(engine, outcomes)
        assert [] == states(engine)
    assert_exact(exact, packs, [asked("x", "a")], outcomes)


def test_a_pack_that_is_leaving_keeps_its_name(small_model, packs):
    with started(small_model, **options(packs, "a")) as engine:
        outcomes = begin(engine, asked("x", "a"))
        engine.answer(UnloadPack(name="a"))
        with pytest.raises(RequestError, match="called a is loaded already"):
            engine.answer(LoadPack(name="a", directory=str(packs / "a")))
        finish(engine, outcomes)
        engine.answer(LoadPack(name="a", directory=str(packs / "a")))


def test_unloading_at_once_ends_its_requests_with_an_error(small_model, exact, packs):
    with started(small_model, max_num_seqs=2, max_num_batched_tokens=8, **options(packs, "a")) as engine:
        asked_for = [asked("runs", "a", [4]), asked("plain", None, [4]), asked("waits", "a", n=2)]
        outcomes = begin(engine, *asked_for, steps=4)
        engine.answer(UnloadPack(name="a", at_once=True))
        finish(engine, outcomes)
        assert [] == states(engine)
    assert {"runs", "waits"} == outcomes.errors.keys()
    assert "unloaded" in outcomes.errors["runs"]
    ends = [outcomes.ends[key] for key in (("runs", 0), ("waits", 0), ("waits", 1), ("plain", 0))]
    assert [FinishReason.ERROR] * 3 + [FinishReason.LENGTH] == ends
    assert_exact(exact, packs, [asked("plain", None, [4])], outcomes)


def test_an_aborted_request_lets_its_pack_go(small_model, packs):
    with started(small_model, tol_device_rows=5, max_num_seqs=4, **options(packs, "a")) as engine:
        begin(engine, asked("x", "a"))
        engine.answer(UnloadPack(name="a"))
        engine.abort("x")
        while states(engine):  # until reads that were under way have ended
            engine.step()


# Mistakes


@pytest.mark.parametrize("memory", ["paged", "resident", "computed"])
def test_a_pack_of_another_model_is_refused(small_model, tmp_path, memory):
    other = make_base(tmp_path)
    make_pack(other, tmp_path / "pack", [1, 2])
    with started(small_model, memory=memory) as engine:
        with pytest.raises(RequestError, match="another model") as caught:
            engine.answer(LoadPack(name="other", directory=str(tmp_path / "pack")))
        assert "path" == caught.value.param
        assert [] == states(engine)
    with pytest.raises(PackError, match="another model"), started(small_model, pack=(f"x={tmp_path / 'pack'}",)):
        pass


def test_a_name_that_is_taken_is_refused(small_model, packs):
    with started(small_model, **options(packs, "a")) as engine:
        with pytest.raises(RequestError, match="unload it first"):
            engine.answer(LoadPack(name="a", directory=str(packs / "b")))
        with pytest.raises(RequestError, match="no name"):
            engine.answer(LoadPack(name="a b", directory=str(packs / "b")))


def test_a_pack_that_is_not_there_is_refused(small_model, packs):
    with started(small_model) as engine:
        with pytest.raises(RequestError, match="no pack at"):
            engine.answer(LoadPack(name="x", directory=str(packs / "x")))
        with pytest.raises(RequestError, match="not loaded") as caught:
            engine.answer(UnloadPack(name="x"))
        assert "name" == caught.value.param
        with pytest.raises(RequestError, match="not loaded") as caught:
            engine.add(asked("r", "x"))
        assert "model" == caught.value.param


def test_broken_rows_fail_the_load_where_they_are_read_whole(small_model, packs, tmp_path):
    where = SimpleNamespace(model=small_model, table=small_model / "table")
    make_pack(where, tmp_path / "pack", [1, 2])
    (rows,) = (tmp_path / "pack" / "rows").glob("rows-*")
    content = bytearray(rows.read_bytes())
    content[4096] ^= 1
    rows.write_bytes(content)
    with pytest.raises(TableError), started(small_model, memory="resident", pack=(f"x={tmp_path / 'pack'}",)):
        pass
    with started(small_model, pack=(f"x={tmp_path / 'pack'}",)) as engine:
        outcomes = run_all(engine, asked("bad", "x", [1]), asked("plain", None, [1]))
    assert ({"bad"}, FinishReason.LENGTH) == (outcomes.errors.keys(), outcomes.ends["plain", 0])


@pytest.mark.parametrize("named", [("a",), ("=dir",), ("a=",), ("a=x", "a=y")])
def test_packs_are_named_with_their_directories(named):
    with pytest.raises(ConfigError, match="pack"), started("demo", pack=named):
        pass


def test_too_many_packs_are_refused(small_model, packs, monkeypatch):
    monkeypatch.setattr("server.engine.packs.MAX_PACKS", 2)
    with started(small_model, **options(packs, "a", "b")) as engine:
        with pytest.raises(RequestError, match="room for no more"):
            engine.answer(LoadPack(name="c", directory=str(packs / "c")))
        engine.answer(UnloadPack(name="a"))
        engine.answer(LoadPack(name="c", directory=str(packs / "c")))


@pytest.mark.parametrize("encoding", [Encoding.BF16, Encoding.INT8])
def test_packs_over_other_encodings(tmp_path, encoding):
    where = make_base(tmp_path, encoding=encoding)
    make_pack(where, tmp_path / "pack", range(0, 50, 2))
    asked_for = [request(name, [2, 3, 4], pack=pack, max_tokens=6) for name, pack in (("x", "p"), ("y", None))]
    outcomes = []
    for memory in ("paged", "resident"):
        with started(where.model, table=str(where.table), memory=memory, pack=(f"p={tmp_path / 'pack'}",)) as engine:
            outcomes.append(run_all(engine, *asked_for))
    assert outcomes[0].tokens == outcomes[1].tokens
    assert outcomes[0].tokens["x", 0] != outcomes[0].tokens["y", 0]
