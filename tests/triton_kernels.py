"""Kernels as tests run them: on a GPU, else under Triton's interpreter."""

import importlib
from contextlib import contextmanager

import pytest
import torch

ON_GPU = torch.cuda.is_available()


@contextmanager
def kernels_of(name):
    """Yield the module of this name, imported such that its kernels run here; skip where Triton is not installed."""
    pytest.importorskip("triton", reason="Triton is not installed; it comes with PyTorch's builds for CUDA")
    with pytest.MonkeyPatch.context() as patch:
        if not ON_GPU:
            patch.setenv("TRITON_INTERPRET", "1")  # read when kernels are defined
            from triton.runtime import interpreter

            converted = interpreter._convert_float

            def rounded(values, given, wanted, mode):
                """Round to bf16 as a GPU does; the interpreter cuts off."""
                if (str(given), str(wanted)) != ("fp32", "bf16"):
                    return converted(values, given, wanted, mode)
                return torch.from_numpy(values.copy()).to(torch.bfloat16).view(torch.uint16).numpy()

            patch.setattr(interpreter, "_convert_float", rounded)
        yield importlib.import_module(name)
