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

import numpy as np
import numpy.typing as npt
import torch
from measured import PROMPT_TOKENS, SAMPLING, VOCAB_SIZE
from torch import Tensor

from models.rows import Rows
from paging import Table
from server.engine.params import SamplingParams
from server.engine.sampling import SampledSequence, Sampler


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

    def __init__(self, model: Path, ids: npt.NDArray[np.int64], num_streams: int) -> None:
        import transformers  # noqa: PLC0415 an extra

        transformers.utils.logging.set_verbosity_error()
        self.model = transformers.LlamaForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self.sampler = Sampler(VOCAB_SIZE, torch.device("cpu"))
        self.ids = ids
        self.num_streams = num_streams
        self.round = 0

    @torch.inference_mode()
    def decode(self, num_tokens: int) -> float:
        """Return tokens per second over the next stretch of every stream, prompts not counted."""
        stretch = len(self.ids) // self.num_streams
        starts = [stream * stretch + self.round * (PROMPT_TOKENS + num_tokens) for stream in range(self.num_streams)]
        self.round += 1
        prompts = torch.from_numpy(np.stack([self.ids[start : start + PROMPT_TOKENS] for start in starts]))
        cache = self.model(prompts, use_cache=True, logits_to_keep=1).past_key_values
        sequences = [self._sequence(start, num_tokens) for start in starts]
        started = time.perf_counter()
        for step in range(num_tokens):
            forced = torch.tensor([[int(self.ids[start + PROMPT_TOKENS + step])] for start in starts])
            out = self.model(forced, past_key_values=cache, use_cache=True)
            self.sampler.sample(out.logits[:, -1], sequences)
            for row, sequence in enumerate(sequences):
                sequence.output_ids.append(int(forced[row, 0]))
        return self.num_streams * num_tokens / (time.perf_counter() - started)

    def _sequence(self, start: int, num_tokens: int) -> SampledSequence:
        return SampledSequence(
            SamplingParams(max_tokens=num_tokens, seed=start, **SAMPLING),
            seed=start,
            choice=0,
            prompt_ids=self.ids[start : start + PROMPT_TOKENS].tolist(),
            output_ids=[],
            eos_token_id=None,
            bad_word_ids=(),
        )
