"""A real Prometheus scrapes a server under load.

    deploy/check-prometheus [--seconds 240] [--streams 8] [--out FILE.json]

1. `promtool` checks the configuration and the rules, and plays what alerts must and must not fire on.
2. `tolbooth serve` serves the demo, a tenth of its rows on the device; `tolbooth bench serve` loads it with streams.
3. Prometheus scrapes it every 2 s, with the configuration of `deploy/prometheus` but for targets and intervals.
4. Hits and faults are compared with requests, scrape by scrape; every panel's expression and rule is evaluated.
"""

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from deploy.checks.expressions import (
    DASHBOARDS,
    DEPLOY,
    RULES,
    Expression,
    panel_expressions,
    rule_expressions,
    substituted,
    variable_expressions,
)
from deploy.checks.processes import CheckError, eventually, free_port, running
from deploy.checks.promql import selectors

SCRAPES = 100
_WINDOW = "1m"
"""Of rates, in place of Grafana's $__rate_interval."""
_STARTUP_SECONDS = 300.0
_TOLBOOTH = str(Path(sys.executable).with_name("tolbooth"))
_RULE_TESTS = Path(__file__).with_name("alerts.test.yml")


@dataclass
class Report:
    """What was found."""

    scrapes: int = 0
    """Scrapes that came through."""
    unlawful: int = 0
    """Those of them in which hits and faults were not requests."""
    row_requests: float = 0
    """Row requests made within them."""
    with_data: list[str] = field(default_factory=list)
    without_number: list[str] = field(default_factory=list)
    """Expressions that gave NaN alone: quantiles of what did not happen."""
    without_data: list[str] = field(default_factory=list)
    rules: dict[str, str] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        """Whether everything holds that must."""
        return (
            self.scrapes >= SCRAPES
            and not self.unlawful
            and not self.without_data
            and {"ok"} == set(self.rules.values())
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=240.0, help="how long to scrape under load")
    parser.add_argument("--streams", type=int, default=8, help="requests at once")
    parser.add_argument("--out", type=Path, help="write what was found, in JSON")
    options = parser.parse_args(arguments)
    missing = [name for name in ("prometheus", "promtool") if shutil.which(name) is None]
    if missing:
        parser.error(f"there is no {' and no '.join(missing)} here; apt-get install prometheus")
    try:
        with tempfile.TemporaryDirectory(prefix="tolbooth-prometheus-") as folder:
            report = check(Path(folder), seconds=options.seconds, streams=options.streams)
    except CheckError as error:
        _say(f"failed: {error}")
        return 1
    if options.out is not None:
        options.out.write_text(json.dumps(asdict(report), indent=1) + "\n", encoding="utf-8")
    _tell(report)
    return 0 if report.is_good else 1


def check(folder: Path, *, seconds: float, streams: int) -> Report:
    """Start everything in `folder`, load the server for so many seconds, and look."""
    _promtool("check", "config", "--syntax-only", DEPLOY / "prometheus" / "prometheus.yml")
    _promtool("check", "rules", *RULES)
    _promtool("test", "rules", _RULE_TESTS)
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(_server(folder))
        prometheus = stack.enter_context(_prometheus(folder, url))
        stack.enter_context(_load(folder, url, streams))
        _say(f"loading {url} with {streams} streams for {seconds:g} s")
        time.sleep(seconds)
        with httpx.Client(base_url=prometheus, timeout=30) as api:
            return _examine(api)


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[str]:
    url = f"http://127.0.0.1:{free_port()}"
    command = [_TOLBOOTH, "serve", "demo", "--port", url.rpartition(":")[2], "--tol-device-fraction", "0.1"]
    command += ["--tol-host-bytes", "8000000", "--no-keep-hot-set", "--max-num-seqs", "8"]
    with running(command, output=folder / "server.txt") as process:

        def serves() -> bool:
            if process.poll() is not None:
                raise CheckError(f"the server ended: {(folder / 'server.txt').read_text()[-2000:]}")
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(f"{url}/health").is_success
            return False

        eventually(serves, "the server serves", seconds=_STARTUP_SECONDS)
        yield url


@contextlib.contextmanager
def _prometheus(folder: Path, target: str) -> Iterator[str]:
    """Start Prometheus in `folder`, with our configuration but for targets and intervals."""
    url = f"http://127.0.0.1:{free_port()}"
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "2s", "evaluation_interval": "5s"}
    config["scrape_configs"] = config["scrape_configs"][:1]
    (folder / "targets").mkdir()
    (folder / "targets" / "it.yml").write_text(yaml.safe_dump([{"targets": [target.removeprefix("http://")]}]))
    (folder / "rules").mkdir()
    for path in RULES:
        text = path.read_text(encoding="utf-8").replace("interval: 30s", "interval: 5s")
        (folder / "rules" / path.name).write_text(text, encoding="utf-8")
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    _promtool("check", "config", folder / "prometheus.yml")
    command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address={url.removeprefix('http://')}"]
    with running(command, output=folder / "prometheus.txt"):

        def is_ready() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(f"{url}/-/ready").is_success
            return False

        eventually(is_ready, "Prometheus is ready", seconds=60)
        yield url


