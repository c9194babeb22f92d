"""Engines over a text, for benchmarks: models of random weights, and tokens that are the text's.

The text is tokenized with a vocabulary of 32,000 trained on it. What is made (models, tokenizer, ids) stays in a
scratch folder and is used again.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.export import table_geometry, write_synthetic_table
from models.initialise import initialise
from models.presets import preset
from models.tokenizer import encode, load_tokenizer, save_tokenizer, train_tokenizer
from paging import Encoding, Table
from paging.storage.faulty import FaultPlan, FaultyStorage
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.messages import Request, RequestOutput
from server.engine.model_tables import TABLE_DIRECTORY
from server.engine.params import SamplingParams
from server.engine.row_memory import PagedMemory
from server.engine.starting import open_table_storage, start_engine
from server.measuring.floor import step_floor
from server.measuring.forced_sampler import FULL_SAMPLING
from server.measuring.streams import RowUse, Streams

VOCAB_SIZE = 32_000
PROMPT_TOKENS = 128
WARM_TOKENS = 100_000
LATENCY = 0.020
FRACTION = 0.1
ZIPF = 1.2
"""With this exponent a tenth of 32,000 rows is missed about as often as by text."""
SAMPLING = dict(FULL_SAMPLING)


class Measured(Streams):
    """An engine over a text, and what its rows and steps did while they were measured."""

    def __init__(
        self,
        engine: Engine,
        ids: npt.NDArray[np.int64],
        num_streams: int,
        *,
        context: int = PROMPT_TOKENS,
        warm: int = WARM_TOKENS,
    ) -> None:
        super().__init__(engine, ids)
        self.num_streams, self.context, self._warm = num_streams, context, warm
        self.use = RowUse()
        self.step_seconds: list[float] = []
        self.fault_seconds: list[float] = []
        self._open: set[str] = set()
        self._num_requests = 0
        self._is_measuring = False
        self._is_under_way = False
        self.warm(warm, num_streams=max(num_streams, 1))

    @property
    def miss_rate(self) -> float:
        """Major faults of the row requests that were measured."""
        return self.use.miss_rate or 0.0

    def decode(self, num_tokens: int) -> float:
        """Run all streams over their next stretch of text; return tokens per second while all of them decode."""
        length = self.context + num_tokens
        starts = self.starts(self.num_streams, length, behind=self._warm)
        if starts[0] + length > len(self.ids) // self.num_streams:
            raise RuntimeError("the text is too short for so many rounds")
        self.begin(starts, context=self.context, num_tokens=num_tokens)
        self._is_measuring = True
        decoded = self.run(num_tokens, self.use)
        self._is_measuring = False
        self.end()
        return decoded.tokens_per_second

    def go_on(self, num_tokens: int, most: int) -> float:
        """As `decode`, but from where the last call ended, for `most` tokens in all: long contexts are made once."""
        if not self._is_under_way:
            starts = self.starts(self.num_streams, self.context + most, behind=self._warm)
            self.begin(starts, context=self.context, num_tokens=most)
            self._is_under_way = True
            self._never_late()
        return self.run(num_tokens, self.use).tokens_per_second

    def serve_steadily(self, num_requests: int, num_tokens: int, steps: int) -> float:
        """Serve with always so many requests there, each that ends followed by another; return tokens per second.

        They stay there from one call to the next, so nothing begins or ends together, in no arm.
        """
        tokens, before = 0, self.engine.stats()
        self._never_late()
        while len(self._open) < num_requests:
            self._add_next(num_requests, num_tokens)
        began = time.perf_counter()
        for _ in range(steps):
            for output in self.engine.step():
                if output.error:
                    raise RuntimeError(output.error)
                tokens += sum(len(choice.token_ids) for choice in output.choices)
                if output.is_finished:
                    self._open.discard(output.request_id)
                    self._add_next(num_requests, num_tokens)
        seconds = time.perf_counter() - began
        self.use.add(before, self.engine.stats())
        return tokens / seconds

    def _never_late(self) -> None:
        """Let no row seem late that is on its way while the engine stands still, which it does between its turns."""
        self.engine.scheduler.rows._row_timeout = float("inf")  # noqa: SLF001

    def _step(self) -> list[RequestOutput]:
        if not self._is_measuring:
            return super()._step()
        faults, began = self._num_faults(), time.perf_counter()
        outputs = super()._step()
        seconds = time.perf_counter() - began
        (self.step_seconds if self._num_faults() == faults else self.fault_seconds).append(seconds)
        return outputs

    def _num_faults(self) -> int:
        return sum(sequence.state.major_faults for sequence in self.engine.scheduler.started)

    def _add_next(self, num_requests: int, num_tokens: int) -> None:
        """Queue the next request; the first ones are of different lengths, so that they do not end together."""
        number = self._num_requests
        self._num_requests += 1
        length = PROMPT_TOKENS + num_tokens
        start = (WARM_TOKENS + number * length * 7) % (len(self.ids) - length)
        count = num_tokens if number >= num_requests else 1 + number * num_tokens // num_requests
        request = Request(
            request_id=str(number),
            prompt_ids=self.ids[start : start + PROMPT_TOKENS].tolist(),
            params=SamplingParams(max_tokens=count, seed=start, **SAMPLING),
        )
        self.engine.add(request)
        self._open.add(request.request_id)


def random_model(scratch: Path, name: str, *, vocab_size: int = VOCAB_SIZE, with_table: bool = False) -> Path:
    """Return a checkpoint of random weights, with a made-up table where asked; make it where it is not there."""
    out = scratch / name
    if not out.exists():
        config = replace(preset(name), vocab_size=vocab_size)
        fingerprints = initialise(config, out)
        if with_table:
            assert fingerprints.table is not None, "a dense model has no table"
            geometry = table_geometry(config, Encoding.BF16)
            write_synthetic_table(geometry, out / TABLE_DIRECTORY, fingerprint=fingerprints.table, seed=0)
    return out


def own_tokenizer(text: Path, scratch: Path) -> Any:
    """Return a tokenizer trained on the text."""
    path = scratch / "tokenizer.json"
    if not path.exists():
        sample = text.read_text(encoding="utf-8")[:20_000_000]
        save_tokenizer(train_tokenizer(sample.split("\n\n"), vocab_size=VOCAB_SIZE), path)
    return load_tokenizer(path)


def text_ids(text: Path, scratch: Path, name: str, tokenizer: Callable[[], Any]) -> npt.NDArray[np.int64]:
    """Return the text's ids, made where they are not there."""
    path = scratch / name
    if not path.exists():
        content = text.read_text(encoding="utf-8")[:12_000_000]
        np.save(path, np.array(encode(tokenizer(), content), dtype=np.int64))
    ids: npt.NDArray[np.int64] = np.load(path)
    return ids


