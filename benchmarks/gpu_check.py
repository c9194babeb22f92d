"""All that only a CUDA machine can tell, in one run on a bare one: tests, equality to the bit, ratios and times.

    make gpu-wheels                       # here: fetches what a bare machine lacks into build/wheels
    make gpu-check                        # there
    python3 benchmarks/gpu_check.py --wheels build/wheels --trace ids.npy --out DIR/gpu

Needs torch 2.11 or later, numpy, safetensors and tokenizers; xxhash and msgspec are taken from the wheels where they
are not installed. Nothing is installed, nothing is downloaded. Models have random weights at 1B size; the token ids are
a trace's, or made up by Zipf's law where none is given: then the miss rates are made up too.

Each part runs in a process of its own, and the report is written again after each: what fails or is cut short takes
nothing else with it. Where a machine is lent for minutes, give `--scratch` a folder that stays and name parts with
`--only`; models are made once.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NEEDED = ("torch", "numpy", "safetensors", "tokenizers")
CARRIED = ("xxhash", "msgspec")
LEAST_TORCH = (2, 11)
STREAMS = (1, 8, 32, 128)
PARTS = ("kernels", "tests", "equality", "speed", "prefill")
PART_SECONDS = 1800.0
TEST_SECONDS = 900.0
KERNEL_TESTS = ("tests/paging/test_fused.py", "tests/models/test_decode_attention.py", "tests/test_kernels.py")
"""They need no GPU where there is Triton's interpreter, so they are not marked."""
DRIVER = Path("/proc/driver/nvidia/version")


def main() -> None:
    """Check and measure; exit code 1 where a check failed, 2 where nothing can be checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, default=ROOT / "build" / "wheels", help="wheels of what is missing")
    parser.add_argument("--trace", type=Path, help="token ids (.npy) below 128,256, half a million or more")
    parser.add_argument("--scratch", type=Path, help="where models are made (25 GB), and found again")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, nargs="+", default=STREAMS)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS, help="these parts alone")
    parser.add_argument("--part-seconds", type=float, default=PART_SECONDS, help="after which a part is given up")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/gpu"), help="report, without its ending")
    parser.add_argument("--here", action="store_true", help="all parts in this process")
    options = parser.parse_args()
    with ExitStack() as stack:
        scratch = options.scratch or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tolbooth-gpu-")))
        unpacked = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tolbooth-wheels-")))
        sys.path[:0] = [str(ROOT), str(unpacked)]
        check_machine()
        unpack_missing(options.wheels, unpacked)
        failed = run(options, scratch, unpacked) if options.here else run_apart(options, scratch)
    sys.exit(1 if failed else 0)


def check_machine() -> None:
    """Exit where something is missing that is not carried."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        give_up(f"{', '.join(missing)} is missing; {', '.join(NEEDED)} must be there")
    import torch  # noqa: PLC0415 looked for first

    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < LEAST_TORCH:
        give_up(f"torch is {torch.__version__}; 2.11 or later is needed")
    if not torch.cuda.is_available():
        give_up("this machine has no CUDA device; nothing was checked")


def unpack_missing(wheels: Path, target: Path) -> None:
    """Unpack the wheels of libraries that are not installed; exit where one is not there for this Python."""
    for name in CARRIED:
        if importlib.util.find_spec(name):
            continue
        tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
        found = [path for path in wheels.glob(f"{name}-*.whl") if f"-{tag}-" in path.name]
        if not found:
            give_up(
                f"{name} is missing, and {wheels} has no wheel of it for {tag}: where there is a network, "
                f"make gpu-wheels GPU_PYTHON={sys.version_info.major}.{sys.version_info.minor}"
            )
        with zipfile.ZipFile(found[-1]) as wheel:
            wheel.extractall(target)


def give_up(why: str) -> None:
    """Exit because nothing can be checked."""
    print(f"error: {why}", file=sys.stderr)
    sys.exit(2)


def run_apart(options: argparse.Namespace, scratch: Path) -> bool:
    """Run each part in a process of its own, and write the report after each; return whether one failed."""
    # After the wheels: these load the package.
    from harness import Comparison, write_report  # noqa: PLC0415

    failed: list[str] = []
    facts, comparisons = [machine()], []
    with tempfile.TemporaryDirectory(prefix="tolbooth-parts-") as folder:
        for part, streams in parts(options):
            name = part if streams is None else f"{part} at {streams}"
            stem = Path(folder) / name.replace(" ", "-")
            print(f"--- {name}", flush=True)
            command = [sys.executable, __file__, "--here", "--only", part, "--scratch", str(scratch)]
            command += ["--wheels", str(options.wheels), "--rounds", str(options.rounds), "--out", str(stem)]
            command += [] if options.trace is None else ["--trace", str(options.trace)]
            command += [] if streams is None else ["--streams", str(streams)]
            try:
                code = subprocess.run(command, check=False, timeout=options.part_seconds).returncode  # noqa: S603 ourselves
                trouble = f"exit code {code}" if code else ""
            except subprocess.TimeoutExpired:
                trouble = f"not over within {options.part_seconds:g} seconds"
            if stem.with_suffix(".json").exists():
                found = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
                facts += [fact for fact in found["facts_measured"] if fact not in facts]
                comparisons += [read_comparison(Comparison, each) for each in found["comparisons"]]
            if trouble:
                failed.append(name)
                facts.append(f"{name}: FAILED, {trouble}")
            remarks = "\n".join(f"- {fact}" for fact in facts)
            more = {"facts_measured": facts}
            write_report(comparisons, options.out, title="On a GPU", remarks=remarks, more=more)
    print(f"{options.out.with_suffix('.md')}: {'FAILED: ' + ', '.join(failed) if failed else 'all parts passed'}")
    return bool(failed)


