"""Making packs: from a copy of a model whose memory was trained further, and from edits of single rows.

Knows checkpoints, tables and packs. Knows no text: tokens are ids here.

Shape legend: N rows, C rows of a chunk, L layers, d hidden size, R bytes of a row.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.checkpoint import read_fingerprints
from models.config import ModelConfig
from models.errors import PackError
from models.export import CHUNK_ROWS, RowComputer
from models.pack_card import PackCard
from models.packs import Pack, PackBase, write_pack
from models.row_edits import check_editable, chosen_layers, edit_rows, layer_values
from paging import Table, encode_rows

Ids = npt.NDArray[np.int64]
"""Token ids, int64 [n], strictly increasing."""

_PIECE_ROWS = 1024
_DETAILS = 20
"""Token ids that a pack's history lists for one step at most."""


@dataclass(frozen=True, kw_only=True)
class Edit:
    """What one edit does to the rows of some ids: `row = scale * row + addition`."""

    ids: tuple[int, ...]
    layers: tuple[int, ...] = ()
    """Empty: all that the table has."""
    scale: float = 1.0
    addition_Ld: Tensor | None = None
    """A vector for each of the layers, float32."""
    added_id: int | None = None
    """Of a token whose row is added."""
    weight: float = 1.0
    """Of what is added."""

    def __post_init__(self) -> None:
        if not self.ids:
            raise PackError("an edit needs a token")
        if not (np.isfinite(self.scale) and np.isfinite(self.weight)):
            raise PackError("scale and weight must be finite")
        if self.addition_Ld is not None and self.added_id is not None:
            raise PackError("an edit adds a vector or a token's row, not both")


