"""All that only a CUDA machine can tell, in one run on a bare one: tests, equality to the bit, ratios and times.

    make gpu-wheels                       # here: fetches what a bare machine lacks into build/wheels
    make gpu-check                        # there
    python3 benchmarks/gpu_check.py --wheels build/wheels --trace ids.npy --out DIR/gpu

Needs torch 2.11 or later, numpy, safetensors and tokenizers; xxhash and msgspec are taken from the wheels where they
are not installed. Nothing is installed, nothing is downloaded. Models have random weights at 1B size; the token ids are
a trace's, or made up by Zipf's law where none is given: then the miss rates are made up too.
"""

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CARRIED = ("xxhash", "msgspec")
STREAMS = (1, 8, 32, 128)
VOCAB_SIZE = 128_256
PARTS = ("tests", "equality", "speed", "prefill")


def main() -> None:
    """Check and measure; exit code 1 where a check failed, 2 where nothing can be checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, default=ROOT / "build" / "wheels", help="wheels of what is missing")
    parser.add_argument("--trace", type=Path, help="token ids (.npy) below 128,256, half a million or more")
    parser.add_argument("--scratch", type=Path, help="where models are made (40 GB), and found again")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, nargs="*", default=STREAMS)
    parser.add_argument("--only", choices=PARTS, nargs="*", default=PARTS, help="these parts alone")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/gpu"), help="report, without its ending")
    options = parser.parse_args()
    with ExitStack() as stack:
        scratch = options.scratch or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tolbooth-gpu-")))
        unpacked = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tolbooth-wheels-")))
        sys.path[:0] = [str(ROOT), str(unpacked)]
        unpack_missing(options.wheels, unpacked)
        import torch  # noqa: PLC0415 not before the wheels

        if not torch.cuda.is_available():
            print("error: this machine has no CUDA device; nothing was checked", file=sys.stderr)
            sys.exit(2)
        failed = run(options, scratch, unpacked)
    sys.exit(1 if failed else 0)


def unpack_missing(wheels: Path, target: Path) -> None:
    """Unpack the wheels of libraries that are not installed; exit where one is not there for this Python."""
    for name in CARRIED:
        if importlib.util.find_spec(name):
            continue
        tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
        found = [path for path in wheels.glob(f"{name}-*.whl") if tag in path.name]
        if not found:
            print(
                f"error: {name} is missing, and {wheels} has no wheel of it for {tag}: make gpu-wheels", file=sys.stderr
            )
            sys.exit(2)
        with zipfile.ZipFile(found[-1]) as wheel:
            wheel.extractall(target)


def run(options: argparse.Namespace, scratch: Path, unpacked: Path) -> bool:
    """Run the parts and write the report; return whether a check failed."""
    from harness import write_report  # noqa: PLC0415 after the wheels

    failed = False
    facts: list[str] = []
    comparisons: list[Any] = []
    if "tests" in options.only:
        failed |= not run_tests(unpacked, facts)
    if "equality" in options.only:
        failed |= not check_equality(scratch, facts)
    ids = token_ids(options.trace, facts)
    if "speed" in options.only:
        bandwidth = copy_bandwidth(facts)
        comparisons += [decode(scratch, ids, count, options.rounds, bandwidth, facts) for count in options.streams]
    if "prefill" in options.only:
        prefill(scratch, ids, options.rounds, facts)
    for comparison in comparisons:
        print(comparison.to_markdown())
    print("\n".join(facts))
    remarks = "\n".join(f"- {fact}" for fact in facts)
    write_report(comparisons, options.out, title="On a GPU", remarks=remarks, more={"facts_measured": facts})
    return failed


def run_tests(unpacked: Path, facts: list[str]) -> bool:
    """Run the tests that need a CUDA device; return whether they passed."""
    if not importlib.util.find_spec("pytest"):
        facts.append("tests: not run, this machine has no pytest")
        return False
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "-o", "addopts="]
    command += ["--import-mode=importlib", "tests/paging", "tests/models", "tests/server/engine"]
    path = f"{ROOT}:{unpacked}"
    result = subprocess.run(  # noqa: S603 our own command
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    print(result.stdout[-6000:], result.stderr[-2000:])
    last = result.stdout.strip().splitlines()[-1:] or ["no output"]
    facts.append(f"tests that need a GPU: {last[0]}")
    return result.returncode == 0


def check_equality(scratch: Path, facts: list[str]) -> bool:
    """Compare the scores of paged and resident runs of one schedule, bit for bit; return whether they are equal."""
    import numpy as np  # noqa: PLC0415
    import torch  # noqa: PLC0415
    from measured import VOCAB_SIZE as SMALL  # noqa: PLC0415
    from measured import open_engine, random_model  # noqa: PLC0415

    from server.engine.messages import Request  # noqa: PLC0415
    from server.engine.params import SamplingParams  # noqa: PLC0415

    model = random_model(scratch, "250m-memoryllm", with_table=True)
    generator = np.random.default_rng(7)
    prompts = [generator.zipf(1.2, int(n)).clip(max=SMALL) - 1 for n in generator.integers(1, 100, 24)]
    arms: dict[str, dict[str, Any]] = {
        "resident": {"memory": "resident"},
        "paged, 10%, host tier": {"tol_device_fraction": 0.1, "tol_host_bytes": 3 * 2**30, "defer_after": float("inf")},
        "paged, 10%, storage only": {"tol_device_fraction": 0.1, "defer_after": float("inf")},
    }
    found: dict[str, list[torch.Tensor]] = {}
    for name, options in arms.items():
        with ExitStack() as stack:
            engine = open_engine(stack, model, 8, {**options, "dtype": "bf16", "device": "cuda"})
            scores = found[name] = []
            original = engine.runner.scores

            def recorded(*arguments: Any, original: Any = original, scores: Any = scores) -> torch.Tensor:
                result: torch.Tensor = original(*arguments)
                scores.append(result.clone())
                return result

            engine.runner.scores = recorded
            for number, prompt in enumerate(prompts):
                params = SamplingParams(max_tokens=24, temperature=0, ignore_eos=True)
                engine.add(Request(request_id=str(number), prompt_ids=prompt.tolist(), params=params))
            while engine.scheduler.has_work:
                for output in engine.step():
                    if output.error:
                        raise RuntimeError(output.error)
    expected = found["resident"]
    is_equal = True
    for name, scores in found.items():
        same = len(scores) == len(expected) and all(map(torch.equal, scores, expected))
        is_equal &= same
        facts.append(
            f"{name}: {len(scores)} steps' scores {'equal to' if same else 'DIFFER from'} resident's, all bits"
        )
    return is_equal


def token_ids(trace: Path | None, facts: list[str]) -> Any:
    """Return token ids of the 1B vocabulary: a trace's, or made up."""
    import numpy as np  # noqa: PLC0415

    if trace is not None:
        ids = np.load(trace, allow_pickle=False).astype(np.int64)
        facts.append(f"token ids: {len(ids):,} of {trace.name}")
        return ids
    facts.append("token ids: made up, by Zipf's law with exponent 1.2; so are the miss rates")
    return np.random.default_rng(7).zipf(1.2, 2_000_000).clip(max=VOCAB_SIZE) - 1


