"""Reading a model's weights before there is anything to put them into: imports without torch, to begin before that."""

from models.bundled import resolve_model
from models.read_ahead import read_ahead
from server.engine.beside import Beside
from server.engine.choices import Memory
from server.engine.config import EngineConfig


def read_weights_ahead(config: EngineConfig) -> Beside[None]:
    """Begin to bring the weights that an engine will ask for into the page cache, and return the work."""
    with_memory = config.memory == Memory.COMPUTED  # a plain string is as good
    return Beside(
        "read-weights",
        lambda on_progress: read_ahead(resolve_model(config.model), with_memory=with_memory, on_progress=on_progress),
    )
