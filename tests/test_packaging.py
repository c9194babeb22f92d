"""The distribution, its environment and the commands around it."""

import functools
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("server", "paging", "models")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

ENGINE_LIBRARIES = ("torch", "numpy", "safetensors", "tokenizers", "xxhash", "msgspec")
"""All that `paging`, `models` and `server.engine` may need to be imported."""

IMPORT_EVERYTHING = """
import importlib, json, pkgutil, sys

blocked, package = set(json.loads(sys.argv[1])), sys.argv[2]

# Triton comes with PyTorch's builds for CUDA; nothing imports it elsewhere.
needs_a_gpu = {"paging.fused", "models.fused_attention"}

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r} (kept out by this test)", name=name)

sys.meta_path.insert(0, NotInstalled())

def fail(name):
    raise

root = importlib.import_module(package)
if hasattr(root, "__path__"):
    for module in pkgutil.walk_packages(root.__path__, package + ".", onerror=fail):
        if not module.name.endswith("__main__") and module.name not in needs_a_gpu:
            importlib.import_module(module.name)
"""


def project_requirements():
    lines = [*PROJECT["dependencies"], *(line for extra in PROJECT["optional-dependencies"].values() for line in extra)]
    return [Requirement(line) for line in lines]


def pins():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def with_dependencies(names):
    """Return `names` and every distribution that they require, without extras, directly or not."""
    found, waiting = set(), [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # required on another platform only
        found.add(name)
        requirements = [Requirement(line) for line in lines]
        waiting += [canonicalize_name(r.name) for r in requirements if r.marker is None or r.marker.evaluate()]
    return found


@functools.cache
def modules_outside_the_engine():
    # tokenizers declares huggingface-hub, and with it half of a web client, but imports nothing of it.
    allowed = with_dependencies(set(ENGINE_LIBRARIES) - {"tokenizers"}) | {"tokenizers", "tolbooth"}
    return sorted(
        module
        for module, distributions in importlib.metadata.packages_distributions().items()
        if not allowed & {canonicalize_name(name) for name in distributions} and module not in PACKAGES
    )


def import_everything(package, *, blocked):
    return subprocess.run(
        [sys.executable, "-c", IMPORT_EVERYTHING, json.dumps(blocked), package],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def make_targets():
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))


@pytest.mark.parametrize("package", PACKAGES)
def test_no_other_distribution_provides_our_package(package):
    assert set(importlib.metadata.packages_distributions().get(package, [])) <= {"tolbooth"}


@pytest.mark.parametrize("package", ["paging", "models", "server.engine"])
def test_every_module_imports_with_the_engine_libraries_alone(package):
    result = import_everything(package, blocked=modules_outside_the_engine())
    assert (0, "") == (result.returncode, result.stderr)


def test_the_import_test_keeps_out_every_other_library():
    others = {
        "fastapi",
        "httpx",
        "prometheus_client",
        "pydantic",
        "rich",
        "starlette",
        "transformers",
        "typer",
        "uvicorn",
    }
    assert set() == others - set(modules_outside_the_engine())


def test_the_import_test_fails_for_a_library_kept_out():
    result = import_everything("fastapi", blocked=modules_outside_the_engine())
    assert "kept out by this test" in result.stderr


def test_installed_version_is_that_of_pyproject():
    assert PROJECT["version"] == importlib.metadata.version("tolbooth")


@pytest.mark.parametrize("version", ["2.11.0", "2.12.0", "2.13.0"])
def test_torch_range_admits(version):
    (torch,) = (requirement for requirement in project_requirements() if requirement.name == "torch")
    assert torch.specifier.contains(version)


def test_every_requirement_is_pinned_to_a_version_in_its_range():
    pinned = pins()
    misfits = [
        str(requirement)
        for requirement in project_requirements()
        if not requirement.specifier.contains(pinned.get(canonicalize_name(requirement.name), "0"))
    ]
    assert [] == misfits


def test_everything_that_the_requirements_require_is_pinned():
    roots = {canonicalize_name(requirement.name) for requirement in project_requirements()}
    # A CUDA build of torch requires exact versions of NVIDIA's packages itself.
    needed = {name for name in with_dependencies(roots) if not name.startswith(("nvidia-", "cuda-", "triton"))}
    assert set() == needed - pins().keys()


def test_constraints_are_exact_public_versions():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    odd = [line for line in lines if not re.fullmatch(r"#.*|[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line)]
    assert [] == odd


def test_the_wheel_holds_the_packages_and_their_data(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, tree)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("demos", "__pycache__"))
    demo = tree / "models" / "demos" / "sample"
    demo.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (demo / name).write_bytes(b"data")
    sources = {str(path.relative_to(tree)) for name in PACKAGES for path in (tree / name).rglob("*") if path.is_file()}

    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        cwd=tree,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")

    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert sources == packed


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", ".ci/run"])
def test_named_make_commands_exist(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", text, flags=re.MULTILINE))
    assert named
    assert set() == named - make_targets()


def test_commit_hooks_run_the_commands_of_make_check():
    hooks = re.findall(r"entry: \.venv/bin/(.+)", (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    commands = re.findall(r"^check:.*\n((?:\t.+\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert [line.strip().removeprefix("$(BIN)/") for line in commands[0].splitlines()] == hooks


def test_the_structure_page_names_every_module_and_no_other():
    text = (ROOT / "docs" / "structure.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:server|paging|models)/[\w/]+\.py)`", text))
    present = {str(path.relative_to(ROOT)) for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    assert set() == named ^ {name for name in present if not name.endswith("/__init__.py")}
