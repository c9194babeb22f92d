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
PROMPT = 2047
"""Tokens; with the one that follows, the models' whole context."""
PARTS = ("kernels", "tests", "equality", "speed", "prefill")
KERNEL_TESTS = ("tests/paging/test_fused.py", "tests/models/test_decode_attention.py", "tests/test_kernels.py")
"""They need no GPU where there is Triton's interpreter, so they are not marked."""


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
    if "kernels" in options.only:
        failed |= not check_kernels(facts)
        host_reads(facts)
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
        facts.append("tests: not run, this machine has no pytest; kernels were checked without")
        return True
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts="]
    command += ["--import-mode=importlib"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{unpacked}"}
    suites = {
        "tests that need a GPU": ["-m", "gpu", "tests/paging", "tests/models", "tests/server/engine"],
        "tests of kernels": list(KERNEL_TESTS),
    }
    passed = True
    for name, arguments in suites.items():
        result = subprocess.run(  # noqa: S603 our own command
            [*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        print(result.stdout[-6000:], result.stderr[-2000:])
        last = result.stdout.strip().splitlines()[-1:] or ["no output"]
        facts.append(f"{name}: {last[0]}")
        passed &= result.returncode == 0
    return passed


def check_kernels(facts: list[str], device: str = "cuda") -> bool:
    """Compare what kernels decode and add with plain operations, bit for bit; return whether all are equal."""
    import torch  # noqa: PLC0415

    from models.decode_attention import _fused as fused_attention  # noqa: PLC0415
    from models.decode_attention import attend_blocks  # noqa: PLC0415
    from paging import LayerEncoding, TableGeometry, encode_rows  # noqa: PLC0415
    from paging.layers import LayerReader, PickedRows, add_values, pick  # noqa: PLC0415

    is_equal = True
    for name in ("bf16", "fp16", "fp32", "int8", "int4/32", "int4/128"):
        encoding = LayerEncoding.parse(name)
        geometry = TableGeometry.uniform(hidden_size=2048, num_layers=4, vocab_size=64, encoding=encoding)
        payload = encode_rows(torch.randn(64, 4, 2048), geometry)
        slab = torch.zeros(64, geometry.row_stride, dtype=torch.uint8)[:, : geometry.row_bytes]
        slab.copy_(payload)
        reader = LayerReader(geometry, slab.to(device))
        index_N = torch.randint(64, (37,), device=device)
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            hidden_ND = torch.randn(37, 2048, device=device).to(dtype)
            alpha_N = torch.rand(37, device=device).to(dtype)
            part = next(iter(reader._parts.values()))  # noqa: SLF001 the reference reads the same bytes
            values_ND = pick(part.stored, part.kind, index_N, dtype)
            layer = geometry.layers[0]
            for given in (None, alpha_N):
                expected = add_values(hidden_ND, values_ND, given)
                added = PickedRows(reader, index_N).add_to(hidden_ND.clone(), layer, given)
                same = torch.equal(expected, added) and torch.equal(values_ND, reader.gather(index_N, layer, dtype))
                is_equal &= same
                if not same:
                    facts.append(
                        f"kernels: {name} to {dtype}, alpha {given is not None}: DIFFERS from plain operations"
                    )
    facts.append(f"kernels: rows decoded and added {'equal' if is_equal else 'are NOT equal to'} plain ones, all bits")
    q_SHD = torch.randn(8, 32, 64, device=device, dtype=torch.bfloat16)
    keys, values = torch.randn(2, 32, 257, 16, 64, device=device, dtype=torch.bfloat16)
    blocks_SB = torch.randperm(256, device=device).view(8, 32)
    lengths_S = torch.tensor([1, 16, 17, 100, 255, 256, 400, 512], device=device)
    arguments = (q_SHD, keys, values, blocks_SB, lengths_S)
    error = (fused_attention()(*arguments).float() - attend_blocks(*arguments).float()).abs().max().item()
    facts.append(f"kernels: attention differs from plain operations by {error:.1e} at most, in bf16")
    return is_equal and error < 0.03


def host_reads(facts: list[str]) -> None:
    """Report the time in which rows are added straight out of pinned host memory, beside copies and then adding."""
    import torch  # noqa: PLC0415

    from paging import LayerEncoding  # noqa: PLC0415
    from paging.cuda_slab import CudaSlab, PinnedSlab  # noqa: PLC0415

    if not importlib.util.find_spec("triton"):
        facts.append("rows read in host memory: not measured, Triton is not installed")
        return
    from paging.fused import fused_add  # noqa: PLC0415

    num_rows, num_layers, size = 32, 24, 2048
    kind, row_bytes = LayerEncoding.parse("bf16"), num_layers * size * 2
    pinned, slots = PinnedSlab(256, row_bytes), CudaSlab(256, row_bytes, torch.device("cuda"))
    index_N = torch.arange(num_rows, device="cuda")
    hidden_ND = torch.zeros(num_rows, size, device="cuda", dtype=torch.bfloat16)

    def add_from(payload_SR: torch.Tensor) -> None:
        for layer in range(num_layers):
            part = payload_SR[:, layer * size * 2 : (layer + 1) * size * 2].view(torch.bfloat16)
            fused_add(part, kind, index_N, hidden_ND, None)

    def copy_and_add() -> None:
        rows = index_N.cpu().numpy()
        slots.copy_in(rows, pinned, rows).wait()
        add_from(slots.payload_SR)

    try:
        for name, work in {"read in host memory": lambda: add_from(pinned.payload_SR), "copied": copy_and_add}.items():
            seconds = []
            for _ in range(20):
                torch.cuda.synchronize()
                began = time.perf_counter()
                work()
                torch.cuda.synchronize()
                seconds.append(time.perf_counter() - began)
            milliseconds = 1e3 * statistics.median(seconds)
            facts.append(f"{num_rows} rows of the host tier, {name} and added: {milliseconds:.3f} ms")
    finally:
        torch.cuda.synchronize()
        pinned.close()


def check_equality(
    scratch: Path, facts: list[str], *, preset: str = "250m-memoryllm", options: dict[str, Any] | None = None
) -> bool:
    """Run each step of paged engines again with the whole table at hand; return whether all bits are the same."""
    import numpy as np  # noqa: PLC0415
    import torch  # noqa: PLC0415
    from measured import VOCAB_SIZE as SMALL  # noqa: PLC0415
    from measured import open_engine, random_model  # noqa: PLC0415

    from models.table_rows import ResidentRows  # noqa: PLC0415
    from paging import Table  # noqa: PLC0415
    from server.engine.decode_graphs import decode_graphs  # noqa: PLC0415
    from server.engine.messages import Request  # noqa: PLC0415
    from server.engine.params import SamplingParams  # noqa: PLC0415
    from server.engine.runner import Runner  # noqa: PLC0415

    model = random_model(scratch, preset, with_table=True)
    generator = np.random.default_rng(7)
    prompts = [generator.zipf(1.2, int(n)).clip(max=SMALL) - 1 for n in generator.integers(1, 100, 24)]
    common = {"dtype": "bf16", "device": "cuda", "tol_device_fraction": 0.1, **(options or {})}
    arms: dict[str, dict[str, Any]] = {
        "10%, host tier": {"tol_host_bytes": 3 * 2**30},
        "10%, storage only": {},
        "10%, storage only, nothing captured": {},
    }
    is_equal = True
    for name, its in arms.items():
        with ExitStack() as stack:
            engine = open_engine(stack, model, 8, {**common, **its})
            runner = engine.runner
            table = stack.enter_context(Table.open(model / "table"))
            resident = ResidentRows(table, dtype=runner.model.head_weight.dtype, device=runner.device)
            graphs = decode_graphs(runner.model, runner.cache, 8)
            if "nothing captured" in name:
                runner.graphs = graphs = None
            again = Runner(runner.model, runner.cache, graphs)
            found: list[bool] = []
            original = runner.run

            def compared(  # noqa: PLR0917 as the runner's
                chunks: Any,
                rows: Any,
                alpha_NL: Any = None,
                original: Any = original,
                again: Any = again,
                resident: Any = resident,
                found: Any = found,
            ) -> torch.Tensor:
                hidden_Nd: torch.Tensor = original(chunks, rows, alpha_NL).clone()
                keys = np.concatenate([chunk.sequence.pending(chunk.length) for chunk in chunks])
                other_Nd = again.run(chunks, resident.fetch(torch.from_numpy(keys)), alpha_NL)
                found.append(torch.equal(hidden_Nd, other_Nd))
                return hidden_Nd

            runner.run = compared
            for number, prompt in enumerate(prompts):
                params = SamplingParams(max_tokens=24, temperature=0, ignore_eos=True)
                engine.add(Request(request_id=str(number), prompt_ids=prompt.tolist(), params=params))
            while engine.scheduler.has_work:
                for output in engine.step():
                    if output.error:
                        raise RuntimeError(output.error)
            captured = 0 if runner.graphs is None else runner.graphs.num_captured
            runner.run = original
        is_equal &= bool(found) and all(found)
        facts.append(
            f"{name}: {sum(found)} of {len(found)} steps equal to those with the whole table at hand, all bits; "
            f"steps of {captured} sizes were captured"
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
    return replace(result, conditions={**result.conditions, "ids": "see the remarks", "host tier": "as arms say"})


def prefill(scratch: Path, ids: Any, rounds: int, facts: list[str]) -> None:
    """Report the time of a long prompt without any of its rows, beside one that finds all of them."""
    import numpy as np  # noqa: PLC0415
    from measured import open_engine, random_model, run_prompt  # noqa: PLC0415

    from paging import Table  # noqa: PLC0415

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
            prompt = ids[100_000 + number * PROMPT : 100_000 + (number + 1) * PROMPT]
            num_rows.append(len(np.unique(prompt)))
            cold.append(run_prompt(engine, prompt))
            warm.append(run_prompt(engine, prompt))
    rows, took = statistics.median(num_rows), statistics.median(cold)
    with Table.open(model / "table") as table:
        row_bytes = table.geometry.row_bytes
    disk = disk_bandwidth(model / "table")
    # Whatever is read and computed side by side takes no less than the longer of the two.
    bound = max(statistics.median(warm), rows * row_bytes / disk)
    facts.append(
        f"1B, a prompt of {PROMPT:,} tokens with {rows:.0f} different rows: cold {1e3 * took:.1f} ms, "
        f"warm {1e3 * statistics.median(warm):.1f} ms; cold reads {rows * row_bytes / took / 1e9:.2f} GB/s of the "
        f"{disk / 1e9:.2f} that long reads get; {bound / took:.0%} of max(compute, bytes / disk bandwidth)"
    )


def disk_bandwidth(table: Path) -> float:
    """Return the bytes per second of long reads of a table's largest file, past the page cache where that can be."""
    path = max(table.iterdir(), key=lambda each: each.stat().st_size)
    size = min(path.stat().st_size, 4 * 2**30)
    handle = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        began = time.perf_counter()
        offset = 0
        while offset < size and (read := len(os.pread(handle, 16 * 2**20, offset))):
            offset += read
        return offset / (time.perf_counter() - began)
    finally:
        os.close(handle)


if __name__ == "__main__":
    main()