def zipf_ids(vocab_size: int, *, count: int = 400_000) -> npt.NDArray[np.int64]:
    """Return ids of which the k-th commonest is as common as k to the power of -`ZIPF`."""
    generator = np.random.default_rng(7)
    weights = np.arange(1, vocab_size + 1) ** -ZIPF
    return generator.permutation(vocab_size)[generator.choice(vocab_size, count, p=weights / weights.sum())]


def open_engine(
    stack: ExitStack, model: Path, num_lanes: int, options: dict[str, Any], *, late: bool = False
) -> Engine:
    """Start an engine, in fp32 unless asked otherwise; with `late` every read takes 20 ms at least."""

    def open_late(table: Table, config: EngineConfig) -> Any:
        return FaultyStorage(open_table_storage(table, config), FaultPlan(latency=(LATENCY, LATENCY)))

    config = EngineConfig(**{"model": str(model), "max_num_seqs": num_lanes, "dtype": "fp32", **options})
    engine = start_engine(config, open_storage=open_late) if late else start_engine(config)
    stack.callback(engine.close)
    return engine


def floor_bytes(engine: Engine, num_streams: int, context: float) -> float:
    """Return the bytes that one decoding step cannot do without."""
    return step_floor(engine, num_streams=num_streams, context=context).num_bytes


def run_prompt(engine: Engine, prompt: Sequence[int] | npt.NDArray[np.int64]) -> float:
    """Return the seconds from a prompt's queueing to its first token."""
    began = time.perf_counter()
    engine.add(
        Request(
            request_id="prompt",
            prompt_ids=[int(token) for token in prompt],
            params=SamplingParams(max_tokens=1, seed=1, **SAMPLING),
        )
    )
    while engine.scheduler.has_work:
        for output in engine.step():
            if output.error:
                raise RuntimeError(output.error)
    return time.perf_counter() - began


def preload(measured: Measured) -> None:
    """Bring every row to its slot."""
    memory = measured.engine.scheduler.rows.memory
    assert isinstance(memory, PagedMemory)
    for keys in np.array_split(np.arange(measured.engine.info.vocab_size), 64):
        lease = memory.lease(keys)
        memory.wait_for([lease], 60)
        memory.release(lease)


def conditions(model: Path, num_tokens: int, *, context: int = PROMPT_TOKENS) -> dict[str, Any]:
    """Say what a ratio depends on."""
    with Table.open(model / "table") if (model / "table").exists() else ExitStack() as table:
        size = (
            f"{table.num_rows:,} rows of {table.geometry.row_bytes:,} B" if isinstance(table, Table) else "the demo's"
        )
    return {
        "table": size,
        "contexts": f"{context:,} to {context + num_tokens:,} tokens",
        "host tier": "none",
        "storage": "direct",
        "dtype": "fp32",
        "sampling": "temperature 0.8, top_k 50, top_p 0.95, then the text's token",
    }