@contextlib.contextmanager
def _load(folder: Path, url: str, streams: int) -> Iterator[None]:
    """Stream completions until the end, and be wrong now and then: errors belong to what is shown."""
    text = folder / "text.txt"
    pages = sorted((DEPLOY.parent / "docs").glob("*.md"))
    text.write_text("\n".join(page.read_text(encoding="utf-8") for page in pages), encoding="utf-8")
    command = [_TOLBOOTH, "bench", "serve", url, "--text", str(text), "--requests", "1000000"]
    command += ["--concurrency", str(streams), "--prompt-tokens", "96", "--max-tokens", "48"]
    with running(command, output=folder / "load.txt") as process:
        eventually(lambda: _generated(url) > 0, "tokens are generated", seconds=60)
        httpx.post(f"{url}/v1/completions", json={"model": "demo", "prompt": 7, "max_tokens": -1})
        httpx.get(f"{url}/v1/nothing")
        yield
        if process.poll() is not None:
            raise CheckError(f"the load ended too soon: {(folder / 'load.txt').read_text()[-2000:]}")


def _generated(url: str) -> float:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith("tolbooth_generation_tokens_total "))


def _examine(api: httpx.Client) -> Report:
    report = Report()
    names = ("row_requests", "row_hits", "major_faults")
    asked, hits, faults = (_by_scrape(api, f"tolbooth_tol_{name}_total") for name in names)
    last = max(asked)  # not now: a scrape may have taken too long on a busy machine, and left gaps
    report.scrapes, report.row_requests = len(asked), asked[last] - asked[min(asked)]
    report.unlawful = sum(asked[at] != hits[at] + faults[at] for at in asked)
    panels = [each for path in DASHBOARDS for each in (*panel_expressions(path), *variable_expressions(path))]
    for expression in [*panels, *_parts_of_rules()]:
        values = _values(api, substituted(expression.text, window=_WINDOW), at=last)
        if any(value == value for value in values):  # noqa: PLR0124 NaN is not itself
            report.with_data.append(expression.where)
        else:
            (report.without_number if values else report.without_data).append(expression.where)
    for group in _get(api, "rules")["groups"]:
        for rule in group["rules"]:
            report.rules[rule["name"]] = rule["health"] if not rule.get("lastError") else rule["lastError"]
    return report


def _parts_of_rules() -> list[Expression]:
    """Return what rules select: an alert has no value while all is well, what it looks at has."""
    return [
        Expression(f"{rule.where}, {selector.text}", selector.text)
        for rule in rule_expressions()
        for selector in selectors(rule.text)
    ]


def _by_scrape(api: httpx.Client, name: str) -> dict[float, float]:
    """Return a metric's sum over its labels in each scrape of the last minutes, by the scrape's time."""
    found: dict[float, float] = {}
    for series in _get(api, "query", query=f"{name}[10m]")["result"]:
        for at, value in series["values"]:
            found[at] = found.get(at, 0.0) + float(value)
    return found


def _values(api: httpx.Client, expression: str, *, at: float) -> list[float]:
    return [float(series["value"][1]) for series in _get(api, "query", query=expression, time=str(at))["result"]]


def _get(api: httpx.Client, path: str, **parameters: str) -> dict[str, Any]:
    answer = api.get(f"/api/v1/{path}", params=parameters)
    if not answer.is_success:
        raise CheckError(f"Prometheus refuses {parameters}: {answer.text[:500]}")
    data: dict[str, Any] = answer.json()["data"]
    return data


def _promtool(*arguments: str | Path) -> None:
    result = subprocess.run(  # noqa: S603 our own arguments
        ["promtool", *map(str, arguments)],  # noqa: S607 found in PATH, as told
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    _say(f"promtool {' '.join(map(str, arguments[:2]))}: {'ok' if result.returncode == 0 else 'FAILED'}")
    if result.returncode:
        raise CheckError(result.stdout + result.stderr)


def _tell(report: Report) -> None:
    _say(
        f"hits + faults = requests in all but {report.unlawful} of {report.scrapes} scrapes, within which "
        f"{report.row_requests:,.0f} rows were asked for; {SCRAPES} scrapes are wanted"
    )
    _say(f"expressions with data: {len(report.with_data)}")
    for title, names in (("with NaN alone", report.without_number), ("WITHOUT DATA", report.without_data)):
        _say("\n  ".join([f"expressions {title}: {len(names)}", *names]))
    bad = {name: health for name, health in report.rules.items() if health != "ok"}
    _say(f"rules: {len(report.rules)}, {f'NOT WELL: {bad}' if bad else 'all evaluated'}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
