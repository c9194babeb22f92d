"""Exceptions of `models`; the root of the tree is drawn in `paging/errors.py`.

TolboothError
├── ConfigError               a model's or a run's configuration is not valid
├── CheckpointError           a checkpoint directory cannot be read or written
├── CorpusError               training or evaluation text cannot be used
└── PackError                 a memory pack cannot be read, made, or laid over this model's table
"""

from paging.errors import TolboothError


class ConfigError(TolboothError):
    """A configuration has an unknown key, a wrong type or values that do not fit together."""


class CheckpointError(TolboothError):
    """A checkpoint directory is missing something, or holds what it should not."""


class CorpusError(TolboothError):
    """Text or token shards are missing, empty or do not fit the model's vocabulary."""


class PackError(TolboothError):
    """A memory pack cannot be read or made, or is for another model or table."""
