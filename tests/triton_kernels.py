"""Kernels as tests run them: on a GPU, else under Triton's interpreter."""

import importlib
import os
from contextlib import contextmanager

import pytest
import torch

ON_GPU = torch.cuda.is_available()
if not ON_GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is loaded, and when kernels are defined


@contextmanager
def kernels_of(name):
    """Yield the module of this name, imported such that its kernels run here; skip where Triton is not installed."""
    pytest.importorskip("triton", reason="Triton is not installed; it comes with PyTorch's builds for CUDA")
    with pytest.MonkeyPatch.context() as patch:
        if not ON_GPU:
            from triton.runtime import interpreter

            converted = interpreter._convert_float

            def rounded(values, given, wanted, mode):
                """Round to bf16 as a GPU does; the interpreter cuts off."""
                if (str(given), str(wanted)) != ("fp32", "bf16"):
                    return converted(values, given, wanted, mode)
                return torch.from_numpy(values.copy()).to(torch.bfloat16).view(torch.uint16).numpy()

            patched = interpreter._patch_lang_tensor

            def indexed(tensor, scope):
                """Let scalars be bounds of loops; the interpreter's are arrays of one number, which NumPy refuses."""
                patched(tensor, scope)
                scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

            patch.setattr(interpreter, "_convert_float", rounded)
            patch.setattr(interpreter, "_patch_lang_tensor", indexed)
        yield importlib.import_module(name)
