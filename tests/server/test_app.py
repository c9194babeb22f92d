import importlib.metadata
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from server.cli import presets as presets_module

ROOT = Path(__file__).resolve().parents[2]


def test_version_is_the_distributions(tolbooth):
    assert f"tolbooth {importlib.metadata.version('tolbooth')}\n" == tolbooth("--version").out


def test_no_command_prints_help(tolbooth):
    outcome = tolbooth()
    assert outcome.code == 0
    assert "export-tol" in outcome.out


@pytest.mark.parametrize(
    "command", ["presets", "init", "import", "train", "eval", "export-tol", "verify-tol", "generate"]
)
def test_help_of_every_command_has_an_example(tolbooth, command):
    outcome = tolbooth(command, "--help")
    assert outcome.code == 0
    assert f"Example: tolbooth {command}" in " ".join(outcome.out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["presets", "--nonsense"], "No such option: --nonsense"),
        (["init", "1b-dense"], "Missing option '--out'"),
        (["generate", "--prompt", "x", "--memory", "paged-out"], "'paged-out'"),
        (["generate", "--prompt", "x", "--max-tokens", "0"], "'--max-tokens'"),
        (["generate", "nowhere", "--prompt", "x"], "no model at nowhere"),
    ],
)
def test_a_mistake_is_one_line(fails, arguments, message):
    assert message in fails(*arguments)


def test_a_usage_error_names_the_help(fails):
    assert fails("init").endswith("see `tolbooth init --help`")


def test_a_failing_system_call_is_one_line(fails, monkeypatch):
    def fail(value):
        raise PermissionError(13, "Permission denied", "/somewhere")

    monkeypatch.setattr(presets_module, "print_json", fail)
    assert "Permission denied: '/somewhere'" in fails("presets", "--json")


def test_an_interruption_is_silent_and_130(tolbooth, monkeypatch):
    def interrupt(value):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(presets_module, "print_json", interrupt)
    outcome = tolbooth("presets", "--json")
    assert (130, "", "") == (outcome.code, outcome.out, outcome.err)


def test_a_reader_that_went_away_is_no_traceback():
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; from server.cli.app import main; sys.exit(main(['presets', '--json']))"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.close()
        assert b"" == process.stderr.read()
    assert 1 == process.returncode


def test_help_and_presets_do_not_wait_for_torch():
    program = (
        "import sys; from server.cli.app import main\n"
        "main(['--help']), main(['train', '--help']), main(['presets']), main(['init'])\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert 0 == subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False, capture_output=True).returncode


def test_a_real_process_ends_a_mistake_with_code_2(tmp_path):
    program = "import sys; from server.cli.app import main; sys.exit(main())"
    result = subprocess.run(
        [sys.executable, "-c", program, "verify-tol", tmp_path / "nowhere"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert (2, "", 1) == (result.returncode, result.stdout, len(result.stderr.splitlines()))
