"""Builds the image on a base of plain Debian with buildah, which needs no engine.

Knows how pip is configured here, and hands that to the build alone.
"""

import ast
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.checks.processes import CheckError

ROOT = Path(__file__).resolve().parents[2]
_BASE = "localhost/tolbooth-check-base"
_IMAGE = "localhost/tolbooth-check"
_PACKAGES = "python3,python3-pip,ca-certificates"
"""Of the base beside Debian's essential ones. python3-venv is not needed, compilers are not there."""
_LONGEST = 3600.0


@dataclass(frozen=True, kw_only=True)
class Image:
    """What the built image says of itself."""

    root: Path
    """Its files, mounted."""
    environment: dict[str, str]
    command: list[str]
    user: str
    volumes: list[str]
    health: list[str]
    num_bytes: int
    added_bytes: int
    """Beyond the base."""


class Builder:
    """buildah with a storage of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mounted: list[str] = []

    def make_base(self, suite: str) -> str:
        """Return the name of an image of plain Debian with Python."""
        root = self._folder / "base"
        if not (root / "usr" / "bin" / "python3").exists():
            _run(["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", suite, root])
        container = self.buildah("from", "scratch")
        self.buildah("add", "--quiet", container, root, "/")
        self.buildah("commit", "--quiet", "--format", "docker", container, _BASE)
        self.buildah("rm", container)
        return _BASE

    def build(self, base: str) -> str:
        """Build the image and return its name."""
        configuration = self._folder / "pip.conf"
        options = pip_options()
        lines = ["[global]", *(f"{name} = {value}" for name, value in options.items())]
        configuration.write_text("\n".join(lines) + "\n", encoding="utf-8")
        volumes = [f"--volume={path}:{path}:ro" for path in local_paths(options)]
        self.buildah(
            *("build", "--isolation=chroot", "--format=docker", "--layers=false", f"--build-arg=BASE_IMAGE={base}"),
            *(f"--secret=id=pip.conf,src={configuration}", *volumes, f"--tag={_IMAGE}", str(ROOT)),
        )
        return _IMAGE

    def open(self, name: str, base: str) -> Image:
        """Mount an image's files and read what it says of itself."""
        container = self.buildah("from", "--pull-never", name)
        self._mounted.append(container)
        said: dict[str, Any] = json.loads(self.buildah("inspect", "--type=image", name))["Docker"]["config"]
        sizes = [int(self._size(each)) for each in (name, base)]
        return Image(
            root=Path(self.buildah("mount", container)),
            environment=dict(line.split("=", 1) for line in said["Env"]),
            command=[*said["Entrypoint"], *said["Cmd"]],
            user=said["User"],
            volumes=sorted(said["Volumes"]),
            health=said["Healthcheck"]["Test"],
            num_bytes=sizes[0],
            added_bytes=sizes[0] - sizes[1],
        )

    def close(self) -> None:
        """Unmount what was mounted."""
        for container in self._mounted:
            self.buildah("umount", container)
            self.buildah("rm", container)

    def buildah(self, *arguments: str | Path) -> str:
        """Run buildah and return what it printed last on its standard output."""
        place = ["--storage-driver=vfs", f"--root={self._folder / 'storage'}", f"--runroot={self._folder / 'run'}"]
        return _run(["buildah", *place, *arguments]).strip()

    def _size(self, name: str) -> int:
        layers = json.loads(self.buildah("inspect", "--type=image", name))["OCIv1"]["rootfs"]["diff_ids"]
        stored = json.loads((self._folder / "storage" / "vfs-layers" / "layers.json").read_text(encoding="utf-8"))
        by_digest = {layer.get("diff-digest"): layer.get("diff-size", 0) for layer in stored}
        return sum(by_digest[digest] for digest in layers)


def pip_options() -> dict[str, str]:
    """Return how pip is configured here, whatever says so: files or the environment, the latter first."""
    lines = _run([sys.executable, "-m", "pip", "config", "list"]).splitlines()
    found: dict[str, str] = {}
    for line in sorted(lines, key=lambda line: line.startswith(":env:")):
        name, _, value = line.partition("=")
        found[name.rpartition(".")[2]] = " ".join(str(ast.literal_eval(value)).split())
    return found


def local_paths(options: dict[str, str]) -> list[Path]:
    """Return the folders and files of this machine that pip's options name; of an index, the folder around it."""
    found: set[Path] = set()
    for word in " ".join(options.values()).split():
        is_index = word.startswith("file://")
        path = Path(word.removeprefix("file://"))
        if path.is_absolute() and path.exists():
            found.add(path.parent if is_index else path)
    return sorted(found)


def _run(command: Sequence[str | Path]) -> str:
    result = subprocess.run(  # noqa: S603 our own arguments
        [str(part) for part in command], capture_output=True, text=True, check=False, timeout=_LONGEST
    )
    if result.returncode:
        raise CheckError(f"{' '.join(map(str, command[:6]))} ...: {(result.stdout + result.stderr)[-4000:]}")
    return result.stdout
