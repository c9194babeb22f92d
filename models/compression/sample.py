"""What a model makes of a text when layers of its memory are stored in one way or another, without writing a table.

Only the rows of the text's own ids are held: memory is bounded by the text, not by the vocabulary.

Shape legend: N tokens of a batch, U different ids of the text, L layers of the table, D hidden size.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from models.evaluation import Evaluation, EvaluationText, evaluate
from models.transformer import Transformer
from paging.basis import Spectrum
from paging.compression import RowValues
from paging.encoding import decode_stored, encode_layer
from paging.layer_encoding import LayerEncoding

Choice = LayerEncoding | None
"""How a layer is stored; None: it is left out."""


class SampleRows:
    """The rows of a text's ids as a `RowSource`, each layer as it would come out of a table that stores it so."""

    max_rows = None

    def __init__(
        self, values: RowValues, text: EvaluationText, found: Mapping[int, Spectrum], model: Transformer
    ) -> None:
        """Take the rows of all ids of `text`; `found`: of the layers that may get a rank."""
        self.geometry = values.geometry
        self._found = found
        self._dtype, self._device = model.head_weight.dtype, model.head_weight.device
        ids_U = np.unique(np.asarray(text.ids, dtype=np.int64))
        self._index_V = torch.zeros(self.geometry.vocab_size, dtype=torch.int64)
        self._index_V[torch.from_numpy(ids_U)] = torch.arange(len(ids_U))
        self._values_ULD = values.rows(ids_U)
        self._stored: dict[int, tuple[Choice, Tensor]] = {}
        self.choose({})

    def choose(self, choices: Mapping[int, Choice]) -> None:
        """Store the layers so from now on; those that are not named as they are in the source."""
        for index, layer in enumerate(self.geometry.layers):
            choice = choices.get(layer, self.geometry.kinds[layer])
            if layer not in self._stored or self._stored[layer][0] != choice:
                self._stored[layer] = (choice, self._through(choice, index).to(self._device, self._dtype))

    def fetch(self, row_keys_N: Tensor) -> "SampleBatch":
        """Pick the batch's rows."""
        return SampleBatch(self, self._index_V[row_keys_N.cpu()].to(self._device))

    def gather(self, index_N: Tensor, layer: int) -> Tensor:
        """Return one layer's values, [N, D]; zeros for a layer that the source does not have."""
        if layer not in self._stored:
            return torch.zeros(len(index_N), self.geometry.hidden_size, dtype=self._dtype, device=self._device)
        return self._stored[layer][1][index_N]

    def _through(self, choice: Choice, index: int) -> Tensor:
        """Return one layer's values as they come out of a table, float32 [U, D]."""
        values_UD = self._values_ULD[:, index]
        if choice is None:
            return torch.zeros_like(values_UD)
        layer = self.geometry.layers[index]
        if choice == self.geometry.kinds[layer]:
            return values_UD
        if choice.rank is None:
            return decode_stored(encode_layer(values_UD, choice, layer=layer), choice).float()
        basis_CD = self._found[layer].basis(choice.rank).float()
        return decode_stored(encode_layer(values_UD, choice, basis_CD, layer=layer), choice).float() @ basis_CD


class SampleBatch:
    """The rows of one batch."""

    def __init__(self, rows: SampleRows, index_N: Tensor) -> None:
        self._rows = rows
        self._index_N = index_N

    def gather(self, layer: int) -> Tensor:
        """Return one layer's values of every token's row, [N, D]."""
        return self._rows.gather(self._index_N, layer)


class Sample:
    """A model, a text and its rows: tells what a choice costs."""

    def __init__(
        self, model: Transformer, rows: SampleRows, text: EvaluationText, *, context_length: int | None = None
    ) -> None:
        self.rows = rows
        self._model = model
        self._text = text
        self._context_length = context_length
        self._measured: dict[tuple[tuple[int, Choice], ...], Evaluation] = {}

    def measure(self, choices: Mapping[int, Choice]) -> Evaluation:
        """Return how well the model predicts the text when layers are stored so; what was measured is remembered."""
        kinds = {layer: choices.get(layer, kind) for layer, kind in self.rows.geometry.kinds.items()}
        key = tuple(sorted(kinds.items(), key=lambda item: item[0]))
        if key not in self._measured:
            self.rows.choose(kinds)
            self._measured[key] = evaluate(self._model, self.rows, self._text, context_length=self._context_length)
        return self._measured[key]