def parts(options: argparse.Namespace) -> Iterator[tuple[str, int | None]]:
    """Yield what runs in a process of its own: a part, for `speed` with a number of streams."""
    for part in options.only:
        if part == "speed":
            yield from ((part, count) for count in options.streams)
        else:
            yield part, None


def read_comparison(kind: Any, found: dict[str, Any]) -> Any:
    """Return a comparison as a part's report has it."""
    samples = {name: arm["samples"] for name, arm in found["arms"].items()}
    return kind(samples=samples, **{key: found[key] for key in ("title", "unit", "baseline", "conditions")})


def machine() -> str:
    """Say what was measured on, beside what every report says."""
    import torch  # noqa: PLC0415 found to be there

    driver = DRIVER.read_text(encoding="utf-8").splitlines()[0] if DRIVER.exists() else "of unknown version"
    capability = ".".join(map(str, torch.cuda.get_device_capability()))
    triton = "with Triton" if importlib.util.find_spec("triton") else "WITHOUT Triton: plain operations in its place"
    return f"CUDA {torch.version.cuda}, a device of capability {capability}, {triton}; driver: {driver}"


def run(options: argparse.Namespace, scratch: Path, unpacked: Path) -> bool:
    """Run the parts in this process and write the report; return whether a check failed."""
    # After the wheels: these load the package.
    from gpu_equality import check_equality, check_kernels  # noqa: PLC0415
    from gpu_speed import copy_bandwidth, decode, host_reads, prefill, token_ids  # noqa: PLC0415
    from harness import write_report  # noqa: PLC0415

    failed = False
    facts: list[str] = []
    comparisons: list[Any] = []
    try:
        if "kernels" in options.only:
            failed |= not check_kernels(facts)
            host_reads(facts)
        if "tests" in options.only:
            failed |= not run_tests(unpacked, facts)
        if "equality" in options.only:
            failed |= not check_equality(scratch, facts)
        if "speed" in options.only:
            ids, bandwidth = token_ids(options.trace, facts), copy_bandwidth(facts)
            comparisons += [decode(scratch, ids, count, options.rounds, bandwidth, facts) for count in options.streams]
        if "prefill" in options.only:
            prefill(scratch, token_ids(options.trace, facts), options.rounds, facts)
    finally:  # what was found before something failed is found
        for comparison in comparisons:
            print(comparison.to_markdown())
        print("\n".join(facts), flush=True)
        remarks = "\n".join(f"- {fact}" for fact in facts)
        write_report(comparisons, options.out, title="On a GPU", remarks=remarks, more={"facts_measured": facts})
    return failed


def run_tests(unpacked: Path, facts: list[str]) -> bool:
    """Run the tests that need a CUDA device; return whether they passed."""
    missing = [name for name in ("pytest", "hypothesis") if importlib.util.find_spec(name) is None]
    if missing:
        facts.append(f"tests: not run, this machine has no {' and no '.join(missing)}; kernels were checked without")
        return True
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{unpacked}"}
    # Warnings of what else is installed are nobody's concern here.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts="]
    command += ["-o", "filterwarnings=default", "--import-mode=importlib"]
    folders = ["tests/paging", "tests/models"]
    # Tests of the engine share what others of the server need.
    probe = [sys.executable, "-c", "import server.cli.app"]
    if subprocess.run(probe, cwd=ROOT, env=environment, check=False, capture_output=True, timeout=120).returncode:  # noqa: S603 ours
        facts.append("tests of the engine: not run, the command line's libraries are not there; equality is checked")
    else:
        folders.append("tests/server/engine")
    passed = True
    suites = {"tests that need a GPU": ["-m", "gpu", *folders], "tests of kernels": list(KERNEL_TESTS)}
    for name, arguments in suites.items():
        try:
            result = subprocess.run(  # noqa: S603 our own command
                [*command, *arguments],
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=TEST_SECONDS,
            )
        except subprocess.TimeoutExpired:
            facts.append(f"{name}: not over within {TEST_SECONDS:g} seconds")
            passed = False
            continue
        print(result.stdout[-6000:], result.stderr[-2000:])
        last = result.stdout.strip().splitlines()[-1:] or ["no output"]
        facts.append(f"{name}: {last[0]}")
        passed &= result.returncode == 0
    return passed


if __name__ == "__main__":
    main()
