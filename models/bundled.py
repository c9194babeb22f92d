"""Where a MODEL that a person names is: a directory, or one of the demos that come with the package."""

from pathlib import Path

from models.config import CONFIG_FILE
from models.errors import CheckpointError

DEFAULT_MODEL = "demo"
_DEMOS = Path(__file__).parent / "demos"


def bundled_models() -> list[str]:
    """Return the names of the demos."""
    return sorted(path.parent.name for path in _DEMOS.glob(f"*/{CONFIG_FILE}"))


def resolve_model(name_or_path: str | None) -> Path:
    """Return the checkpoint directory that a person means; None means the demo.

    A bundled name goes before a directory of that name: write `./demo` for a directory of your own. Raises
    `CheckpointError` with the bundled names where nothing of that name is there.
    """
    name = DEFAULT_MODEL if name_or_path is None else name_or_path
    names = bundled_models()
    if name in names:
        return _DEMOS / name
    if (Path(name) / CONFIG_FILE).is_file():
        return Path(name)
    reason = f"it has no {CONFIG_FILE}" if Path(name).is_dir() else "there is no such directory"
    raise CheckpointError(f"no model at {name}: {reason}; the bundled models are {', '.join(names) or 'missing'}")
