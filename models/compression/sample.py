"""What a model makes of a text when layers of its memory are stored in one way or another, without writing a table.

Only the rows of the text's own ids are held: memory is bounded by the text, not by the vocabulary.

Shape legend: N tokens of a batch, M of its predictions, U different ids of the text, L layers of the table, D or d
hidden size, V vocabulary.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.evaluation import Evaluation, EvaluationText, ScoredBatch, scored_batches
from models.loss import CHUNK_LOGITS, next_token_loss
from models.rows import Rows
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


class SampleBatch(Rows):
    """The rows of one batch."""

    def __init__(self, rows: SampleRows, index_N: Tensor) -> None:
        self._rows = rows
        self._index_N = index_N

    def gather(self, layer: int) -> Tensor:
        """Return one layer's values of every token's row, [N, D]."""
        return self._rows.gather(self._index_N, layer)


@dataclass(frozen=True)
class Measured:
    """What a choice does to a model's predictions of a text."""

    evaluation: Evaluation
    divergence: float
    """How far the predictions are from those with the rows as they are: Kullback-Leibler, nats per token.

    The rise of the cross entropy that is to be expected on text like the model's own. Unlike the rise on the sample it
    has next to no chance in it: it counts every token that might have come, not the one that came.
    """


class Sample:
    """A model, a text and its rows: tells what a choice costs."""

    def __init__(self, model: Transformer, rows: SampleRows, text: EvaluationText) -> None:
        self.rows = rows
        self._model = model
        self._text = text
        self._measured: dict[tuple[tuple[int, Choice], ...], Measured] = {}
        self._whole = [batch.hidden_Md for batch in self._batches({})]

    @torch.inference_mode()
    def measure(self, choices: Mapping[int, Choice]) -> Measured:
        """Return what it costs when layers are stored so; what was measured is remembered."""
        kinds = {layer: choices.get(layer, kind) for layer, kind in self.rows.geometry.kinds.items()}
        key = tuple(kinds.items())
        if key not in self._measured:
            self._measured[key] = self._measure(kinds)
        return self._measured[key]

    def _measure(self, choices: Mapping[int, Choice]) -> Measured:
        num_tokens = len(self._text.ids) - 1
        head_Vd = self._model.head_weight
        cross_entropy = divergence = 0.0
        for batch, whole_Md in zip(self._batches(choices), self._whole, strict=True):
            losses = next_token_loss(batch.hidden_Md, head_Vd, batch.targets_M)
            cross_entropy += float(losses.cross_entropy) * len(batch.hidden_Md)
            divergence += _divergence(whole_Md, batch.hidden_Md, head_Vd)
        evaluation = Evaluation(tokens=num_tokens, bytes=self._text.num_bytes, cross_entropy=cross_entropy / num_tokens)
        return Measured(evaluation, divergence / num_tokens)

    def _batches(self, choices: Mapping[int, Choice]) -> Iterator[ScoredBatch]:
        self.rows.choose(choices)
        return scored_batches(self._model, self.rows, self._text)


def _divergence(whole_Md: Tensor, hidden_Md: Tensor, head_Vd: Tensor) -> float:
    """Return the sum over tokens of KL(whole || hidden), in chunks of logits."""
    total = 0.0
    step = max(1, CHUNK_LOGITS // len(head_Vd))
    for start in range(0, len(hidden_Md), step):
        ours_MV, theirs_MV = (
            (states_Md[start : start + step] @ head_Vd.T).float().log_softmax(-1) for states_Md in (whole_Md, hidden_Md)
        )
        total += float(F.kl_div(theirs_MV, ours_MV, log_target=True, reduction="sum"))
    return total