class PackMaker:
    """Makes packs over one model and its table."""

    def __init__(self, directory: Path, config: ModelConfig, table: Table) -> None:
        """Make packs over a checkpoint's table; `PackError` for a dense model, or a table that packs cannot extend."""
        self.base = PackBase.of(directory, config, table)
        self._table = table
        self._geometry = table.geometry
        check_editable(table.geometry)

    def from_tuned(
        self,
        tuned: Path,
        out: Path,
        *,
        name: str,
        threshold: float = 0.0,
        ids: Ids | None = None,
        description: str = "",
        replace: bool = False,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> PackCard:
        """Make a pack of the rows of `tuned`, a checkpoint with this model's backbone and another memory.

        ids: whose rows; None: all that differ from the table's by more than `threshold`, the norm of the difference
        over the norm of the row. Memory is bounded by a chunk of rows. Raises `PackError`, `CheckpointError`, and
        what `write_pack` raises.
        """
        backbone = read_fingerprints(tuned).backbone
        if backbone != self.base.backbone:
            raise PackError(
                f"the backbone of {tuned} is another than this model's ({backbone}, not {self.base.backbone}); train "
                "the copy with --memory-only, in the same number format"
            )
        if ids is not None:
            self._check_ids(ids)
        rows = RowComputer(tuned, self._geometry.layers)
        if ids is None:
            ids = self._differing(rows, threshold, on_progress)
            if not len(ids):
                raise PackError(f"no row of {tuned} differs from the table's by more than {threshold:g}")
        what = f"{len(ids)} rows of a copy whose memory was trained further (table fingerprint {rows.fingerprint})"
        return write_pack(
            out,
            name=name,
            base=self.base,
            ids=ids,
            payloads=self._tuned_payloads(rows, ids, on_progress),
            description=description,
            history=[what],
            replace=replace,
        )

    def edited(self, out: Path, edit: Edit, *, name: str | None = None, description: str | None = None) -> PackCard:
        """Apply an edit to the pack `out`, which begins with it where it is not there yet; return its new card.

        A row that the pack has not is taken from the table first. `name` and `description` None: as they are.
        """
        layers = chosen_layers(self._geometry, edit.layers)
        self._check_ids(np.array(edit.ids))
        if edit.added_id is not None:
            self._check_ids(np.array([edit.added_id]))
        if not _is_there(out):
            if name is None:
                raise PackError(f"there is no pack at {out} yet; give it a name to begin one")
            ids, payloads = self._apply(edit, layers, None)
            return write_pack(
                out,
                name=name,
                base=self.base,
                ids=ids,
                payloads=payloads,
                description=description or "",
                history=[_words(edit, layers)],
                replace=True,
            )
        with Pack.open(out) as pack:
            self.base.check(pack)
            ids, payloads = self._apply(edit, layers, pack)
            return write_pack(
                out,
                name=name or pack.card.name,
                base=self.base,
                ids=ids,
                payloads=payloads,
                version=pack.card.version + 1,
                description=pack.card.description if description is None else description,
                history=[*pack.card.history, _words(edit, layers)],
                replace=True,
            )

    def changes(self, pack: Pack) -> tuple[Ids, npt.NDArray[np.float64]]:
        """Return a pack's ids and how far each row is from the table's, layer by layer, float64 [n, L].

        As a share of the norm of the table's row in that layer; infinite where that is zero and the pack's is not.
        """
        self.base.check(pack)
        shares = [
            _relative(self._values(base_NR), self._values(pack_NR))
            for base_NR, pack_NR in zip(
                _pieces(self._table, pack.ids),
                _pieces(pack.table, np.arange(len(pack.ids))),
                strict=True,
            )
        ]
        return pack.ids, torch.cat(shares).double().numpy()

    def _differing(self, rows: RowComputer, threshold: float, on_progress: Callable[[int, int], None] | None) -> Ids:
        if not threshold >= 0:
            raise PackError(f"the threshold is {threshold}; it must be at least 0")
        found = []
        for start in range(0, self.base.vocab_size, CHUNK_ROWS):
            theirs_NR = encode_rows(rows.chunk(start), self._geometry, first_row=start)
            stop = start + len(theirs_NR)
            mine_NR = self._table.read_rows(range(start, stop))
            differ = (theirs_NR != mine_NR).any(dim=1)
            if threshold > 0:
                mine, theirs = self._values(mine_NR).flatten(1), self._values(theirs_NR).flatten(1)
                differ &= (theirs - mine).norm(dim=1) > threshold * mine.norm(dim=1)
            found.append(start + differ.nonzero()[:, 0].numpy())
            if on_progress is not None:
                on_progress(stop, 2 * self.base.vocab_size)
        return np.concatenate(found)

    def _tuned_payloads(
        self, rows: RowComputer, ids: Ids, on_progress: Callable[[int, int], None] | None
    ) -> Iterator[Tensor]:
        for start in range(0, self.base.vocab_size, CHUNK_ROWS):
            inside = ids[(ids >= start) & (ids < start + CHUNK_ROWS)] - start
            if len(inside):
                # Whole chunks again: a row's bits depend on the shape that it is computed in.
                values_NLd = rows.chunk(start)[torch.from_numpy(inside)]
                yield encode_rows(values_NLd, self._geometry, first_row=start)
            if on_progress is not None:
                done = min(start + CHUNK_ROWS, self.base.vocab_size)
                on_progress(self.base.vocab_size + done, 2 * self.base.vocab_size)

    def _apply(self, edit: Edit, layers: tuple[int, ...], pack: Pack | None) -> tuple[Ids, Iterator[Tensor]]:
        """Return the ids of a pack once it is edited, and its rows."""
        edited = np.unique(np.array(edit.ids, dtype=np.int64))
        ids = edited if pack is None else np.union1d(pack.ids, edited)
        addition_Ld = edit.addition_Ld
        if edit.added_id is not None:
            (addition_Ld,) = layer_values(self._read(np.array([edit.added_id]), pack), self._geometry, layers)
        if addition_Ld is not None:
            addition_Ld = addition_Ld * edit.weight

        def payloads() -> Iterator[Tensor]:
            for start in range(0, len(ids), _PIECE_ROWS):
                piece = ids[start : start + _PIECE_ROWS]
                payload_NR = self._read(piece, pack)
                places = torch.from_numpy(np.isin(piece, edited).nonzero()[0])
                if len(places):
                    payload_NR[places] = edit_rows(
                        payload_NR[places], self._geometry, layers, scale=edit.scale, addition_Ld=addition_Ld
                    )
                yield payload_NR

        return ids, payloads()

    def _read(self, ids: Ids, pack: Pack | None) -> Tensor:
        """Return rows as a pack has them, the table's where it has none."""
        payload_NR = self._table.read_rows(ids)
        if pack is not None:
            there = np.isin(ids, pack.ids)
            if there.any():
                theirs = pack.table.read_rows(np.searchsorted(pack.ids, ids[there]))
                payload_NR[torch.from_numpy(there)] = theirs
        return payload_NR

    def _values(self, payload_NR: Tensor) -> Tensor:
        return layer_values(payload_NR, self._geometry, self._geometry.layers)

    def _check_ids(self, ids: npt.NDArray[np.int64]) -> None:
        outside = ids[(ids < 0) | (ids >= self.base.vocab_size)]
        if len(outside):
            raise PackError(f"the id {outside[0]} is outside the vocabulary, 0 to {self.base.vocab_size - 1}")


def _is_there(directory: Path) -> bool:
    return directory.exists() and not (directory.is_dir() and not any(directory.iterdir()))


def _relative(mine_NLd: Tensor, theirs_NLd: Tensor) -> Tensor:
    distance, size = (theirs_NLd - mine_NLd).norm(dim=2), mine_NLd.norm(dim=2)
    return torch.where(distance == 0, 0.0, distance / size)


def _pieces(table: Table, rows: npt.NDArray[np.int64]) -> Iterator[Tensor]:
    for start in range(0, len(rows), _PIECE_ROWS):
        yield table.read_rows(rows[start : start + _PIECE_ROWS])


def _words(edit: Edit, layers: tuple[int, ...]) -> str:
    """Say what an edit did, in a line."""
    shown = ", ".join(map(str, edit.ids[:_DETAILS])) + (", ..." if len(edit.ids) > _DETAILS else "")
    words = [f"ids {shown}, layers {', '.join(map(str, layers))}: scaled by {edit.scale:g}"]
    if edit.added_id is not None:
        words.append(f"{edit.weight:g} times the row of id {edit.added_id} added")
    if edit.addition_Ld is not None:
        norm = float(edit.addition_Ld.norm())
        words.append(f"{edit.weight:g} times a vector of norm {norm:.4g} added")
    return "; ".join(words)
