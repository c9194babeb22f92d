"""That kernels are what Triton's compiler takes; what they compute is tested beside their modules."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_kernels_compile_for_gpus():
    pytest.importorskip("triton", reason="Triton is not installed; it comes with PyTorch's builds for CUDA")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    program = [sys.executable, "-m", "tests.compile_kernels"]
    result = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert 0 == result.returncode, result.stderr[-2000:]