def copy_bandwidth(facts: list[str]) -> float:
    """Return the bytes per second, read and written together, of a copy on the device."""
    import torch  # noqa: PLC0415

    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    seconds = []
    for _ in range(20):
        torch.cuda.synchronize()
        began = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    bandwidth = 2 * source.nbytes / statistics.median(seconds)
    facts.append(f"a copy on the device moves {bandwidth / 1e12:.2f} TB/s")
    return bandwidth


def decode(  # noqa: PLR0917
    scratch: Path, ids: Any, num_streams: int, rounds: int, bandwidth: float, facts: list[str]
) -> Any:
    """Compare milliseconds per step at 1B size; the whole table on the device, a tenth of it, and the dense model."""
    import torch  # noqa: PLC0415
    from harness import Arm, compare  # noqa: PLC0415
    from measured import PROMPT_TOKENS, Measured, conditions, floor_bytes, open_engine, random_model  # noqa: PLC0415

    memory_model = random_model(scratch, "1b-memoryllm", vocab_size=VOCAB_SIZE, with_table=True)
    dense_model = random_model(scratch, "1b-dense", vocab_size=VOCAB_SIZE)
    num_tokens = 96
    options: dict[str, Any] = {
        "dtype": "bf16",
        "device": "cuda",
        "max_model_len": PROMPT_TOKENS + num_tokens,
        "max_num_batched_tokens": 2048,
    }
    tenth = {**options, "tol_device_fraction": 0.1}
    arms: dict[str, tuple[Path, dict[str, Any]]] = {
        "resident": (memory_model, {**options, "memory": "resident"}),
        "paged, 10%, the rest in host memory": (memory_model, {**tenth, "tol_host_bytes": 13 * 2**30}),
        "paged, 10%, storage only": (memory_model, tenth),
        "dense": (dense_model, options),
    }
    with ExitStack() as stack:
        measured, memory_bytes = {}, {}
        for name, (model, its) in arms.items():
            before = torch.cuda.memory_allocated()
            measured[name] = Measured(open_engine(stack, model, num_streams, its), ids, num_streams)
            memory_bytes[name] = torch.cuda.memory_allocated() - before
        result = compare(
            f"1B, decoding, {num_streams} at once",
            [
                Arm(name=name, run=lambda arm=arm: 1e3 * num_streams / arm.decode(num_tokens))
                for name, arm in measured.items()
            ],
            unit="ms/step",
            rounds=rounds,
            conditions={**conditions(memory_model, num_tokens), "dtype": "bf16"},
        )
        for name, arm in measured.items():
            milliseconds = result.value(name).median
            floor = 1e3 * floor_bytes(arm.engine, num_streams, PROMPT_TOKENS + num_tokens / 2) / bandwidth
            facts.append(
                f"1B, {num_streams} at once, {name}: {milliseconds:.2f} ms a step, "
                f"{floor / milliseconds:.0%} of its floor of {floor:.2f} ms, miss rate {arm.miss_rate:.4f}, "
                f"{memory_bytes[name] / 1e9:.2f} GB of the device"
            )
        dense_share = (
            1e3 * floor_bytes(measured["dense"].engine, num_streams, PROMPT_TOKENS + num_tokens / 2) / bandwidth
        )
        ratio = result.value("paged, 10%, the rest in host memory").median / result.value("dense").median
        if dense_share / result.value("dense").median < 0.7:
            facts.append(
                f"1B, {num_streams} at once: the dense arm is below 70% of its floor, no ratio to it is quoted"
            )
        else:
            facts.append(f"1B, {num_streams} at once, paged / dense: {ratio:.3f} of the time")
    torch.cuda.empty_cache()
    return replace(result, conditions={**result.conditions, "ids": "see the remarks"})


