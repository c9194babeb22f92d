"""The recipe of a training run: everything about it that is a number or a name.

Knows no tensors and imports without torch, so that the command line can read its options from here.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

from models.errors import ConfigError


class OptimizerName(StrEnum):
    """What turns gradients into updates."""

    ADAMW = "adamw"  # the paper's
    MUON = "muon"  # orthogonalised momentum for the layers' matrices, AdamW for the rest


class Precision(StrEnum):
    """The number format of matrix products; weights, norms, softmax and optimizer stay in float32."""

    FP32 = "fp32"
    BF16 = "bf16"


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The recipe; the defaults are the paper's (MemoryLLM, Table 3), whose batch size is not stated."""

    max_tokens: int
    """Tokens to train on; rounded up to whole steps."""
    sequence_length: int = 2048
    """Tokens per sequence."""
    batch_size: int = 64
    """Sequences per optimizer step."""
    micro_batch_size: int = 8
    """Sequences per forward pass: gradients are accumulated over `batch_size / micro_batch_size` of them."""
    learning_rate: float = 1e-4
    """The peak, reached after warm-up."""
    min_learning_rate: float = 1e-5
    """Where the cosine ends."""
    warmup_steps: int = 5000
    """Steps of linear warm-up."""
    beta1: float = 0.9
    """AdamW's first-moment decay."""
    beta2: float = 0.95
    """AdamW's second-moment decay."""
    weight_decay: float = 0.1
    """Decoupled decay of matrices; norms are not decayed."""
    z_loss: float = 1e-6
    """Weight of the squared log-partition."""
    grad_clip: float = 1.0
    """Largest norm of the whole gradient."""
    optimizer: OptimizerName = OptimizerName.ADAMW
    """What turns gradients into updates."""
    precision: Precision = Precision.FP32
    """The number format of matrix products."""
    compile: bool = False
    """Whether `torch.compile` fuses the loss function."""
    seed: int = 0
    """Seeds weights and the order of the data."""
    memory_only: bool = False
    """Whether only the memory's FFNs are trained, and all else stays to the bit what it was."""

    def __post_init__(self) -> None:
        for name in ("max_tokens", "sequence_length", "batch_size", "micro_batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.batch_size % self.micro_batch_size:
            raise ConfigError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size {self.micro_batch_size}"
            )
        if self.warmup_steps < 0 or self.seed < 0:
            raise ConfigError("warmup_steps and seed must be at least 0")
        if not 0 < self.min_learning_rate <= self.learning_rate < math.inf:
            raise ConfigError("learning rates must be finite, and 0 < min_learning_rate <= learning_rate")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise ConfigError("beta1 and beta2 must be in [0, 1)")
        if not (0 <= self.weight_decay < math.inf and 0 <= self.z_loss < math.inf and self.grad_clip > 0):
            raise ConfigError("weight_decay and z_loss must be finite and at least 0, grad_clip above 0")

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step."""
        return self.batch_size * self.sequence_length

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return -(-self.max_tokens // self.tokens_per_step)

    def learning_rate_at(self, step: int) -> float:
        """Return the rate of step `step`, from 0: linear warm-up to the peak, then a cosine to the minimum."""
        warmup = min(self.warmup_steps, self.num_steps)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        progress = (step - warmup) / max(1, self.num_steps - warmup - 1)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return self.min_learning_rate + (self.learning_rate - self.min_learning_rate) * cosine


@dataclass(frozen=True, kw_only=True)
class Cadence:
    """How often, in optimizer steps, a run looks up from its work."""

    checkpoint_steps: int = 500
    """Steps between checkpoints; there is one at the end in any case."""
    validation_steps: int = 500
    """Steps between validations; there is one at the end in any case."""

    def __post_init__(self) -> None:
        if self.checkpoint_steps < 1 or self.validation_steps < 1:
            raise ConfigError("checkpoint_steps and validation_steps must be at least 1")
