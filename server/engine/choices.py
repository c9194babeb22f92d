"""What a person chooses when a model is loaded: where its rows come from, its device, its number format.

Imports without torch, so that the command line can list the choices at once.
"""

from enum import StrEnum


class Memory(StrEnum):
    """Where a model's rows come from."""

    COMPUTED = "computed"  # the memory's FFNs themselves, no table
    RESIDENT = "resident"  # a table, all of it in memory
    MAPPED = "mapped"  # a table, rows read from its file for each batch
    PAGED = "paged"  # a table, rows kept in slots of a fixed number and read where they are absent


class Device(StrEnum):
    """Where the backbone runs."""

    AUTO = "auto"  # CUDA where there is any
    CPU = "cpu"
    CUDA = "cuda"


class Dtype(StrEnum):
    """The number format of weights and activations."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
