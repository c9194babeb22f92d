"""How much of each layer's row a request gets: by the server's choice, and by its own.

Knows layers and factors; imports without torch.
"""

import math
from collections.abc import Sequence

import msgspec

from models.errors import ConfigError
from server.engine.errors import RequestError

MAX_ALPHA = 2.0
"""More than all of a row only makes noise louder."""


class MemoryOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one request changes of the memory's part in the model."""

    alpha: float | Sequence[float] | None = None
    """How much of each layer's row is added: one number, or one for each layer; None: as the server has it."""
    drop_layers: Sequence[int] = ()
    """Layers whose rows are left out, beside those that the server leaves out."""


class LayerShares:
    """The server's choice, and what becomes of it with a request's."""

    def __init__(self, num_layers: int, *, alpha: Sequence[float] = (), drop_layers: Sequence[int] = ()) -> None:
        """Serve a model with so many layers of memory, 0 for a dense one.

        alpha: one number or one for each layer; empty: all of every row. Raises `ConfigError`.
        """
        self._num_layers = num_layers
        if (alpha or drop_layers) and not num_layers:
            raise ConfigError("a dense model has no memory; leave out tol_alpha and tol_drop_layers")
        try:
            self._dropped = frozenset(_layers(drop_layers, num_layers, "tol_drop_layers"))
            self._alpha = _per_layer(alpha or (1.0,), num_layers, "tol_alpha")
        except RequestError as error:
            raise ConfigError(str(error)) from error

    def of(self, options: MemoryOptions | None) -> tuple[float, ...] | None:
        """Return how much of each layer's row a request gets; None where that is all of every row.

        Raises `RequestError` that names the field.
        """
        alpha, dropped = self._alpha, self._dropped
        if options is not None:
            if not self._num_layers:
                raise RequestError("this model is dense: it has no memory to leave out or to scale", param="memory")
            if options.alpha is not None:
                given = options.alpha if isinstance(options.alpha, Sequence) else (options.alpha,)
                alpha = _per_layer(given, self._num_layers, "memory.alpha")
            dropped = dropped.union(_layers(options.drop_layers, self._num_layers, "memory.drop_layers"))
        shares = tuple(0.0 if layer in dropped else share for layer, share in enumerate(alpha))
        return None if all(share == 1 for share in shares) else shares


def _per_layer(alpha: Sequence[float], num_layers: int, name: str) -> tuple[float, ...]:
    if len(alpha) not in {1, num_layers}:
        raise RequestError(
            f"{name} has {len(alpha)} numbers; give one, or one for each of {num_layers} layers", param=name
        )
    for share in alpha:
        if not (math.isfinite(share) and 0 <= share <= MAX_ALPHA):
            raise RequestError(f"{name} has the value {share:g}; it must be from 0 to {MAX_ALPHA:g}", param=name)
    return tuple(map(float, alpha)) * (num_layers if len(alpha) == 1 else 1)


def _layers(layers: Sequence[int], num_layers: int, name: str) -> Sequence[int]:
    outside = [layer for layer in layers if not 0 <= layer < num_layers]
    if outside:
        raise RequestError(
            f"{name} has the layer {outside[0]}; this model's layers go from 0 to {num_layers - 1}", param=name
        )
    return layers
