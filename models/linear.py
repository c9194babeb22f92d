"""Matrices of a model, and how they lie in memory for the device that multiplies by them.

On a CPU, oneDNN's own order of a matrix's values is 1.5 to 3 times as fast as rows one after another: PyTorch hands
small batches to a kernel that uses half of the memory's bandwidth, and orders larger ones anew at every call.

Knows PyTorch's operators. Knows nothing of layers.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Linear(nn.Linear):
    """A matrix whose values are loaded or come from `init_weights`; PyTorch's own first values would cost seconds."""

    def reset_parameters(self) -> None:
        """Leave the values as they are."""

    def forward(self, x_Nd: Tensor) -> Tensor:
        """Return the product with every row of `x_Nd`."""
        return multiply(x_Nd, self.weight)

    @classmethod
    def joined(cls, parts: "list[Linear]") -> "Linear":
        """Return one matrix, ready for inference, for one or several that read the same; outputs follow in turn."""
        weights = [part.weight for part in parts]
        with torch.device("meta"):
            linear = cls(parts[0].in_features, sum(len(weight) for weight in weights), bias=False)
        linear.weight = laid_out(torch.cat(weights) if len(weights) > 1 else weights[0])
        return linear


def multiply(x_Nd: Tensor, weight: Tensor) -> Tensor:
    """Return `x W^T`, for a matrix as it was stored or as `laid_out` returned it."""
    if weight.is_mkldnn:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x_Nd, weight, None, "none", [], "")  # noqa: SLF001 what compiled models call
        return out
    return F.linear(x_Nd, weight)


@torch.no_grad()
def laid_out(weight: Tensor) -> nn.Parameter:
    """Return a matrix in the order that its device reads fastest; on a GPU, and where oneDNN lacks it, as it is."""
    if _has_own_order(weight):
        weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach())  # noqa: SLF001
    return weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight, requires_grad=False)


def _has_own_order(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if weight.dtype is torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001
    return weight.dtype is torch.float32
