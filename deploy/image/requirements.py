"""Write what an image installs: image-requirements.txt and image-constraints.txt.

    python requirements.py pyproject.toml constraints.txt FOLDER

Requirements are those of pyproject.toml, with the extra `hub`, and an init for process 1. Constraints are the pinned
versions, but for torch where the environment has one that pyproject.toml admits: a base image's build fits its CUDA
libraries.
"""

import importlib.metadata
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

_INIT = "dumb-init==1.2.5.post1"


def main(project: Path, constraints: Path, folder: Path) -> None:
    """Read `project` and `constraints`, write both files into `folder`."""
    tables = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    requirements = [*tables["dependencies"], *tables["optional-dependencies"]["hub"], _INIT]
    (torch,) = (each for each in map(Requirement, requirements) if each.name == "torch")
    lines = constraints.read_text(encoding="utf-8").splitlines()
    if has(torch):
        lines = [line for line in lines if not line.startswith("torch==")]
    _write(folder / "image-requirements.txt", requirements)
    _write(folder / "image-constraints.txt", lines)


def has(requirement: Requirement) -> bool:
    """Whether a distribution that meets `requirement` is installed."""
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return requirement.specifier.contains(version, prereleases=True)


def _write(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
