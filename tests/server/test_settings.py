import math

import pytest

from models.errors import ConfigError
from server.config import LogFormat, ServerConfig
from server.engine.choices import Device
from server.engine.config import EngineConfig
from server.settings import option_fields, resolve_settings


def settings(tmp_path, *, flags=None, environment=None, file=None):
    path = None
    if file is not None:
        path = tmp_path / "config.yaml"
        path.write_text(file, encoding="utf-8")
    return resolve_settings(flags=flags or {}, environment=environment or {}, file=path, default_model="demo")


def test_without_anything_said_the_defaults_hold(tmp_path):
    assert ServerConfig(engine=EngineConfig(model="demo", keep_hot_set=True)) == settings(tmp_path)


def test_a_flag_goes_before_the_environment_before_the_file_before_the_default(tmp_path):
    found = settings(
        tmp_path,
        flags={"port": 1},
        environment={"TOLBOOTH_PORT": "2", "TOLBOOTH_MAX_N": "2"},
        file="port: 3\nmax-n: 3\nmax_prompts: 3\n",
    )
    assert (1, 2, 3, 256) == (found.port, found.max_n, found.max_prompts, found.max_sequences)


def test_every_source_takes_every_kind_of_value(tmp_path):
    expected = ServerConfig(
        engine=EngineConfig(
            model="m", device=Device.CPU, tol_device_fraction=0.5, enable_prefix_caching=False, keep_hot_set=True
        ),
        uds="/s",
        api_key=("a", "b"),
        protect_metrics=True,
        log_format=LogFormat.JSON,
    )
    text = (
        "model: m\ndevice: cpu\ntol-device-fraction: 0.5\nenable-prefix-caching: false\nuds: /s\napi-key: [a, b]\n"
        "protect-metrics: true\nlog-format: json\n"
    )
    environment = {
        "TOLBOOTH_MODEL": "m",
        "TOLBOOTH_DEVICE": "cpu",
        "TOLBOOTH_TOL_DEVICE_FRACTION": "0.5",
        "TOLBOOTH_ENABLE_PREFIX_CACHING": "false",
        "TOLBOOTH_UDS": "/s",
        "TOLBOOTH_API_KEY": "a, b",
        "TOLBOOTH_PROTECT_METRICS": "1",
        "TOLBOOTH_LOG_FORMAT": "json",
    }
    assert expected == settings(tmp_path, file=text) == settings(tmp_path, environment=environment)


def test_a_single_value_stands_for_a_list(tmp_path):
    assert ("a",) == settings(tmp_path, file="served-model-name: a").served_model_name


def test_the_environment_can_name_the_file(tmp_path):
    (tmp_path / "c.yaml").write_text("port: 7")
    assert 7 == settings(tmp_path, environment={"TOLBOOTH_CONFIG": str(tmp_path / "c.yaml")}).port


@pytest.mark.parametrize("text", ["", "# nothing\n", "port:\n"])
def test_a_file_may_say_nothing(tmp_path, text):
    assert 8000 == settings(tmp_path, file=text).port


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("prot: 1", "unknown key 'prot'; did you mean port"),
        ("engine: {}", "unknown key 'engine'"),
        ("config: x", "unknown key 'config'"),
        ("port: many", "port in .*config.yaml is 'many'"),
        ("port: 1.5", "port in"),
        ("device: gpu", "device in"),
        ("host: [a]", "host in"),
        ("- a", "no mapping"),
        ("a: [", "not YAML"),
        ("!!python/object/apply:os.system [x]", "not YAML"),
        ("x: " + "y" * 2**20, "longer"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path, text, expected):
    with pytest.raises(ConfigError, match=expected):
        settings(tmp_path, file=text)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TOLBOOTH_PROT": "1"}, "TOLBOOTH_PROT is no setting .* did you mean TOLBOOTH_PORT"),
        ({"TOLBOOTH_port": "1"}, "TOLBOOTH_port is no setting"),
        ({"TOLBOOTH_ENGINE": "1"}, "TOLBOOTH_ENGINE is no setting"),
        ({"TOLBOOTH_PORT": "tcp://10.0.0.1:80"}, "TOLBOOTH_PORT is 'tcp"),
        ({"TOLBOOTH_CONFIG": "/nowhere/c.yaml"}, "cannot read the configuration /nowhere/c.yaml"),
    ],
)
def test_mistakes_in_the_environment_are_named(tmp_path, environment, expected):
    with pytest.raises(ConfigError, match=expected):
        settings(tmp_path, environment=environment)


def test_a_key_is_not_repeated_in_an_error(tmp_path):
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, file="api-key: {secret: 1}")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"port": -1},
        {"port": 65536},
        {"max_body_bytes": 0},
        {"max_logprobs": -1},
        {"request_timeout": 0},
        {"request_timeout": math.inf},
        {"shutdown_timeout": -1},
        {"shutdown_timeout": math.nan},
        {"root_path": "llm"},
        {"root_path": "/llm/"},
        {"api_key": ("",)},
        {"api_key": ("a b",)},
        {"admin_key": ("ä",)},
        {"served_model_name": ("",)},
        {"ssl_keyfile": "k.pem"},
    ],
)
def test_values_out_of_range_are_named(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        ServerConfig(engine=EngineConfig(model="demo"), **values)


def test_no_name_means_two_things():
    assert set() == set(EngineConfig.__struct_fields__) & set(ServerConfig.__struct_fields__)
    assert "engine" not in option_fields()
