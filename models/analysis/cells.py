"""The memory's cells: what a token's query finds in them (MemoryLLM, section 3.1).

A layer's FFN is K cells. Row k of `W_up` is cell k's key, column k of `W_down` its value, and the gate reweights: token
t reads cell k with the coefficient `c_t[k] = (x_t W_up^T)[k] * silu(x_t W_gate^T)[k]`, where x_t is the embedding of t
behind the layer's own norm. What the token gets is `c_t W_down^T`: the layer's part of its row.

Shape legend: V vocabulary, C tokens of a chunk, d hidden size, K cells of a layer, M some of these cells.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.analysis.stored_matrices import Floats, Ids, StoredMatrices
from models.config import ModelConfig
from models.errors import CheckpointError, ConfigError
from models.fingerprint import EMBEDDING

CHUNK_TOKENS = 1024
"""Tokens whose coefficients are held at once: at 1B geometry 22 MB, and as much again twice while they are made."""


@dataclass(frozen=True, kw_only=True)
class Cells:
    """One layer's cells, in float32: 134 MB at 1B geometry."""

    layer: int
    norm_eps: float
    keys_Kd: Floats
    """Rows of `W_up`, times the weights of the layer's norm."""
    gates_Kd: Floats
    """Rows of `W_gate`, likewise."""
    values_dK: Floats
    """`W_down`: a cell's value is a column."""

    @property
    def num_cells(self) -> int:
        """K."""
        return len(self.keys_Kd)

    def coefficients(self, x0_Cd: Floats, cells_M: Ids | None = None) -> Floats:
        """Return `c_t` of tokens with these embeddings, [C, K]; [C, M] where only some cells are asked for."""
        scale_C1 = 1 / np.sqrt(mean_square(x0_Cd) + np.float32(self.norm_eps))
        keys, gates = (
            (self.keys_Kd, self.gates_Kd) if cells_M is None else (self.keys_Kd[cells_M], self.gates_Kd[cells_M])
        )
        gate: Floats = x0_Cd @ gates.T
        gate *= scale_C1
        with np.errstate(over="ignore"):  # far below 0 the sigmoid is 1 / inf = 0, which is right
            gate /= 1 + np.exp(-gate)
        gate *= x0_Cd @ keys.T
        gate *= scale_C1
        return gate

    def parts(self, c_CK: Floats) -> Floats:
        """Return the layer's part of the rows of tokens with these coefficients, [C, d]."""
        part_Cd: Floats = c_CK @ self.values_dK.T
        return part_Cd


class CellMemory:
    """All layers' cells of a checkpoint, with what is needed to ask them and to read what they say."""

    def __init__(self, directory: Path) -> None:
        """Open it; raises `CheckpointError` where the checkpoint has no memory FFNs."""
        config = ModelConfig.load(directory)
        if not config.has_memory:
            raise CheckpointError(
                f"{directory} is a dense model; its FFNs read the context, and so have no cells of tokens"
            )
        matrices = StoredMatrices(directory)
        if _name(0, "up_proj") not in matrices:
            raise CheckpointError(f"{directory} is a slim checkpoint, without its memory's FFNs; use the full one")
        size = (config.vocab_size, config.hidden_size)
        self.config = config
        self._matrices = matrices
        self._embedding_Vd = matrices.get(EMBEDDING, size)
        self._head_Vd = self._embedding_Vd if config.tie_word_embeddings else matrices.get("lm_head.weight", size)
        self._final_norm_d = matrices.get("model.norm.weight", [config.hidden_size]).whole()

    def cells(self, layer: int) -> Cells:
        """Read one layer's cells; a layer that is not there raises `ConfigError`."""
        config = self.config
        if not 0 <= layer < config.num_hidden_layers:
            raise ConfigError(f"there is no layer {layer}; the model has layers 0 to {config.num_hidden_layers - 1}")
        d, K = config.hidden_size, config.intermediate_size
        shapes = {"up_proj": (K, d), "gate_proj": (K, d), "down_proj": (d, K), "norm": (d,)}
        up, gate, down, norm = (self._matrices.get(_name(layer, part), shape).whole() for part, shape in shapes.items())
        up *= norm
        gate *= norm
        return Cells(layer=layer, norm_eps=config.rms_norm_eps, keys_Kd=up, gates_Kd=gate, values_dK=down)

    def embeddings(self, token_ids_C: Ids | slice) -> Floats:
        """Return `X_0` of these tokens, [C, d]."""
        return self._embedding_Vd.rows(token_ids_C)

    def chunks(self, order_V: Ids | None = None) -> Iterator[Ids]:
        """Yield the ids of the whole vocabulary in chunks, ascending or in the order given."""
        ids_V = np.arange(self.config.vocab_size) if order_V is None else order_V
        for start in range(0, len(ids_V), CHUNK_TOKENS):
            yield ids_V[start : start + CHUNK_TOKENS]

    def scores(self, x_Md: Floats) -> Iterator[tuple[Ids, Floats]]:
        """Yield the vocabulary's scores of residual vectors in chunks: ids [C], scores [M, C] (the logit lens).

        The final norm and the head, as if each vector were all that the residual stream holds.
        """
        normed_Md = rms_norm(x_Md, self._final_norm_d, self.config.rms_norm_eps)
        for ids_C in self.chunks():
            yield ids_C, normed_Md @ self._head_Vd.rows(slice(ids_C[0], ids_C[-1] + 1)).T


def rms_norm(x_Cd: Floats, weight_d: Floats, eps: float) -> Floats:
    """Return `x / rms(x) * weight`."""
    normed: Floats = x_Cd / np.sqrt(mean_square(x_Cd) + np.float32(eps)) * weight_d
    return normed


def mean_square(x_Cd: Floats) -> Floats:
    """Return each vector's mean square, [C, 1]."""
    squares_C1: Floats = np.einsum("cd,cd->c", x_Cd, x_Cd)[:, None] / np.float32(x_Cd.shape[1])
    return squares_C1


def unit(x_Cd: Floats) -> Floats:
    """Return vectors at length 1; zeros stay zeros."""
    lengths_C1: Floats = np.linalg.norm(x_Cd, axis=1, keepdims=True).astype(np.float32)
    lengths_C1[lengths_C1 == 0] = 1
    units: Floats = x_Cd / lengths_C1
    return units


def _name(layer: int, part: str) -> str:
    return f"model.layers.{layer}.memory.{part}.weight"
