"""The memory packs that requests may choose: loaded, in use, leaving.

Knows packs, their row keys and the requests that use them. What lies where is the memory's affair.

A pack that is unloaded takes no new requests from that moment. Those that use it keep it until they end, or until
they are told to; then its keys are another's to have.
"""

from collections.abc import Sequence
from pathlib import Path

from models.errors import PackError
from models.pack_card import PackCard, check_pack_name
from models.packs import Pack, PackBase, row_keys
from paging import KeysInUseError
from paging.keys import KeyRange, Keys
from server.engine.errors import RequestError
from server.engine.row_memory import RowMemory

MAX_PACKS = 64
"""Each has files and, where rows are paged, threads of its own."""


class LoadedPack:
    """One pack that lies over the memory."""

    def __init__(self, name: str, card: PackCard, keys: KeyRange, row_keys_V: Keys, *, num_bytes: int) -> None:
        self.name = name
        self.card = card
        self.keys = keys
        """Of its rows."""
        self.num_bytes = num_bytes
        """Of all its rows together."""
        self.users: set[str] = set()
        """The ids of the requests that chose it and have not ended."""
        self.is_leaving = False
        """Whether it takes no more requests."""
        self._row_keys_V = row_keys_V

    @property
    def identity(self) -> str:
        """What must be equal for two requests to see the same rows."""
        return f"{self.name} {self.card.table_id}"

    def row_keys(self, token_ids: Sequence[int]) -> list[int]:
        """Return the row keys of tokens."""
        keys: list[int] = self._row_keys_V[list(token_ids)].tolist()
        return keys

    def row_key(self, token_id: int) -> int:
        """Return the row key of one token."""
        return int(self._row_keys_V[token_id])


class Packs:
    """All packs of an engine."""

    def __init__(self, memory: RowMemory, base: PackBase | None) -> None:
        """Begin with none over `base`; None for a dense model, which has no rows to lie over."""
        self._memory = memory
        self._base = base
        self._packs: dict[str, LoadedPack] = {}

    @property
    def loaded(self) -> list[LoadedPack]:
        """Those that are there, in the order of their names; what can go goes first."""
        self.free_unused()
        return [self._packs[name] for name in sorted(self._packs)]

    def named(self, name: str) -> LoadedPack:
        """Return the pack that a request names, or raise `RequestError`."""
        pack = self._packs.get(name)
        if pack is None or pack.is_leaving:
            raise RequestError(f"the memory pack {name!r:.80} is not loaded", param="model")
        return pack

    def load(self, name: str, directory: Path) -> LoadedPack:
        """Lay a pack over the memory under a name; the same one twice is once.

        Raises `PackError` for one of another model or a name that is taken, `TableError` where its rows are not sound,
        `RowReadError` where rows that are read now cannot be.
        """
        if self._base is None:
            raise PackError("this model is dense; packs lie over the rows of a memory, and it has none")
        check_pack_name(name)
        self.free_unused()
        with Pack.open(directory) as pack:
            self._base.check(pack)
            known = self._packs.get(name)
            if known is not None:
                if known.card.table_id == pack.card.table_id and not known.is_leaving:
                    return known
                raise PackError(f"a pack called {name} is loaded already; unload it first, or name this one otherwise")
            if len(self._packs) >= MAX_PACKS:
                raise PackError(f"{len(self._packs)} packs are loaded, and there is room for no more; unload one first")
            keys = self._memory.attach(pack.table)
            self._packs[name] = LoadedPack(
                name,
                pack.card,
                keys,
                row_keys(pack.ids, keys, self._base.vocab_size),
                num_bytes=len(keys) * pack.table.geometry.row_bytes,
            )
        return self._packs[name]

    def unload(self, name: str) -> LoadedPack:
        """Let a pack take no more requests, and go once those that use it have ended.

        Raises `RequestError` where there is no such pack.
        """
        pack = self._packs.get(name)
        if pack is None:
            raise RequestError(f"the memory pack {name!r:.80} is not loaded", param="name")
        pack.is_leaving = True
        self.free_unused()
        return pack

    def free_unused(self) -> None:
        """Drop the packs that are leaving and that nobody uses; where reads are under way, the next time will do."""
        for pack in [*self._packs.values()]:
            if pack.is_leaving and not pack.users:
                try:
                    self._memory.detach(pack.keys)
                except KeysInUseError:
                    continue
                del self._packs[pack.name]
