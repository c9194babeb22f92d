"""Tables over a row source that is not paged: each key is its own table's row, whatever came and went."""

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from models.checkpoint import load_model
from models.computed_rows import ComputedRows
from models.overlaid_rows import OverlaidRows, PackView
from models.packs import Pack
from models.rows import Rows
from models.table_rows import MappedRows, ResidentRows
from paging import Table
from tests.models.pack_samples import make_base, make_pack
from tests.models.tiny_models import MEMORY, packed_logits, random_ids

V = MEMORY.vocab_size


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def table(where):
    with Table.open(where.table) as table:
        yield table


def pack_table(where, directory, ids, **options):
    make_pack(where, directory, ids, **options)
    return Table.open(directory / "rows")


SOURCES = {
    "resident": lambda _where, table: ResidentRows(table, dtype=torch.float32),
    "mapped": lambda _where, table: MappedRows(table, dtype=torch.float32),
    "computed": lambda where, _table: ComputedRows(load_model(where.model)),
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_batch_may_have_rows_of_every_table(where, table, tmp_path, name):
    base = SOURCES[name](where, table)
    overlaid = OverlaidRows(base, V, dtype=torch.float32)
    packs = [pack_table(where, tmp_path / str(seed), [3, 5, 8], seed=seed) for seed in (1, 2)]
    ranges = [overlaid.attach(pack) for pack in packs]
    keys = torch.tensor([4, ranges[1].start + 2, 4, ranges[0].start, 3, ranges[1].start + 2])
    with torch.no_grad():
        got = overlaid.fetch(keys)
        for layer in range(2):
            rows = [ResidentRows(pack, dtype=torch.float32).fetch(torch.arange(3)).gather(layer) for pack in packs]
            plain = base.fetch(torch.tensor([4, 3])).gather(layer)
            expected = [plain[0], rows[1][2], plain[0], rows[0][0], plain[1], rows[1][2]]
            torch.testing.assert_close(torch.stack(expected), got.gather(layer))
    for pack in packs:
        pack.close()


def test_a_batch_of_the_base_alone_is_the_bases_own(where, table, tmp_path):
    base = ResidentRows(table, dtype=torch.float32)
    overlaid = OverlaidRows(base, V, dtype=torch.float32)
    with pack_table(where, tmp_path / "pack", [3]) as pack:
        overlaid.attach(pack)
    keys = random_ids(30)
    assert type(base.fetch(keys)) is type(overlaid.fetch(keys))
    assert torch.equal(base.fetch(keys).gather(1), overlaid.fetch(keys).gather(1))


def test_a_view_shows_one_packs_rows(where, table, tmp_path):
    base = ResidentRows(table, dtype=torch.float32)
    make_pack(where, tmp_path / "pack", [3, 5])
    with Pack.open(tmp_path / "pack") as pack:
        view = PackView(base, pack, dtype=torch.float32)
    assert base.max_rows is view.max_rows is None
    model = load_model(where.model, with_memory=False)
    without, with_it = torch.tensor([1, 2, 4]), torch.tensor([1, 2, 3])
    assert torch.equal(packed_logits(model, without, rows=base), packed_logits(model, without, rows=view))
    plain, packed = packed_logits(model, with_it, rows=base), packed_logits(model, with_it, rows=view)
    assert torch.equal(plain[:2], packed[:2])
    assert not torch.allclose(plain[2], packed[2])


class OverlayMachine(RuleBasedStateMachine):
    """Against a dictionary of rows by key."""

    def __init__(self):
        super().__init__()
        self.rows = OverlaidRows(FakeRows(np.arange(10.0)), 10, dtype=torch.float32)
        self.rows.attach = self.attach_values
        self.expected = {key: float(key) for key in range(10)}
        self.ranges = []
        self.next_value = 100.0

    def attach_values(self, count):
        values = self.next_value + np.arange(count)
        self.next_value += 100
        return values, self.rows._space.attach(FakeRows(values), count)

    @rule(count=st.integers(1, 5))
    def attach(self, count):
        values, keys = self.rows.attach(count)
        assert self.expected.keys().isdisjoint(range(keys.start, keys.stop))
        self.expected |= dict(zip(range(keys.start, keys.stop), values.tolist(), strict=True))
        self.ranges.append(keys)

    @rule(which=st.integers(0, 9))
    def detach(self, which):
        if self.ranges:
            keys = self.ranges.pop(which % len(self.ranges))
            self.rows.detach(keys)
            for key in range(keys.start, keys.stop):
                del self.expected[key]

    @rule(picks=st.lists(st.integers(0, 50), min_size=1, max_size=12))
    def fetch(self, picks):
        known = sorted(self.expected)
        keys = [known[pick % len(known)] for pick in picks]
        got = self.rows.fetch(torch.tensor(keys)).gather(0)[:, 0].tolist()
        assert [self.expected[key] for key in keys] == got


class FakeRows:
    """Rows of one value each."""

    max_rows = None

    def __init__(self, values):
        self.values = torch.from_numpy(values).float()

    def fetch(self, row_keys_N):
        return FakeBatch(self.values[row_keys_N])


class FakeBatch(Rows):
    def __init__(self, values_N):
        self.values_N = values_N

    def gather(self, layer):  # noqa: ARG002 there is one
        return self.values_N[:, None]


TestOverlays = OverlayMachine.TestCase
TestOverlays.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
