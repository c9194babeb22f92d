"""One training run's arithmetic: loss, gradients, optimizer, learning rate.

Knows a model, batches and the recipe. Knows nothing of files (`models/run.py`) or of people (the command line).
"""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.attention import PackedContext
from models.batches import Batches
from models.computed_rows import ComputedRows
from models.errors import ConfigError
from models.fingerprint import is_memory
from models.loss import Losses, next_token_loss
from models.recipe import OptimizerName, Precision, TrainingConfig
from models.transformer import Transformer


class StepResult(NamedTuple):
    """What one optimizer step did."""

    step: int
    """Steps done, this one included."""
    loss: float
    """Cross entropy in nats per token, mean over the step."""
    grad_norm: float
    """Norm of the gradient before clipping."""
    learning_rate: float
    """The rate it was taken at."""


class Trainer:
    """A model in training: `step` after `step`, each a pure function of the state before it.

    The whole state is the weights, `optimizer_state` and `step_count` (the data's position follows from it), so a run
    that is stopped and restored on the same machine goes on with the same losses to the bit.
    """

    def __init__(self, model: Transformer, batches: Batches, config: TrainingConfig) -> None:
        if config.memory_only:
            _freeze_backbone(model)
        self.model = model
        self.config = config
        self.step_count = 0
        self._batches = batches
        self._optimizers = _build_optimizers(model, config)
        self._loss = torch.compile(self._micro_batch_loss) if config.compile else self._micro_batch_loss

    @property
    def is_done(self) -> bool:
        """Whether the token budget is spent."""
        return self.step_count >= self.config.num_steps

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.model.embed_tokens.weight.device

    def step(self) -> StepResult:
        """Take one optimizer step on the next `batch_size` sequences; a non-finite loss raises `ConfigError`."""
        config = self.config
        learning_rate = config.learning_rate_at(self.step_count)
        self._batches.position = self.step_count * config.batch_size
        num_micro = config.batch_size // config.micro_batch_size
        cross_entropy = torch.zeros((), device=self.device)
        for optimizer in self._optimizers:
            optimizer.zero_grad()  # here, so that nothing is left of a step that failed
        for _ in range(num_micro):
            inputs_BT, targets_BT = (ids.to(self.device, non_blocking=True) for ids in next(self._batches))
            losses = self._loss(inputs_BT, targets_BT)
            (losses.total / num_micro).backward()  # type: ignore[no-untyped-call]
            cross_entropy += losses.cross_entropy / num_micro
        grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.grad_clip)
        loss = float(cross_entropy)
        if not math.isfinite(loss) or not math.isfinite(float(grad_norm)):
            raise ConfigError(
                f"step {self.step_count + 1}: the loss is {loss} and the gradient's norm {float(grad_norm)}; "
                "start a new run with a lower learning_rate or more warmup_steps"
            )
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()
        self.step_count += 1
        return StepResult(self.step_count, loss, float(grad_norm), learning_rate)

    def _micro_batch_loss(self, inputs_BT: Tensor, targets_BT: Tensor) -> Losses:
        num_sequences, length = inputs_BT.shape
        ids_N = inputs_BT.flatten()
        positions_N = torch.arange(length, device=ids_N.device).repeat(num_sequences)
        model = self.model
        autocast = torch.autocast(ids_N.device.type, torch.bfloat16)
        with autocast if self.config.precision is Precision.BF16 else nullcontext():
            rows = ComputedRows(model).fetch(ids_N) if model.config.has_memory else None
            hidden_Nd = model(ids_N, positions_N, PackedContext([length] * num_sequences), rows)
            return next_token_loss(hidden_Nd, model.head_weight, targets_BT.flatten(), z_loss=self.config.z_loss)

    def optimizer_state(self) -> dict[str, Tensor]:
        """Return the optimizers' tensors by `parameter name / entry`; empty before the first step."""
        return {f"{name}/{key}": value for name, entry in self._entries() for key, value in entry.items()}

    def restore(self, step_count: int, optimizer_state: dict[str, Tensor]) -> None:
        """Go on after `step_count` steps with what `optimizer_state` returned then; restore the weights first."""
        by_name: dict[str, dict[str, Tensor]] = {}
        for full_name, value in optimizer_state.items():
            name, _, key = full_name.rpartition("/")
            by_name.setdefault(name, {})[key] = value
        parameters = dict(_trained(self.model))
        if step_count and by_name.keys() != parameters.keys():
            raise ConfigError("the optimizer's state is of another model; start a new run")
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                for parameter, name in zip(group["params"], group["names"], strict=True):
                    if name in by_name:
                        # Fused AdamW wants its step count on the device too.
                        optimizer.state[parameter] = {
                            key: value.to(parameter.device) for key, value in by_name[name].items()
                        }
        self.step_count = step_count

    def _entries(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                for parameter, name in zip(group["params"], group["names"], strict=True):
                    yield name, optimizer.state[parameter]


def _freeze_backbone(model: Transformer) -> None:
    """Let only the memory's FFNs be trained."""
    if not model.config.has_memory:
        raise ConfigError("memory_only trains a memory, and a dense model has none; leave it out")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_memory(name))


def _trained(model: Transformer) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def _build_optimizers(model: Transformer, config: TrainingConfig) -> list[torch.optim.Optimizer]:
    """Matrices of the layers go to Muon where it is chosen; all else, and everything otherwise, to AdamW."""
    muon: dict[str, nn.Parameter] = {}
    decayed: dict[str, nn.Parameter] = {}
    plain: dict[str, nn.Parameter] = {}
    for name, parameter in _trained(model):
        if parameter.ndim < 2:
            plain[name] = parameter
        elif config.optimizer is OptimizerName.MUON and name.startswith("model.layers."):
            muon[name] = parameter
        else:
            decayed[name] = parameter
    groups = [
        {"params": list(part.values()), "names": list(part), "weight_decay": decay}
        for part, decay in ((decayed, config.weight_decay), (plain, 0.0))
        if part
    ]
    adamw = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)
    if not muon:
        return [adamw]
    # With updates scaled to AdamW's size one learning rate serves both (Liu et al., "Muon is scalable", 2025).
    group = {"params": list(muon.values()), "names": list(muon), "weight_decay": config.weight_decay}
    return [torch.optim.Muon([group], lr=config.learning_rate, adjust_lr_fn="match_rms_adamw"), adamw]
