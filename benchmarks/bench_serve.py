"""What HTTP costs: tokens per second of a streaming server beside the same engine without one, and first-token times.

    make bench-serve
    .venv/bin/python benchmarks/bench_serve.py --scratch DIR --out docs/benchmarks/serve-2026-11-23

Both arms serve the same prompts (random token ids) with the same options, `streams` requests at once, each next one as
soon as one has ended. The offline engine makes text of its tokens too. The clients of the server share the machine with
it: what they take is counted against HTTP.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness import Arm, Comparison, compare, write_report
from measured import VOCAB_SIZE, random_model
from tokenizers import Tokenizer

from models.bundled import resolve_model
from models.config import ModelConfig
from models.tokenizer import TOKENIZER_FILE, save_tokenizer, train_tokenizer
from server import LLM, SamplingParams

PROMPT_TOKENS = 32
FRACTION = 0.1
READY_SECONDS = 300


@dataclass(frozen=True)
class Load:
    """What both arms serve."""

    model: Path
    streams: int
    requests: int
    tokens: int

    @property
    def options(self) -> dict[str, Any]:
        """Of the engine, the same in both arms."""
        return {"max_num_seqs": self.streams, "tol_device_fraction": FRACTION, "enable_prefix_caching": False}

    def prompts(self) -> list[list[int]]:
        """Return random prompts, the same ones every time."""
        vocab_size = ModelConfig.load(self.model).vocab_size
        ids = np.random.default_rng(7).zipf(1.2, (self.requests, PROMPT_TOKENS)).clip(max=vocab_size) - 1
        return [prompt.tolist() for prompt in ids]


class Server:
    """`tolbooth serve` as a subprocess, and clients that stream from it."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.first_token_seconds: list[float] = []
        self._process = subprocess.Popen(  # noqa: S603 our own command
            [
                *(str(Path(sys.executable).with_name("tolbooth")), "serve", str(load.model), "--port", "0"),
                *("--max-num-seqs", str(load.streams), "--tol-device-fraction", str(FRACTION)),
                *("--no-enable-prefix-caching", "--served-model-name", "it", "--no-keep-hot-set"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.port = self._await_port()

    @property
    def pid(self) -> int:
        """The process that talks HTTP."""
        return self._process.pid

    def run(self) -> float:
        """Serve every request; return tokens per second."""
        started = time.perf_counter()
        tokens = asyncio.run(self._run())
        return tokens / (time.perf_counter() - started)

    def close(self) -> None:
        """End the server."""
        self._process.terminate()
        self._process.wait(60)

    def _await_port(self) -> int:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            name, _, value = line.partition(" ")
            if name == "serving":
                return int(value.strip().rsplit(":", 1)[1].partition("/")[0])
        raise RuntimeError("the server did not start")

    async def _run(self) -> int:
        prompts = iter(self.load.prompts())

        async def client() -> int:
            return sum([await self._stream(prompt) for prompt in prompts])

        return sum(await asyncio.gather(*(client() for _ in range(self.load.streams))))

    async def _stream(self, prompt: list[int]) -> int:
        """Stream one completion; return its tokens, counted by the server."""
        body = {
            "model": "it",
            "prompt": prompt,
            "max_tokens": self.load.tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        content = json.dumps(body).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: it\r\nConnection: close\r\nContent-Length: {len(content)}\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        started = time.perf_counter()
        writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + content)
        told, is_first = b"", True
        while piece := await asyncio.wait_for(reader.read(65536), READY_SECONDS):
            if is_first and b"data:" in piece:
                is_first = False
                self.first_token_seconds.append(time.perf_counter() - started)
            told = (told + piece)[-4096:]
        writer.close()
        usage = told[told.rindex(b'"completion_tokens":') + 20 :]
        return int(usage[: usage.index(b",")])


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, help="where the random model is made, and found again")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--only", choices=["250m", "demo"], nargs="*", default=["250m", "demo"])
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/serve"), help="report, without its ending")
    options = parser.parse_args()
    comparisons, facts = [], []
    with ExitStack() as stack:
        scratch = options.scratch or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tolbooth-bench-")))
        if "250m" in options.only:
            model = random_model(scratch, "250m-memoryllm", with_table=True)
            if not (model / TOKENIZER_FILE).exists():
                save_tokenizer(made_up_tokenizer(), model / TOKENIZER_FILE)
            comparisons.append(measure("250m-memoryllm", Load(model, options.streams, 32, 48), options.rounds, facts))
        if "demo" in options.only:
            demo = Load(resolve_model("demo"), options.streams, 96, 64)
            comparisons.append(measure("demo", demo, options.rounds, facts))
    for comparison in comparisons:
        print(comparison.to_markdown())
    remarks = "\n".join(f"- {fact}" for fact in facts)
    write_report(comparisons, options.out, title="Serving", remarks=remarks, more={"facts_measured": facts})


def made_up_tokenizer() -> Tokenizer:
    """Return a tokenizer in which every id has a text: a token without one would be a frame less."""
    letters = np.random.default_rng(7).integers(ord("a"), ord("z") + 1, (120_000, 6), dtype=np.uint8)
    words = [bytes(word).decode() for word in letters]
    return train_tokenizer([" ".join(words)], vocab_size=VOCAB_SIZE)


def measure(name: str, load: Load, rounds: int, facts: list[str]) -> Comparison:
    """Compare streaming over HTTP with the offline engine."""
    params = SamplingParams(max_tokens=load.tokens, temperature=0, ignore_eos=True)
    with ExitStack() as stack:
        llm = stack.enter_context(LLM(str(load.model), quiet=True, **load.options))
        server = Server(load)
        stack.callback(server.close)

        def offline() -> float:
            started = time.perf_counter()
            completions = llm.generate(load.prompts(), params)
            tokens = sum(len(completion.outputs[0].token_ids) for completion in completions)
            return tokens / (time.perf_counter() - started)

        result = compare(
            f"{name}, {load.streams} streams",
            [Arm(name="offline engine", run=offline), Arm(name="HTTP, streaming", run=server.run)],
            unit="tokens/s",
            rounds=rounds,
            conditions={
                "requests": f"{load.requests} of {PROMPT_TOKENS} + {load.tokens} tokens, {load.streams} at once",
                "device tier": f"{FRACTION:.0%} of rows",
                "host tier": "none",
                "clients": "raw sockets, on the same cores",
            },
        )
        times = sorted(server.first_token_seconds)
        facts.append(
            f"{name}: first token over HTTP after {1e3 * statistics.median(times):.0f} ms (median), "
            f"{1e3 * times[int(0.99 * len(times))]:.0f} ms (p99)."
        )
    return result


if __name__ == "__main__":
    main()
