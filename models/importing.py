"""Checkpoints of other programs made ours, and copies of ours in another dtype or without the memory's FFNs."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.checkpoint import GENERATION_FILE, check_target, check_tensors, open_checkpoint, write_checkpoint
from models.config import CONFIG_FILE, ModelConfig
from models.errors import CheckpointError
from models.fingerprint import EMBEDDING, Fingerprints, is_memory
from models.names import NAME_MAPS
from models.tokenizer import CHAT_TEMPLATE_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, load_tokenizer
from models.weights import FLOAT_DTYPES, StoredWeights, hash_weights

_HEAD = "lm_head.weight"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def import_checkpoint(
    source: Path,
    out: Path,
    *,
    dtype: torch.dtype | None = None,
    slim: bool = False,
    replace: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Fingerprints:
    """Write the checkpoint `source`, ours or one that `models/names.py` has a map for, as our checkpoint `out`.

    `dtype` None keeps the dtype of the embedding. With `slim` the memory's tensors are left out and the table's
    fingerprint is that of `source`. Tensors are copied one at a time. Raises `ConfigError` for what the source's
    configuration asks for and we lack, `CheckpointError` for everything else.
    """
    check_target(out, replace=replace)
    _refuse_pickles(source)
    config, weights = open_checkpoint(source)
    names = _our_names(source, config, weights)
    specs = {ours: weights.specs[theirs] for ours, theirs in names.items()}
    slim_source = config.has_memory and not any(map(is_memory, specs))
    check_tensors(source, config, specs, with_memory=not slim)

    def read(name: str) -> Tensor:
        return weights.read(names[name])

    table_fingerprint = None
    if slim and config.has_memory:
        stored = weights.fingerprints
        if stored is not None:
            table_fingerprint = stored.table
        elif not slim_source:
            table_fingerprint = hash_weights(config, specs, read).table
        if table_fingerprint is None:
            raise CheckpointError(f"{source} is slim and does not say which ToL table goes with it")
    tokenizer = source / TOKENIZER_FILE
    return write_checkpoint(
        out,
        config,
        read,
        dtype=FLOAT_DTYPES[specs[EMBEDDING].dtype] if dtype is None else dtype,
        slim=slim,
        table_fingerprint=table_fingerprint,
        tokenizer=load_tokenizer(tokenizer) if tokenizer.exists() else None,
        generation=_read_generation(source),
        replace=replace,
        write_more=lambda directory: _copy_chat_template(source, directory),
        on_progress=on_progress,
    )


def _our_names(source: Path, config: ModelConfig, weights: StoredWeights) -> dict[str, str]:
    """Return our name -> the source's name of every tensor to read."""
    words = NAME_MAPS.get(_model_type(source))
    names: dict[str, str] = {}
    for theirs in weights.specs:
        ours = theirs if words is None else words.tensor_name(theirs)
        if ours is None:
            continue
        if ours in names:
            raise CheckpointError(f"{source} has {ours} twice, as {names[ours]} and as {theirs}")
        names[ours] = theirs
    if config.tie_word_embeddings and _HEAD in names and EMBEDDING in names:
        # Some writers store a tied head all the same.
        head, embedding = weights.read(names[_HEAD]), weights.read(names[EMBEDDING])
        if head.dtype != embedding.dtype or not torch.equal(head, embedding):
            raise CheckpointError(f"{source} ties its head to the embedding, but stores {names[_HEAD]} that differs")
        del names[_HEAD]
    return names


def _model_type(source: Path) -> str:
    # The configuration was read whole before, so this key is there.
    values = json.loads((source / CONFIG_FILE).read_text(encoding="utf-8"))
    return str(values["model_type"])


def _refuse_pickles(source: Path) -> None:
    if any(source.glob("*.safetensors")):
        return
    pickled = sorted(path.name for pattern in _PICKLED for path in source.glob(pattern))
    if pickled:
        raise CheckpointError(
            f"{source} has its weights as pickles ({', '.join(pickled)}), which are not read: "
            "save it as safetensors with `transformers` first"
        )


def _copy_chat_template(source: Path, directory: Path) -> None:
    for name in (TOKENIZER_CONFIG_FILE, CHAT_TEMPLATE_FILE):
        if (source / name).is_file():
            shutil.copyfile(source / name, directory / name)


def _read_generation(source: Path) -> Mapping[str, Any] | None:
    path = source / GENERATION_FILE
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return values