def prefill(scratch: Path, ids: Any, rounds: int, facts: list[str]) -> None:
    """Report the time of a prompt of 2,048 tokens without any of its rows, beside one that finds all of them."""
    import numpy as np  # noqa: PLC0415
    from measured import open_engine, random_model, run_prompt  # noqa: PLC0415

    model = random_model(scratch, "1b-memoryllm", vocab_size=VOCAB_SIZE, with_table=True)
    options: dict[str, Any] = {
        "dtype": "bf16",
        "device": "cuda",
        "max_num_batched_tokens": 2048,
        "tol_device_fraction": 0.1,
        "enable_prefix_caching": False,
    }
    cold, warm, num_rows = [], [], []
    for number in range(rounds):
        with ExitStack() as stack:
            engine = open_engine(stack, model, 1, options)
            run_prompt(engine, ids[:1])
            prompt = ids[100_000 + number * 2048 : 100_000 + (number + 1) * 2048]
            num_rows.append(len(np.unique(prompt)))
            cold.append(run_prompt(engine, prompt))
            warm.append(run_prompt(engine, prompt))
    rows = statistics.median(num_rows)
    facts.append(
        f"1B, a prompt of 2,048 tokens with {rows:.0f} different rows: cold {1e3 * statistics.median(cold):.1f} ms, "
        f"warm {1e3 * statistics.median(warm):.1f} ms; "
        f"cold reads {rows * 98_304 / statistics.median(cold) / 1e9:.2f} GB/s"
    )


if __name__ == "__main__":
    main()
