import asyncio
import os
import signal
import socket

import pytest

from models import bundled
from server.cli.serve_options import _options
from server.cli.startup_lines import StartupLines
from server.process import client as client_module
from tests.server.http.fake_engine import FakeEngine


class BriefEngine(FakeEngine):
    """Is told to end as soon as it is ready."""

    def __init__(self, config, *, on_progress, on_first_output):
        super().__init__()
        self.config = config
        BriefEngine.latest = self
        on_progress("reading", 1, 2)
        on_progress("building", 1, 1)
        self.on_first_output = on_first_output

    async def wait_ready(self, timeout):  # noqa: ARG002, ASYNC109 as the client has it
        self.on_first_output(0.25)
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)
        return self.info


@pytest.fixture
def brief(tolbooth, monkeypatch):
    """Runs a server that ends as soon as it serves."""
    monkeypatch.setattr(client_module, "EngineClient", BriefEngine)
    return lambda *arguments: tolbooth("serve", *arguments, "--port", 0)


def test_it_says_what_is_served_where(brief, dense_model):
    outcome = brief(dense_model)
    assert 0 == outcome.code, outcome.err
    facts = dict(line.split(maxsplit=1) for line in outcome.out.splitlines())
    assert f"dense ({dense_model})" == facts["model"]
    assert facts["listening"].startswith("http://127.0.0.1:")
    assert ("fake", facts["listening"].removesuffix(", loading") + "/v1") == (facts["policy"], facts["serving"])


def test_it_says_the_phases_of_loading_and_how_it_ends(brief, dense_model):
    lines = brief(dense_model).err.splitlines()
    assert ["reading", "building"] == [line.partition(":")[0] for line in lines[:2]]
    assert "shutting down: no request is open; a second signal stops at once" == lines[-1]


def test_it_says_when_it_was_ready_and_when_the_first_token_came(brief, dense_model):
    facts = dict(line.split("  ", 1) for line in brief(dense_model).out.splitlines())
    assert "s after the start (weights 0.50)" in facts["loaded"]
    assert "0.25 s after the first request" == facts["first token"].strip()


def test_options_reach_the_engine(brief, dense_model):
    brief(dense_model, "--max-num-seqs", 3, "--no-enable-prefix-caching", "--tol-device-rows", 7, "--device", "cpu")
    config = BriefEngine.latest.config
    found = (config.model, config.max_num_seqs, config.enable_prefix_caching, config.tol_device_rows, config.device)
    assert (str(dense_model), 3, False, 7, "cpu") == found


def test_the_bundled_model_is_served_where_none_is_named(brief, demo):
    outcome = brief()
    assert f"demo ({bundled._DEMOS / 'demo'})" in outcome.out
    assert str(bundled._DEMOS / "demo") == BriefEngine.latest.config.model


def test_names_can_be_given(brief, dense_model):
    outcome = brief(dense_model, "--served-model-name", "big", "--served-model-name", "small")
    assert f"big, small ({dense_model})" in outcome.out


def test_the_environment_and_the_file_are_read(brief, dense_model, monkeypatch, tmp_path):
    monkeypatch.setenv("TOLBOOTH_MAX_NUM_SEQS", "5")
    (tmp_path / "c.yaml").write_text(f"model: {dense_model}\nmax-num-batched-tokens: 99\n")
    brief("--config", tmp_path / "c.yaml")
    config = BriefEngine.latest.config
    assert (str(dense_model), 5, 99) == (config.model, config.max_num_seqs, config.max_num_batched_tokens)


def test_a_port_in_use_is_a_mistake(fails, dense_model):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert "in use" in fails("serve", dense_model, "--port", port)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--prot", 1), "--prot"),
        (("--port", "x"), "--port"),
        (("--port", -1), "port is -1"),
        (("--max-num-seqs", 0), "max_num_seqs is 0"),
        (("--device", "gpu"), "--device"),
        (("--tol-device-rows", 1, "--tol-device-bytes", 1), "one budget"),
        (("--api-key", ""), "api_key is empty"),
        (("--api-key-file", "/nowhere"), "cannot read the API keys"),
        (("--ssl-certfile", "/nowhere"), "cannot use the certificate"),
        (("--config", "/nowhere"), "cannot read the configuration"),
    ],
)
def test_mistakes_are_one_line(fails, dense_model, arguments, expected):
    assert expected in fails("serve", dense_model, *arguments)


def test_an_unknown_variable_is_a_mistake(fails, dense_model, monkeypatch):
    monkeypatch.setenv("TOLBOOTH_PROT", "1")
    assert "did you mean TOLBOOTH_PORT?" in fails("serve", dense_model)


def test_a_missing_model_is_a_mistake(fails):
    assert "no model at nowhere" in fails("serve", "nowhere")


def test_a_model_without_a_tokenizer_is_a_mistake(fails, dense_model):
    (dense_model / "tokenizer.json").unlink()
    assert "has no tokenizer.json" in fails("serve", dense_model)


def test_a_broken_template_is_a_mistake(fails, dense_model):
    (dense_model / "chat_template.jinja").write_text("{% for %}")
    assert "chat template cannot be read" in fails("serve", dense_model)


def test_every_option_has_a_help_text():
    assert [] == [option.name for option in _options() if not option.annotation.__metadata__[0].help]


def test_each_phase_is_one_line(capsys):
    now = iter([0.0, 0.0, 2.0, 2.0, 3.5])
    lines = StartupLines(clock=lambda: next(now))
    for phase, done in (("reading", 1), ("reading", 2), ("building", 1), ("building", 3)):
        lines.update(phase, done, 3)
    lines.end()
    assert "reading: 2.00 s\nbuilding: 1.50 s\n" == capsys.readouterr().err
