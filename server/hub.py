"""Models of the Hugging Face hub, by their ids; only where the extra `hub` is installed.

Knows how a person names one and what of it is wanted. Knows nothing of what a checkpoint is made of.
"""

import re
from pathlib import Path

from models.bundled import resolve_model
from models.errors import CheckpointError

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9._-]+")
_WANTED = ["*.json", "*.jinja", "*.safetensors", "table/*"]
"""No pickles, and no weights in other formats."""
_ETAG_SECONDS = 10.0


def find_model(name: str | None) -> Path:
    """Return the checkpoint directory of a directory's, bundled model's or hub model's name.

    A hub model is downloaded where it is not there yet. Raises `CheckpointError`.
    """
    try:
        return resolve_model(name)
    except CheckpointError as error:
        if name is None or not _ID.fullmatch(name) or Path(name).exists():
            raise
        return _download(name, error)


def _download(repo_id: str, not_local: CheckpointError) -> Path:
    try:
        from huggingface_hub import snapshot_download  # noqa: PLC0415 an extra
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError  # noqa: PLC0415 an extra
    except ModuleNotFoundError:
        raise CheckpointError(
            f"{not_local}; if {repo_id} is meant to be a model of the Hugging Face hub: pip install tolbooth[hub]"
        ) from None
    try:
        return Path(snapshot_download(repo_id, allow_patterns=_WANTED, etag_timeout=_ETAG_SECONDS))
    except RepositoryNotFoundError as error:
        raise CheckpointError(f"no model {repo_id}: neither a directory here nor on the Hugging Face hub") from error
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"no model {repo_id}: it is no directory here, and the Hugging Face hub cannot be reached"
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise CheckpointError(f"cannot download {repo_id} from the Hugging Face hub: {str(error)[:300]}") from error
