"""Engines over a text, for benchmarks: models of random weights, and tokens that are the text's.

A model of random weights would loop or wander; so the sampler does its full work, and then the next token is taken
from the text, tokenized with a vocabulary of 32,000 trained on it. What is made (models, tokenizer, ids) stays in a
scratch folder and is used again.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
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
from server.engine.messages import Request
from server.engine.model_tables import TABLE_DIRECTORY
from server.engine.params import SamplingParams
from server.engine.row_memory import PagedMemory
from server.engine.sampling import SampledSequence, SampledTokens, Sampler
from server.engine.starting import open_table_storage, start_engine

VOCAB_SIZE = 32_000
PROMPT_TOKENS = 128
WARM_TOKENS = 100_000
LATENCY = 0.020
FRACTION = 0.1
SAMPLING = {"temperature": 0.8, "top_k": 50, "top_p": 0.95, "ignore_eos": True}


class ForcedSampler:
    """Samples, then says what the text says; a request's seed is where in the text it begins."""

    def __init__(self, sampler: Sampler, ids: npt.NDArray[np.int64]) -> None:
        self._sampler, self._ids = sampler, ids

    def sample(self, logits_SV: Any, sequences: Sequence[SampledSequence]) -> SampledTokens:
        """Return the text's next tokens."""
        sampled = self._sampler.sample(logits_SV, sequences)
        forced = [int(self._ids[each.seed + len(each.prompt_ids) + each.position]) for each in sequences]
        return SampledTokens(forced, sampled.logprobs, sampled.errors)


@dataclass
class Measured:
    """An engine over a text, and what its rows and steps did while they were measured."""

    engine: Engine
    ids: npt.NDArray[np.int64]
    num_streams: int
    round: int = 0
    requests: int = 0
    faults: int = 0
    step_seconds: list[float] = field(default_factory=list)
    fault_seconds: list[float] = field(default_factory=list)
    _open: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.engine.sampler = ForcedSampler(self.engine.sampler, self.ids)  # type: ignore[assignment]
        memory = self.engine.scheduler.rows.memory
        if isinstance(memory, PagedMemory):
            self._warm(memory)

    @property
    def miss_rate(self) -> float:
        """Major faults of the row requests that were measured."""
        return self.faults / self.requests if self.requests else 0.0

    def decode(self, num_tokens: int) -> float:
        """Run all streams over their next stretch of text; return tokens per second while all of them decode."""
        began = self._begin(self.num_streams, num_tokens)
        while not self._all_decode(self.num_streams):
            self.engine.step()
        stats, started, tokens = self.engine.stats(), time.perf_counter(), 0
        while len(self.engine.scheduler.started) == self.num_streams:
            step_started = time.perf_counter()
            before = self._num_faults()
            tokens += sum(len(choice.token_ids) for output in self.engine.step() for choice in output.choices)
            seconds = time.perf_counter() - step_started
            (self.step_seconds if self._num_faults() == before else self.fault_seconds).append(seconds)
        rate = tokens / (time.perf_counter() - started)
        self._note(stats)
        self._drain(began)
        return rate

    def serve(self, num_requests: int, num_tokens: int) -> float:
        """Serve more requests than there are lanes; return generated tokens per second from first to last."""
        stats, started = self.engine.stats(), time.perf_counter()
        self._drain(self._begin(num_requests, num_tokens))
        rate = num_requests * num_tokens / (time.perf_counter() - started)
        self._note(stats)
        return rate

    def serve_steadily(self, num_requests: int, num_tokens: int, steps: int) -> float:
        """Serve with always so many requests there, each that ends followed by another; return tokens per second.

        They stay there from one call to the next, so nothing begins or ends together, in no arm.
        """
        tokens, stats = 0, self.engine.stats()
        # Between its turns an engine stands still, and a row that is on its way would seem to be late.
        self.engine.scheduler.rows._row_timeout = float("inf")  # noqa: SLF001
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
        self._note(stats)
        return tokens / seconds

    def _add_next(self, num_requests: int, num_tokens: int) -> None:
        """Queue the next request; the first ones are of different lengths, so that they do not end together."""
        number = self.round
        self.round += 1
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

    def _begin(self, num_requests: int, num_tokens: int) -> int:
        stretch = len(self.ids) // num_requests
        length = PROMPT_TOKENS + num_tokens
        for stream in range(num_requests):
            start = stream * stretch + WARM_TOKENS // num_requests + self.round * length
            if start + length > (stream + 1) * stretch:
                raise RuntimeError("the text is too short for so many rounds")
            self.engine.add(
                Request(
                    request_id=f"{self.round}-{stream}",
                    prompt_ids=self.ids[start : start + PROMPT_TOKENS].tolist(),
                    params=SamplingParams(max_tokens=num_tokens, seed=start, **SAMPLING),
                )
            )
        self.round += 1
        return num_requests

    def _drain(self, _: int) -> None:
        while self.engine.scheduler.has_work:
            for output in self.engine.step():
                if output.error:
                    raise RuntimeError(output.error)

    def _all_decode(self, count: int) -> bool:
        started = self.engine.scheduler.started
        return len(started) == count and all(sequence.output_ids for sequence in started)

    def _num_faults(self) -> int:
        return sum(sequence.state.major_faults for sequence in self.engine.scheduler.started)

    def _note(self, before: Any) -> None:
        after = self.engine.stats()
        if after.memory:
            self.requests += after.memory["row_requests"] - before.memory["row_requests"]
            self.faults += after.memory["major_faults"] - before.memory["major_faults"]

    def _warm(self, memory: PagedMemory) -> None:
        """Let the cache see what comes before in the text, the streams in turns."""
        num_streams = max(self.num_streams, 1)
        stretch, length = len(self.ids) // num_streams, WARM_TOKENS // num_streams
        before = [self.ids[stream * stretch : stream * stretch + length] for stream in range(num_streams)]
        for keys in np.stack(before, axis=1):
            lease = memory.lease(keys)
            memory.wait_for([lease], 60)
            memory.release(lease)


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
    model = engine.runner.model
    config = model.config
    weights = sum(weight.nbytes for name, weight in model.named_parameters() if "embed_tokens" not in name)
    head = 0 if model.lm_head is not None else model.head_weight.nbytes
    position = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * model.head_weight.itemsize
    rows = num_streams * config.num_hidden_layers * config.hidden_size * 2 if config.has_memory else 0  # bf16
    return weights + head + num_streams * context * position + rows


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


def conditions(model: Path, num_tokens: int) -> dict[str, Any]:
    """Say what a ratio depends on."""
    with Table.open(model / "table") if (model / "table").exists() else ExitStack() as table:
        size = (
            f"{table.num_rows:,} rows of {table.geometry.row_bytes:,} B" if isinstance(table, Table) else "the demo's"
        )
    return {
        "table": size,
        "contexts": f"{PROMPT_TOKENS} to {PROMPT_TOKENS + num_tokens} tokens",
        "host tier": "none",
        "storage": "direct",
        "dtype": "fp32",
        "sampling": "temperature 0.8, top_k 50, top_p 0.95, then the text's token",
    }
