"""Requests, sampling, HTTP and the command line; `server -> models -> paging`, never the other way.

`from server import LLM, SamplingParams` is all that offline use needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from server.engine.params import SamplingParams
    from server.llm import LLM, Completion, Output

# Loaded on first use: most of the command line, and the process that answers HTTP, do without torch.
_MODULES = {
    "LLM": "server.llm",
    "Completion": "server.llm",
    "Output": "server.llm",
    "SamplingParams": "server.engine.params",
}

__all__ = ["LLM", "Completion", "Output", "SamplingParams"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'server' has no attribute {name!r}")
