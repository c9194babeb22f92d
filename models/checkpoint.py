"""Checkpoint directories: a model on disk.

| file                     | holds                                                                          |
|--------------------------|--------------------------------------------------------------------------------|
| `config.json`            | `ModelConfig`                                                                  |
| `model.safetensors`      | the tensors; or `model-0000i-of-0000n.safetensors` and `model.safetensors.index.json` |
| `tokenizer.json`         | the tokenizer, where there is one                                              |
| `generation_config.json` | defaults of sampling, and the ids that end a text                              |

A slim checkpoint lacks the memory's FFNs, whose outputs are in a ToL table; it keeps the table's fingerprint.
Knows which tensors a model has. Does not know tables, training state, or where a name leads (`models/bundled.py`).
"""

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from models.config import CONFIG_FILE, ModelConfig
from models.errors import CheckpointError, ConfigError
from models.fingerprint import EMBEDDING, Fingerprints, is_memory
from models.tokenizer import TOKENIZER_FILE, save_tokenizer, vocab_size
from models.transformer import Transformer
from models.weights import (
    FLOAT_DTYPES,
    INDEX_FILE,
    SHARD_BYTES,
    WEIGHTS_FILE,
    StoredWeights,
    TensorSpec,
    hash_weights,
    storage_word,
    write_text,
    write_weights,
)
from paging.staging import StagingDirectory, remove_debris

GENERATION_FILE = "generation_config.json"


def expected_tensors(config: ModelConfig, *, with_memory: bool = True) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor that a model of this configuration has."""
    with torch.device("meta"):
        model = Transformer(config, with_memory=with_memory)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def load_model(
    directory: Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    with_memory: bool = True,
) -> Transformer:
    """Load a checkpoint without a second copy of its weights.

    On the CPU and in the stored dtype, weights are backed by the mapped files; otherwise they are converted one at a
    time. `dtype` None takes the dtype in which the embedding is stored. With `with_memory=False` (a table is
    present) the memory's tensors are not read. Raises `CheckpointError` that lists every tensor that does not fit.
    """
    config, weights = open_checkpoint(directory)
    names = expected_tensors(config, with_memory=with_memory)
    check_tensors(directory, config, weights.specs, with_memory=with_memory)
    if dtype is None:
        dtype = FLOAT_DTYPES[weights.specs[EMBEDDING].dtype]
    with torch.device("meta"):
        model = Transformer(config, with_memory=with_memory)
    tensors = {name: weights.read(name).to(device=device, dtype=dtype) for name in names}
    model.load_state_dict(tensors, assign=True)
    return model


def open_checkpoint(directory: Path) -> tuple[ModelConfig, StoredWeights]:
    """Read a checkpoint's configuration and list its tensors, without reading any."""
    if not directory.exists():
        # Where a file system cannot exchange directories, a killed writer may have left the old one aside.
        with contextlib.suppress(OSError):
            remove_debris(directory)
    if not directory.is_dir():
        raise CheckpointError(f"no checkpoint at {directory}: there is no such directory")
    return ModelConfig.load(directory), StoredWeights(directory)


def check_tensors(
    directory: Path, config: ModelConfig, specs: Mapping[str, TensorSpec], *, with_memory: bool = True
) -> None:
    """Raise one `CheckpointError` that lists all tensors that are missing, unexpected, mis-shaped or wrongly typed.

    Memory tensors may be there or not where `with_memory` is false; shapes are checked all the same.
    """
    known = expected_tensors(config)
    needed = {name for name in known if with_memory or not is_memory(name)}
    if config.has_memory and with_memory and not any(map(is_memory, specs)):
        raise CheckpointError(
            f"{directory} is a slim checkpoint, without its memory's FFNs: run it with its ToL table, "
            "or use the full checkpoint"
        )
    problems = [f"missing {name}" for name in sorted(needed - specs.keys())]
    for name, (dtype, shape) in sorted(specs.items()):
        if name not in known:
            problems.append(f"unexpected {name}")
            continue
        if shape != known[name]:
            problems.append(f"{name} has shape {list(shape)} instead of {list(known[name])}")
        if dtype not in FLOAT_DTYPES:
            problems.append(f"{name} is {dtype} instead of {', '.join(FLOAT_DTYPES)}")
    if problems:
        raise CheckpointError(f"the tensors of {directory} do not fit its {CONFIG_FILE}: {'; '.join(problems)}")


def read_fingerprints(directory: Path) -> Fingerprints:
    """Return a checkpoint's stored fingerprints; `CheckpointError` where another program wrote it without them."""
    stored = StoredWeights(directory).fingerprints
    if stored is None:
        raise CheckpointError(f"{directory} has no fingerprints; `tolbooth import` makes a checkpoint that has them")
    return stored


def compute_fingerprints(directory: Path) -> Fingerprints:
    """Return the fingerprints of the tensors that are there, reading them all; equal to the stored ones if sound.

    Of a slim checkpoint only the backbone's can be computed; its table's is None.
    """
    config, weights = open_checkpoint(directory)
    slim = not any(map(is_memory, weights.specs))
    check_tensors(directory, config, weights.specs, with_memory=not slim)
    computed = hash_weights(config, weights.specs, weights.read)
    return Fingerprints(backbone=computed.backbone, table=None if slim else computed.table)


