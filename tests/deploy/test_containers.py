"""The image and the services: what of them must hold on a host that one does not own alone."""

import re
from pathlib import Path

import pytest
import yaml

from server.config import ServerConfig
from server.engine.config import EngineConfig
from server.settings import PREFIX, option_fields, resolve_settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
STAGES = re.split(r"^FROM .+$", DOCKERFILE, flags=re.MULTILINE)
FINAL = STAGES[-1]
OURS = ("tolbooth", "prometheus", "grafana")


class Reset(str):
    """What `!reset` stands before."""

    __slots__ = ()


class ComposeLoader(yaml.SafeLoader):
    """Reads the tag that takes a value of an earlier file away."""


ComposeLoader.add_constructor("!reset", lambda _loader, node: Reset(node.value))


def compose(name):
    return yaml.load((DEPLOY / name).read_text(encoding="utf-8"), ComposeLoader)  # noqa: S506 a safe loader's child


SERVICES = compose("compose.yaml")["services"]


def seconds(text):
    return float(text.removesuffix("s"))


def environment_file():
    """Return the variables of the server's file, those that are commented out too."""
    lines = (DEPLOY / "tolbooth.env").read_text(encoding="utf-8").splitlines()
    return dict(line.lstrip("#").split("=", 1) for line in lines if re.match(r"#?[A-Z_]+=", line))


def test_the_image_runs_as_a_user_that_is_not_root():
    assert ["10001:10001"] == re.findall(r"^USER (.+)$", FINAL, flags=re.MULTILINE)


def test_the_image_asks_for_its_own_health():
    (check,) = re.findall(r"^HEALTHCHECK .*CMD \[(.+)\]$", FINAL, flags=re.MULTILINE)
    assert "/opt/healthcheck.py" in check
    assert "COPY deploy/image/healthcheck.py /opt/healthcheck.py" in FINAL


def test_signals_reach_the_server_alone_and_not_a_shell():
    assert ['["dumb-init", "--single-child", "--", "tolbooth"]'] == re.findall(
        r"^ENTRYPOINT (.+)$", FINAL, flags=re.MULTILINE
    )
    assert ['["serve"]'] == re.findall(r"^CMD (.+)$", FINAL, flags=re.MULTILINE)


def test_nothing_is_installed_into_the_final_layers():
    assert not re.search(r"\b(pip|apt-get|apk|gcc)\b", FINAL)


def test_the_base_image_is_an_argument_and_the_same_everywhere():
    (image,) = re.findall(r"^ARG BASE_IMAGE=(.+)$", DOCKERFILE, flags=re.MULTILINE)
    assert ["${BASE_IMAGE}"] == sorted(set(re.findall(r"^FROM (\S+)", DOCKERFILE, flags=re.MULTILINE)))
    assert f"${{BASE_IMAGE:-{image}}}" == SERVICES["tolbooth"]["build"]["args"]["BASE_IMAGE"]


def test_what_is_copied_into_the_image_is_sent_to_the_builder():
    kept = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), flags=re.MULTILINE)
    copied = [
        path for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE) for path in line.split()
    ]
    assert copied
    assert [] == [path for path in copied if path not in kept and str(Path(path).parent) not in kept]


def test_variables_of_image_and_services_are_settings():
    names = re.findall(r"(TOLBOOTH_\w+)=", FINAL)
    for service in (SERVICES["tolbooth"], compose("compose.cpu.yaml")["services"]["tolbooth"]):
        names += service["environment"]
    known = {PREFIX + name.upper() for name in option_fields()}
    assert set() == {*names, *environment_file()} - known


def test_the_servers_file_is_a_configuration():
    given = environment_file()
    del given["TOLBOOTH_TOL_DEVICE_BYTES"]  # the other way of saying what TOLBOOTH_TOL_DEVICE_FRACTION says
    config = resolve_settings(flags={}, environment=given, file=None, default_model="none")
    assert (0.1, "demo") == (config.engine.tol_device_fraction, config.engine.model)


@pytest.mark.parametrize("name", OURS)
def test_a_service_can_change_nothing_but_its_volumes(name):
    service = SERVICES[name]
    assert service["read_only"]
    assert ["ALL"] == service["cap_drop"]
    assert ["no-new-privileges:true"] == service["security_opt"]
    assert "privileged" not in service


@pytest.mark.parametrize("name", OURS)
def test_a_service_has_a_bound_on_its_memory(name):
    assert SERVICES[name]["deploy"]["resources"]["limits"]["memory"]


@pytest.mark.parametrize("name", OURS)
def test_a_service_is_reached_from_this_machine_alone_unless_told_otherwise(name):
    assert all(port.startswith("${BIND:-127.0.0.1}:") for port in SERVICES[name]["ports"])


@pytest.mark.parametrize("name", OURS)
def test_an_image_has_a_version(name):
    image = SERVICES[name]["image"]
    assert "tolbooth" == name or re.search(r":v?\d+\.\d+\.\d+\}$", image)


def test_a_stop_waits_longer_than_the_requests_may_take():
    own = float(environment_file()["TOLBOOTH_SHUTDOWN_TIMEOUT"])
    default = ServerConfig(engine=EngineConfig(model="demo")).shutdown_timeout
    assert seconds(SERVICES["tolbooth"]["stop_grace_period"]) >= max(own, default) + 15


def test_the_server_may_pin_memory():
    assert {"soft": -1, "hard": -1} == SERVICES["tolbooth"]["ulimits"]["memlock"]


def test_a_gpu_is_asked_for_and_not_on_the_cpu():
    (device,) = SERVICES["tolbooth"]["deploy"]["resources"]["reservations"]["devices"]
    assert ["gpu"] == device["capabilities"]
    without = compose("compose.cpu.yaml")["services"]["tolbooth"]["deploy"]["resources"]["reservations"]
    assert isinstance(without, Reset)


def test_the_volumes_of_the_image_are_mounted():
    (listed,) = re.findall(r"^VOLUME \[(.+)\]$", FINAL, flags=re.MULTILINE)
    mounted = {volume.split(":")[1] for volume in SERVICES["tolbooth"]["volumes"]}
    assert set(re.findall(r'"(.+?)"', listed)) == mounted


def test_files_that_services_mount_are_there():
    mounted = [volume.split(":")[0] for service in SERVICES.values() for volume in service["volumes"]]
    assert [] == [path for path in mounted if path.startswith(".") and not (DEPLOY / path).is_dir()]


def test_grafana_finds_its_dashboards_and_prometheus():
    provisioning = DEPLOY / "grafana" / "provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "tolbooth.yaml").read_text())["providers"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in SERVICES["grafana"]["volumes"]
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert "http://prometheus:9090" == source["url"]
