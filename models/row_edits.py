"""Changes to single rows: `row = scale * row + addition` in some of their layers, all else left as it is to the bit.

Knows payloads and layers; knows nothing of tokens or of packs.

Shape legend: N rows, L edited layers, d hidden size, R bytes of a row.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.errors import PackError
from paging import TableGeometry, decode_layer, encode_rows

VECTOR = "vector"
"""The name of the tensor in a file of something to add."""


def check_editable(geometry: TableGeometry) -> None:
    """Raise `PackError` for a table whose rows cannot be made one by one."""
    if geometry.ranks:
        layers = ", ".join(map(str, geometry.ranks))
        raise PackError(
            f"the table's layers {layers} are low-rank: their rows share a basis that a pack cannot extend; make the "
            "pack over a table in another encoding, and serve it over that"
        )


def chosen_layers(geometry: TableGeometry, layers: Sequence[int]) -> tuple[int, ...]:
    """Return the layers to edit, ascending; all that the table has where none are named."""
    missing = sorted(set(layers) - set(geometry.layers))
    if missing:
        raise PackError(
            f"the table has no layer {', '.join(map(str, missing))}; it has {', '.join(map(str, geometry.layers))}"
        )
    return tuple(sorted(set(layers))) or geometry.layers


def layer_values(payload_NR: Tensor, geometry: TableGeometry, layers: Sequence[int]) -> Tensor:
    """Return some layers of rows as values, float32 [N, L, d]."""
    return torch.stack([decode_layer(payload_NR, geometry, layer).float() for layer in layers], dim=1)


def edit_rows(
    payload_NR: Tensor, geometry: TableGeometry, layers: Sequence[int], *, scale: float, addition_Ld: Tensor | None
) -> Tensor:
    """Return the rows with `scale * values + addition` in `layers`, and the bytes of all other layers as they were.

    Raises `EncodingError` where a value is too large for the table's encoding.
    """
    values_NLd = layer_values(payload_NR, geometry, geometry.layers)
    places = [geometry.layers.index(layer) for layer in layers]
    changed_NLd = values_NLd[:, places] * scale
    values_NLd[:, places] = changed_NLd if addition_Ld is None else changed_NLd + addition_Ld
    encoded_NR = encode_rows(values_NLd, geometry)
    edited_NR = payload_NR.clone()
    for layer in layers:
        segment = geometry.segment(layer)
        part = slice(segment.offset, segment.offset + segment.num_bytes)
        edited_NR[:, part] = encoded_NR[:, part]
    return edited_NR


def load_vector(path: Path, *, num_layers: int, hidden_size: int) -> Tensor:
    """Read what is to be added from a safetensors file: `vector`, [d] for every layer or [L, d]; float32 [L, d]."""
    try:
        with safe_open(path, framework="pt") as file:
            if VECTOR not in file.keys():  # noqa: SIM118 not a mapping
                raise PackError(f"{path} has no tensor called {VECTOR}")
            shape = list(file.get_slice(VECTOR).get_shape())
            if shape not in ([hidden_size], [num_layers, hidden_size]):
                raise PackError(
                    f"the {VECTOR} of {path} has the shape {shape}; it must be [{hidden_size}], "
                    f"or [{num_layers}, {hidden_size}] for the {num_layers} chosen layers"
                )
            vector: Tensor = file.get_tensor(VECTOR).float()
    except (OSError, SafetensorError) as error:
        raise PackError(f"cannot read {path}: {error}") from error
    if not bool(vector.isfinite().all()):
        raise PackError(f"the {VECTOR} of {path} has values that are not finite")
    return vector.expand(num_layers, hidden_size)
