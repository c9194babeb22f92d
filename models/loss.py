"""Next-token cross entropy with z-loss, in memory bounded by a chunk of logits rather than N x V.

Shape legend: N tokens, d hidden size, V vocabulary, M tokens of a chunk.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.linear import multiply

# Logits of a chunk: 4 Mi values stay in a large CPU cache in fp32, and fill a GPU well enough.
CHUNK_LOGITS = 1 << 22


class Losses(NamedTuple):
    """Means over tokens, in nats."""

    total: Tensor
    """Cross entropy plus z-loss; what is minimised."""
    cross_entropy: Tensor
    """Without z-loss; carries no gradient."""


def next_token_loss(hidden_Nd: Tensor, head_Vd: Tensor, targets_N: Tensor, *, z_loss: float = 0.0) -> Losses:
    """Return the mean of `-log softmax(hidden head^T)[target] + z_loss * log(Z)^2` over tokens.

    hidden_Nd, head_Vd: floating point; under autocast the products run in its dtype, the softmax in float32 at least.
        Where no gradient is wanted, the head may be as `models.linear.laid_out` returns it.
    targets_N: int64. z_loss: the weight of the squared log-partition (the paper uses 1e-6).
    """
    total, cross_entropy = _ChunkedLoss.apply(hidden_Nd, head_Vd, targets_N, z_loss)  # type: ignore[no-untyped-call]
    return Losses(total, cross_entropy)


class _ChunkedLoss(torch.autograd.Function):
    """Both gradients are made in the forward pass, chunk by chunk, while the chunk's softmax is at hand."""

    @staticmethod
    def forward(
        ctx: Any, hidden_Nd: Tensor, head_Vd: Tensor, targets_N: Tensor, z_loss: float
    ) -> tuple[Tensor, Tensor]:
        device = hidden_Nd.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else head_Vd.dtype
        precision = torch.promote_types(dtype, torch.float32)
        hidden, head = hidden_Nd.to(dtype), head_Vd.to(dtype)
        needs_grad = any(ctx.needs_input_grad[:2])
        grad_hidden = torch.empty_like(hidden_Nd) if needs_grad else None
        grad_head = torch.zeros_like(head_Vd) if needs_grad else None
        cross_entropy = hidden_Nd.new_zeros((), dtype=torch.float64)
        squared_lse = hidden_Nd.new_zeros((), dtype=torch.float64)
        num_tokens = len(targets_N)
        step = max(1, CHUNK_LOGITS // len(head_Vd))
        with torch.autocast(device, enabled=False):
            for start in range(0, num_tokens, step):
                chunk = slice(start, start + step)
                target_M1 = targets_N[chunk, None]
                logits_MV = multiply(hidden[chunk], head).to(precision)
                lse_M1 = logits_MV.logsumexp(-1, keepdim=True)
                cross_entropy += (lse_M1 - logits_MV.gather(1, target_M1)).sum(dtype=torch.float64)
                squared_lse += lse_M1.square().sum(dtype=torch.float64)
                if grad_hidden is None or grad_head is None:
                    continue
                grad_MV = logits_MV.sub_(lse_M1).exp_()
                grad_MV.mul_((1 + 2 * z_loss * lse_M1) / num_tokens)
                grad_MV.scatter_add_(1, target_M1, torch.full_like(lse_M1, -1 / num_tokens))
                grad = grad_MV.to(dtype)
                grad_hidden[chunk] = grad @ head
                grad_head += grad.T @ hidden[chunk]
        ctx.save_for_backward(grad_hidden, grad_head)
        mean = (cross_entropy / num_tokens).to(precision)
        total = mean + z_loss * (squared_lse / num_tokens).to(precision)
        ctx.mark_non_differentiable(mean)
        return total, mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_hidden, grad_head = ctx.saved_tensors
        return grads[0] * grad_hidden, grads[0] * grad_head, None, None
