"""Builds the image and runs it as a careful operator would.

    deploy/check-image [--folder DIR] [--suite bookworm]

1. A base of plain Debian with Python, from debootstrap; the image on it, from buildah. pip uses the index that is
   configured here.
2. The image's own command as process 1: its own user, no capabilities, a root file system that cannot be written to.
3. `/health`, the image's health check, one completion, `/metrics`.
4. SIGTERM while it starts is heard at once. SIGTERM while a completion streams: the stream goes on to its end, new
   requests are refused, the exit code is 0.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx

from deploy.checks.image_build import Builder, Image
from deploy.checks.image_run import Container, container
from deploy.checks.processes import CheckError, eventually, free_port

_TOOLS = ("buildah", "debootstrap", "unshare", "nsenter", "setpriv")
_STARTUP_SECONDS = 600.0
_TERMINATED = 128 + signal.SIGTERM
_NO_CAPABILITIES = "0000000000000000"
_COMPILERS = ("cc", "gcc", "g++", "c++", "clang", "make", "ld")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where base and image are kept; a new one is removed at the end")
    parser.add_argument("--suite", default=_own_suite(), help="Debian's release under the image")
    options = parser.parse_args(arguments)
    missing = [name for name in _TOOLS if shutil.which(name) is None]
    if missing:
        parser.error(f"there is no {', '.join(missing)} here; apt-get install buildah debootstrap util-linux")
    if os.geteuid() != 0:
        parser.error("mounts and users need root")
    with contextlib.ExitStack() as stack:
        if options.folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tolbooth-image-", dir="/var/tmp")))
        else:
            folder = options.folder.resolve()
            folder.mkdir(parents=True, exist_ok=True)
        try:
            check(folder, options.suite)
        except CheckError as error:
            _say(f"failed: {error}")
            return 1
    _say("all of it holds")
    return 0


def check(folder: Path, suite: str) -> None:
    """Build in `folder`, run, look; raises `CheckError`."""
    builder = Builder(folder)
    with contextlib.closing(builder):
        base = _timed(f"a base of Debian {suite}", lambda: builder.make_base(suite))
        name = _timed("the image", lambda: builder.build(base))
        image = builder.open(name, base)
        _say(f"size: {image.num_bytes / 1e6:,.0f} MB, {image.added_bytes / 1e6:,.0f} MB of it beside the base")
        _check_files(image)
        with tempfile.TemporaryDirectory(dir=folder) as outputs:
            _check_running(image, Path(outputs))


def _check_files(image: Image) -> None:
    _hold(image.user.partition(":")[0] not in {"", "0", "root"}, f"the image's user is {image.user}, not root")
    found = [str(path) for name in _COMPILERS for path in image.root.glob(f"usr/bin/{name}")]
    found += [str(path) for name in _COMPILERS for path in image.root.glob(f"opt/tolbooth/bin/{name}")]
    _hold(not found, f"no compiler is in the image {found}".rstrip(" []"))
    configuration = image.root / "etc" / "pip.conf"
    _hold(not configuration.exists() or not configuration.read_text(), "pip's configuration left no trace")


def _check_running(image: Image, folder: Path) -> None:
    with container(image, folder, {"TOLBOOTH_PORT": str(free_port())}) as running:
        os.kill(running.pid, signal.SIGTERM)
        code = running.process.wait(30)
        _hold(code == _TERMINATED, f"SIGTERM while Python starts ends it at once, with {code}")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    started = time.monotonic()
    with container(image, folder, {"TOLBOOTH_PORT": str(port)}) as running:
        _check_isolation(running)
        eventually(lambda: _is_healthy(running, url), "/health says 200", seconds=_STARTUP_SECONDS)
        _say(f"healthy: after {time.monotonic() - started:.1f} s, the demo's table made on the way")
        result = running.run(*image.health[1:])
        _hold(result.returncode == 0, f"the image's health check passes {result.stderr}".rstrip())
        _check_answers(url)
        _check_draining(running, url)


def _check_isolation(running: Container) -> None:
    status = running.status
    _hold(
        set(status["Uid"].split()) == {running.image.user.partition(":")[0]},
        f"it runs as user {status['Uid'].split()[0]}",
    )
    _hold(
        {status[name] for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {_NO_CAPABILITIES},
        "it has no capabilities",
    )
    _hold(status["NoNewPrivs"] == "1", "and can gain none")
    _hold("Read-only file system" in running.output, "root itself cannot write to its root file system")
    for folder in ("/", "/opt/tolbooth", "/etc", "/var/tmp"):  # noqa: S108 that nothing goes there is what is tried
        code = f"open({folder.rstrip('/') + '/written'!r}, 'w')"
        refused = running.run("python3", "-I", "-c", code)
        _hold("Read-only file system" in refused.stderr, f"a write to {folder} fails: read-only file system")
    for folder in ("/tmp", *running.image.volumes):  # noqa: S108 the container's own
        code = f"open({folder + '/written'!r}, 'w')"
        _hold(running.run("python3", "-I", "-c", code).returncode == 0, f"{folder} can be written to")


def _is_healthy(running: Container, url: str) -> bool:
    if running.process.poll() is not None:
        raise CheckError(f"the server ended: {running.output[-2000:]}")
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/health").is_success
    return False


def _check_answers(url: str) -> None:
    body = {"model": "demo", "prompt": "Once upon a time", "max_tokens": 16, "temperature": 0}
    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=60)
    _hold(answer.status_code == httpx.codes.OK, f"a completion is answered with {answer.status_code}")
    _say(f"  {answer.json()['choices'][0]['text']!r}")
    metrics = httpx.get(f"{url}/metrics", timeout=10)
    _hold(
        metrics.is_success and "tolbooth_generation_tokens_total 16" in metrics.text, "/metrics has counted its tokens"
    )


def _check_draining(running: Container, url: str) -> None:
    body = {"model": "demo", "prompt": "Once upon a time", "max_tokens": 200, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as response:
        frames = _frames(response)
        seen = [next(frames) for _ in range(5)]
        asked = time.monotonic()
        os.kill(running.pid, signal.SIGTERM)
        eventually(
            lambda: httpx.get(f"{url}/health").status_code == httpx.codes.SERVICE_UNAVAILABLE, "it drains", seconds=10
        )
        refused = httpx.post(f"{url}/v1/completions", json={**body, "stream": False}, timeout=10)
        _hold(
            refused.status_code == httpx.codes.SERVICE_UNAVAILABLE, "a new request is refused with 503 while it drains"
        )
        seen += frames
    _hold(seen[-1] == "[DONE]", "the stream under way goes on to its end")
    reasons = [choice["finish_reason"] for frame in seen[:-1] for choice in json.loads(frame).get("choices", ())]
    _hold(reasons[-1] == "length", f"with all its tokens, after SIGTERM in its first ones ({len(seen)} frames)")
    code = running.process.wait(60)
    _hold(code == 0, f"the exit code is {code}, {time.monotonic() - asked:.1f} s after SIGTERM")


def _frames(response: httpx.Response) -> Iterator[str]:
    for line in response.iter_lines():
        if line.startswith("data: "):
            yield line.removeprefix("data: ")


def _own_suite() -> str:
    release = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    found = dict(line.split("=", 1) for line in release if "=" in line)
    return found.get("VERSION_CODENAME", "bookworm").strip('"')


def _timed(what: str, make: Callable[[], str]) -> str:
    started = time.monotonic()
    made = make()
    _say(f"built: {what} in {time.monotonic() - started:.0f} s")
    return made


def _hold(holds: bool, what: str) -> None:  # noqa: FBT001 a condition is what it is about
    if not holds:
        raise CheckError(f"it does not hold that {what}")
    _say(f"ok: {what}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