def save_checkpoint(
    model: Transformer,
    out: Path,
    *,
    dtype: torch.dtype | None = None,
    slim: bool = False,
    table_fingerprint: str | None = None,
    tokenizer: Tokenizer | None = None,
    generation: Mapping[str, Any] | None = None,
    replace: bool = False,
    shard_bytes: int = SHARD_BYTES,
    write_more: Callable[[Path], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Fingerprints:
    """Write a model as the checkpoint `out`, which appears whole or not at all; see `write_checkpoint`.

    `dtype` None takes the embedding's. A slim checkpoint keeps `table_fingerprint`, that of the checkpoint
    from which the table is exported; where it is None, the model's own tensors are taken for that.
    """
    tensors = dict(model.named_parameters())
    config = model.config
    complete = tensors.keys() == expected_tensors(config).keys()
    if not slim and not complete:
        raise CheckpointError(f"cannot write {out}: the model was built without its memory's FFNs; write it slim")
    if slim and table_fingerprint is None and config.has_memory:
        if not complete:
            raise CheckpointError(f"cannot write {out}: the fingerprint of the ToL table that goes with it is needed")
        specs = {name: TensorSpec(storage_word(value.dtype), tuple(value.shape)) for name, value in tensors.items()}
        table_fingerprint = hash_weights(config, specs, tensors.__getitem__).table
    return write_checkpoint(
        out,
        config,
        tensors.__getitem__,
        dtype=tensors[EMBEDDING].dtype if dtype is None else dtype,
        slim=slim,
        table_fingerprint=table_fingerprint,
        tokenizer=tokenizer,
        generation=generation,
        replace=replace,
        shard_bytes=shard_bytes,
        write_more=write_more,
        on_progress=on_progress,
    )


def write_checkpoint(
    out: Path,
    config: ModelConfig,
    read: Callable[[str], Tensor],
    *,
    dtype: torch.dtype,
    slim: bool = False,
    table_fingerprint: str | None = None,
    tokenizer: Tokenizer | None = None,
    generation: Mapping[str, Any] | None = None,
    replace: bool = False,
    shard_bytes: int = SHARD_BYTES,
    write_more: Callable[[Path], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Fingerprints:
    """Write a checkpoint from tensors that `read` hands out by name, each asked for once, in order of name.

    out: the directory. A kill at any instant leaves the last whole one. An existing checkpoint is replaced only with
        `replace`, and anything else that is there is never touched.
    dtype: in which all tensors are stored.
    slim: leave out the memory's tensors and store `table_fingerprint`.
    generation: the content of `generation_config.json`; None writes the ids that begin and end a text.
    write_more: writes further files (a trainer's state) into the directory that it is given, which appears with them.
    on_progress: called with (bytes written, bytes in all).
    """
    if tokenizer is not None and vocab_size(tokenizer) > config.vocab_size:
        raise CheckpointError(
            f"cannot write {out}: the tokenizer has {vocab_size(tokenizer)} ids, the model a vocabulary of "
            f"{config.vocab_size}"
        )
    if generation is None:
        ids = {"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id}
        generation = {name: value for name, value in ids.items() if value is not None}
    try:
        # What killed writers left; it may put an old checkpoint back, so it comes before looking what is there.
        remove_debris(out)
        check_target(out, replace=replace)
        staging = StagingDirectory(out)
        try:
            write_text(staging.path / CONFIG_FILE, config.to_json())
            write_text(staging.path / GENERATION_FILE, json.dumps(dict(generation), indent=2) + "\n")
            if tokenizer is not None:
                save_tokenizer(tokenizer, staging.path / TOKENIZER_FILE)
            fingerprints = write_weights(
                staging.path,
                config,
                expected_tensors(config, with_memory=not slim),
                read,
                dtype=dtype,
                table_fingerprint=table_fingerprint,
                shard_bytes=shard_bytes,
                on_progress=on_progress,
            )
            if write_more is not None:
                write_more(staging.path)
            # Once more: writing may have taken minutes.
            check_target(out, replace=replace)
            staging.publish(replace=replace)
        except BaseException:
            staging.discard()
            raise
    except OSError as error:
        raise CheckpointError(f"cannot write the checkpoint {out}: {error}") from error
    return fingerprints


def check_target(out: Path, *, replace: bool) -> None:
    """Raise `CheckpointError` unless `out` is free, or holds a checkpoint that may be replaced."""
    try:
        entries = list(out.iterdir()) if out.is_dir() else []
    except OSError as error:
        raise CheckpointError(f"cannot write to {out}: {error}") from error
    if not entries and (out.is_dir() or not out.exists()):
        return
    if not _is_checkpoint(out) or any(entry.is_dir() for entry in entries):
        raise CheckpointError(f"{out} is there and is not a checkpoint alone; name another directory")
    if not replace:
        raise CheckpointError(f"{out} holds a checkpoint already; name another directory, or ask to replace it")


def _is_checkpoint(directory: Path) -> bool:
    try:
        ModelConfig.load(directory)
    except ConfigError:
        return False
    return any((directory / name).is_file() for name in (WEIGHTS_FILE, INDEX_FILE))
