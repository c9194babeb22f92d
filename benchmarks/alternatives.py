"""What a user could have instead of this engine, as arms of a benchmark: a first attempt, and another library.

| class          | what it is                                                                            |
|----------------|---------------------------------------------------------------------------------------|
| `NaiveRows`    | the table's file mapped, and each token's row indexed in turn                         |
| `OutsideModel` | the dense weights in `transformers`, decoding as that library does, with its own cache |
"""

import mmap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from measured import PROMPT_TOKENS, SAMPLING, VOCAB_SIZE
from torch import Tensor

from models.attention import PackedContext
from models.checkpoint import load_model
from models.rows import Rows
from paging import Table
from server.engine.engine import Engine
from server.engine.params import SamplingParams
from server.engine.row_memory import WholeMemory
from server.engine.sampling import SampledSequence, Sampler

LOGITS_TOLERANCE = 2e-3
"""Between this engine and `transformers`: other kernels round otherwise, over 24 layers."""


class NaiveRows:
    """The table's first shard mapped, and each token's row indexed in turn: a page fault at a time where it is cold."""

    max_rows = None

    def __init__(self, table: Table) -> None:
        manifest = table.manifest
        self._geometry = table.geometry
        self._maps: list[npt.NDArray[np.uint8]] = []
        self._firsts: list[int] = []
        for shard in manifest.shards:
            with (table.directory / shard.file).open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            rows = np.frombuffer(mapped, dtype=np.uint8)[-shard.num_rows * self._geometry.row_stride :]
            self._maps.append(rows.reshape(shard.num_rows, self._geometry.row_stride))
            self._firsts.append(shard.first_row)

    def fetch(self, row_keys_N: Tensor) -> "NaiveBatch":
        """Copy each row out of its map."""
        rows = []
        for key in row_keys_N.tolist():
            shard = int(np.searchsorted(self._firsts, key, side="right")) - 1
            rows.append(self._maps[shard][key - self._firsts[shard], : self._geometry.row_bytes])
        payload_NR = torch.from_numpy(np.stack(rows))
        values = payload_NR.view(torch.bfloat16).view(len(rows), -1, self._geometry.hidden_size).float()
        return NaiveBatch(values)


@dataclass(frozen=True)
class NaiveBatch(Rows):
    """Rows of a batch, all layers."""

    values_NLd: Tensor

    def gather(self, layer: int) -> Tensor:
        """Return a layer's values."""
        return self.values_NLd[:, layer]


class OutsideModel:
    """The dense weights in `transformers`, decoding a batch as that library does; same text, same sampling."""

    def __init__(
        self, model: Path, ids: npt.NDArray[np.int64], num_streams: int, *, context: int = PROMPT_TOKENS
    ) -> None:
        import transformers  # noqa: PLC0415 an extra

        transformers.utils.logging.set_verbosity_error()
        self.model = transformers.LlamaForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self.sampler = Sampler(VOCAB_SIZE, torch.device("cpu"))
        self.ids = ids
        self.num_streams, self.context = num_streams, context
        self.round = 0
        self._batch: OutsideBatch | None = None

    def decode(self, num_tokens: int) -> float:
        """Return tokens per second over the next stretch of every stream, prompts not counted."""
        self._batch = None  # its cache is as large as the next one's
        return self._begin(num_tokens).run(num_tokens)

    def go_on(self, num_tokens: int, most: int) -> float:
        """As `decode`, but from where the last call ended, for `most` tokens in all."""
        if self._batch is None:
            self._batch = self._begin(most)
        return self._batch.run(num_tokens)

    @torch.inference_mode()
    def _begin(self, num_tokens: int) -> "OutsideBatch":
        stretch, length = len(self.ids) // self.num_streams, self.context + num_tokens
        starts = [stream * stretch + self.round * length for stream in range(self.num_streams)]
        self.round += 1
        prompts = torch.from_numpy(np.stack([self.ids[start : start + self.context] for start in starts]))
        cache = self.model(prompts, use_cache=True, logits_to_keep=1).past_key_values
        sequences = [
            SampledSequence(
                SamplingParams(max_tokens=num_tokens, seed=start, **SAMPLING),
                seed=start,
                choice=0,
                prompt_ids=self.ids[start : start + self.context].tolist(),
                output_ids=[],
                eos_token_id=None,
                bad_word_ids=(),
            )
            for start in starts
        ]
        return OutsideBatch(self, cache, sequences)


@dataclass(frozen=True)
class OutsideBatch:
    """Streams that have read their prompts, and the library's cache of them."""

    outside: OutsideModel
    cache: Any
    sequences: list[SampledSequence]

    @torch.inference_mode()
    def run(self, num_tokens: int) -> float:
        """Decode so many tokens of each stream; return tokens per second."""
        outside, sequences = self.outside, self.sequences
        started = time.perf_counter()
        for _ in range(num_tokens):
            places = [each.seed + outside.context + each.position for each in sequences]
            forced = torch.tensor([[int(outside.ids[place])] for place in places])
            out = outside.model(forced, past_key_values=self.cache, use_cache=True)
            outside.sampler.sample(out.logits[:, -1], sequences)
            for row, sequence in enumerate(sequences):
                sequence.output_ids.append(int(forced[row, 0]))
        return len(sequences) * num_tokens / (time.perf_counter() - started)


def make_naive(engine: Engine, table: Table) -> None:
    """Let an engine whose rows are mapped take them as a first attempt would."""
    memory = engine.scheduler.rows.memory
    assert isinstance(memory, WholeMemory)
    memory.source = NaiveRows(table)


@torch.inference_mode()
def check_equal_logits(dense_model: Path, ids: npt.NDArray[np.int64]) -> str:
    """Raise unless `transformers` computes what this engine's model computes; return how near it comes."""
    outside = OutsideModel(dense_model, ids, 1)
    prompt = torch.from_numpy(ids[:PROMPT_TOKENS].copy())
    theirs = outside.model(prompt[None]).logits[0]
    ours = load_model(dense_model, dtype=torch.float32).eval()
    found = ours.logits(ours(prompt, torch.arange(len(prompt)), PackedContext([len(prompt)])))
    difference = float((found - theirs).abs().max())
    if difference > LOGITS_TOLERANCE:
        raise RuntimeError(f"transformers' logits differ by {difference:g}")
    return f"dense, logits here and in transformers differ by at most {difference:.1g}, over {len(prompt)} tokens"
