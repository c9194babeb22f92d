"""How well a model predicts a text: perplexity and bits per byte.

Knows windows and sums of losses. Where the memory's rows come from is the caller's choice (`models/rows.py`).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor

from models.attention import PackedContext
from models.errors import ConfigError, CorpusError
from models.loss import next_token_loss
from models.rows import RowSource
from models.text import split_documents
from models.tokenizer import encode_batch, end_of_text_id
from models.transformer import Transformer


@dataclass(frozen=True, kw_only=True)
class EvaluationText:
    """A text as token ids, with what is needed to count bits per byte."""

    ids: Sequence[int]
    """Every document behind an end-of-text id, and one more at the very end: all but the first are predicted."""
    num_bytes: int
    """UTF-8 bytes of the documents, separators left out."""

    @classmethod
    def from_text(cls, text: str, tokenizer: Tokenizer) -> "EvaluationText":
        """Tokenize a text whose documents are separated as `models/text.py` says; no document raises `CorpusError`."""
        return cls.from_documents(split_documents(text), tokenizer)

    @classmethod
    def from_documents(cls, documents: Sequence[str], tokenizer: Tokenizer) -> "EvaluationText":
        """Tokenize documents; none raises `CorpusError`."""
        if not documents:
            raise CorpusError("the text has no documents; give one that says something")
        end = end_of_text_id(tokenizer)
        ids = [end]
        for document_ids in encode_batch(tokenizer, documents):
            ids += [*document_ids, end]
        return cls(ids=ids, num_bytes=sum(len(document.encode()) for document in documents))


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What `evaluate` measured."""

    tokens: int
    """Tokens predicted."""
    bytes: int
    """UTF-8 bytes that they stand for."""
    cross_entropy: float
    """Nats per token."""

    @property
    def perplexity(self) -> float:
        """Exponential of the cross entropy; compares models of one vocabulary only."""
        return math.exp(self.cross_entropy)

    @property
    def bits_per_byte(self) -> float:
        """Bits for each byte of the text; compares models of any vocabulary."""
        return self.cross_entropy * self.tokens / (self.bytes * math.log(2))


@dataclass(frozen=True)
class Window:
    """Tokens [start, stop) go in; the predictions from position `first_scored` on count."""

    start: int
    first_scored: int
    stop: int


def windows(num_predictions: int, context_length: int) -> list[Window]:
    """Cover predictions [0, num_predictions) once each; after the first window, each has half a context before it."""
    half = max(1, context_length // 2)
    found = [Window(0, 0, min(context_length, num_predictions))]
    while found[-1].stop < num_predictions:
        stop = min(found[-1].stop + half, num_predictions)
        found.append(Window(stop - min(context_length, stop), found[-1].stop, stop))
    return found


def batches(
    todo: Sequence[Window], ids: Sequence[int], windows_per_batch: int, max_rows: int | None
) -> list[list[Window]]:
    """Group windows, at most so many together and with at most `max_rows` different ids; None: any number.

    Raises `ConfigError` with the number needed where one window alone has more.
    """
    if max_rows is None:
        return [list(todo[index : index + windows_per_batch]) for index in range(0, len(todo), windows_per_batch)]
    needed = max(len(set(ids[window.start : window.stop])) for window in todo)
    if needed > max_rows:
        raise ConfigError(
            f"a window of this text needs {needed} rows at once and {max_rows} can be held; "
            f"give {needed} device rows or more, or a shorter context"
        )
    found: list[list[Window]] = []
    held: set[int] = set()
    for window in todo:
        more = set(ids[window.start : window.stop])
        if not found or len(found[-1]) == windows_per_batch or len(held | more) > max_rows:
            found.append([])
            held = set()
        found[-1].append(window)
        held |= more
    return found


class ScoredBatch(NamedTuple):
    """The predictions of some windows."""

    hidden_Md: Tensor
    """The states that predict, normed."""
    targets_M: Tensor
    """What is to be predicted, int64."""
    num_done: int
    """Predictions up to and with these."""


@torch.inference_mode()
def scored_batches(
    model: Transformer,
    rows: RowSource | None,
    text: EvaluationText,
    *,
    context_length: int | None = None,
    windows_per_batch: int = 8,
) -> Iterator[ScoredBatch]:
    """Run `model` over `text` and give every prediction once, in order; arguments and errors are `evaluate`'s."""
    longest = model.config.max_position_embeddings
    if context_length is not None and context_length < 1:
        raise ConfigError(f"the context length is {context_length}; it must be at least 1")
    length = longest if context_length is None else min(context_length, longest)
    device = model.head_weight.device
    ids = torch.tensor(text.ids, dtype=torch.int64)
    max_rows = None if rows is None else rows.max_rows
    for batch in batches(windows(len(ids) - 1, length), text.ids, windows_per_batch, max_rows):
        inputs_N = torch.cat([ids[window.start : window.stop] for window in batch]).to(device)
        positions_N = torch.cat([torch.arange(window.stop - window.start) for window in batch]).to(device)
        scored = torch.cat([torch.arange(w.start, w.stop) >= w.first_scored for w in batch]).to(device)
        targets_N = torch.cat([ids[window.start + 1 : window.stop + 1] for window in batch]).to(device)
        context = PackedContext([window.stop - window.start for window in batch])
        fetched = None if rows is None else rows.fetch(inputs_N)
        hidden_Nd = model(inputs_N, positions_N, context, fetched)
        yield ScoredBatch(hidden_Nd[scored], targets_N[scored], batch[-1].stop)


@torch.inference_mode()
def evaluate(
    model: Transformer,
    rows: RowSource | None,
    text: EvaluationText,
    *,
    context_length: int | None = None,
    windows_per_batch: int = 8,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure how well `model` predicts `text`, in windows that overlap by half of `context_length`.

    rows: the memory of a kind that has one. context_length: the model's own where None or longer. `on_progress` is
    told (tokens done, tokens in all).

    Raises `ConfigError` where the windows cannot be had: a context of no tokens, or more different rows in one window
    than `rows` can hold at once.
    """
    num_predictions = len(text.ids) - 1
    total = 0.0
    found = scored_batches(model, rows, text, context_length=context_length, windows_per_batch=windows_per_batch)
    for batch in found:
        losses = next_token_loss(batch.hidden_Md, model.head, batch.targets_M)
        total += float(losses.cross_entropy) * len(batch.hidden_Md)
        if on_progress:
            on_progress(batch.num_done, num_predictions)
    return Evaluation(tokens=num_predictions, bytes=text.num_bytes, cross_entropy=total / num_predictions)
