"""Memory packs: rows that lie over a ToL table, which itself stays as it is.

A pack is a directory:

| entry       | holds                                                                            |
|-------------|----------------------------------------------------------------------------------|
| `rows/`     | a sparse table: whole rows, in the base table's layout, and the ids they belong to |
| `pack.json` | name and version, which model and table it is for, how it was made                 |

Knows what a pack is and which table it fits. Knows nothing of requests; what makes packs is `models/pack_making.py`.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
from torch import Tensor

from models.checkpoint import read_fingerprints
from models.config import ModelConfig
from models.errors import PackError
from models.pack_card import PACK_FILE, PackCard, check_pack_name, read_card
from paging import Table, TableGeometry, TableWriter
from paging.keys import KeyRange
from paging.staging import StagingDirectory, remove_debris

ROWS_DIRECTORY = "rows"


@dataclass(frozen=True, kw_only=True)
class PackBase:
    """What packs are laid over: a model, and the table that is its memory."""

    backbone: str
    """The fingerprint of the backbone."""
    fingerprint: str
    """The fingerprint of the table."""
    hidden_size: int
    num_layers: int
    vocab_size: int
    geometry: TableGeometry | None
    """The layout of the table's rows; None where rows are computed and there is no table."""

    @classmethod
    def of(cls, directory: Path, config: ModelConfig, table: Table | None) -> Self:
        """Describe a checkpoint and its table; `PackError` for a dense model."""
        fingerprints = read_fingerprints(directory)
        if not config.has_memory or fingerprints.table is None:
            raise PackError(f"{directory} is a dense model; packs lie over the rows of a memory, and it has none")
        return cls(
            backbone=fingerprints.backbone,
            fingerprint=fingerprints.table,
            hidden_size=config.hidden_size,
            num_layers=config.num_hidden_layers,
            vocab_size=config.vocab_size,
            geometry=None if table is None else table.geometry,
        )

    def check(self, pack: "Pack") -> None:
        """Raise `PackError` that says why unless the pack is for this model and table."""
        card, geometry = pack.card, pack.table.geometry
        if card.backbone != self.backbone:
            raise PackError(
                f"the pack {pack.directory} is for another model (its backbone is {card.backbone}, this model's is "
                f"{self.backbone}); name a pack of this model"
            )
        if card.base != self.fingerprint:
            raise PackError(
                f"the pack {pack.directory} lies over another table (of {card.base}, this model's is of "
                f"{self.fingerprint}); make it anew from this model"
            )
        sizes = (geometry.hidden_size, geometry.num_layers, geometry.vocab_size)
        same_sizes = sizes == (self.hidden_size, self.num_layers, self.vocab_size)
        if not same_sizes or (self.geometry is not None and geometry.segments != self.geometry.segments):
            raise PackError(
                f"the rows of the pack {pack.directory} are laid out otherwise than the table's ({_layout(geometry)}, "
                f"not {_layout(self.geometry)}); make it anew over this table"
            )


class Pack:
    """An open pack; ended by `close` or a `with` block."""

    def __init__(self, directory: Path, card: PackCard, table: Table) -> None:
        self.directory = directory
        self.card = card
        self.table = table

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Open a pack; raises `PackError` where it is none, `TableError` where its rows are no sound table."""
        card = read_card(directory)
        table = Table.open(directory / ROWS_DIRECTORY)
        if table.ids is None or table.table_id != card.table_id:
            table.close()
            raise PackError(f"the rows of the pack {directory} are not those that its {PACK_FILE} means; copy it again")
        return cls(directory, card, table)

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """The ids whose rows it has, strictly increasing."""
        assert self.table.ids is not None, "the table of a pack is sparse"
        return self.table.ids

    def close(self) -> None:
        """Close the files."""
        self.table.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def row_keys(ids: npt.NDArray[np.int64], keys: KeyRange, vocab_size: int) -> npt.NDArray[np.int64]:
    """Return the row key of every token id, int64 [V]: a pack's own where it has a row, else the base table's."""
    keys_V = np.arange(vocab_size, dtype=np.int64)
    keys_V[ids] = np.arange(keys.start, keys.stop)
    return keys_V


def write_pack(
    out: Path,
    *,
    name: str,
    base: PackBase,
    ids: npt.NDArray[np.int64],
    payloads: Iterable[Tensor],
    version: int = 1,
    description: str = "",
    history: Iterable[str] = (),
    replace: bool = False,
) -> PackCard:
    """Write a pack, which appears whole or not at all; return its card.

    ids: whose rows it has (int64, strictly increasing). payloads: those rows in the same order, uint8 [n, row_bytes]
    each, in as many pieces as suits. replace: whether a pack that is there may go for it. Raises `PackError`, and
    what `TableWriter` raises.
    """
    if base.geometry is None:
        raise PackError("a pack is made over a table; export the model's first")
    if not len(ids):
        raise PackError("the pack would have no rows; nothing was written")
    check_pack_name(name)
    try:
        remove_debris(out)
        _check_target(out, replace=replace)
        staging = StagingDirectory(out)
        try:
            with TableWriter(
                staging.path / ROWS_DIRECTORY,
                geometry=base.geometry,
                fingerprint=f"{base.fingerprint}+{name}.{version}",
                num_rows=len(ids),
                ids=ids,
            ) as writer:
                for payload in payloads:
                    writer.write(payload)
            card = PackCard(
                name=name,
                version=version,
                backbone=base.backbone,
                base=base.fingerprint,
                table_id=writer.table_id,
                description=description,
                history=tuple(history),
            )
            _write_text(staging.path / PACK_FILE, card.to_json())
            _check_target(out, replace=replace)  # once more: writing may have taken minutes
            staging.publish(replace=replace)
        except BaseException:
            staging.discard()
            raise
    except OSError as error:
        raise PackError(f"cannot write the pack {out}: {error}") from error
    return card


def _check_target(out: Path, *, replace: bool) -> None:
    entries = {entry.name for entry in out.iterdir()} if out.is_dir() else set()
    if not entries and (out.is_dir() or not out.exists()):
        return
    if not entries or entries - {PACK_FILE, ROWS_DIRECTORY} or PACK_FILE not in entries:
        raise PackError(f"{out} is there and is not a pack alone; name another directory")
    if not replace:
        raise PackError(f"{out} holds a pack already; name another directory, or ask to replace it")


def _layout(geometry: TableGeometry | None) -> str:
    if geometry is None:
        return "another model's"
    return f"{len(geometry.segments)} layers of {geometry.hidden_size} values in {geometry.label}"


def _write_text(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
