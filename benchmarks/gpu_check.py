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
import subprocess
import sys
import tempfile
import zipfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CARRIED = ("xxhash", "msgspec")
STREAMS = (1, 8, 32, 128)
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
    # After the wheels: these load the package.
    from gpu_equality import check_equality, check_kernels  # noqa: PLC0415
    from gpu_speed import copy_bandwidth, decode, host_reads, prefill, token_ids  # noqa: PLC0415
    from harness import write_report  # noqa: PLC0415

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


if __name__ == "__main__":
    main()
