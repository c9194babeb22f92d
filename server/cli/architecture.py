"""From options to a `ModelConfig`: the sizes of a preset, a file or a checkpoint, and sizes given one by one."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.config import ContextForm, Kind, ModelConfig
from models.errors import ConfigError
from models.presets import flex_intermediate_size, preset


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The model; each overrides the preset's or the file's."""

    kind: Kind | None = None
    """The architecture."""
    vocab_size: int | None = None
    """Ids: of the tokenizer that is trained, and of the model, which has its tokenizer's where not given."""
    hidden_size: int | None = None
    """Values of a token's state, d."""
    layers: int | None = None
    """Layers."""
    heads: int | None = None
    """Query heads."""
    kv_heads: int | None = None
    """Key and value heads; as many as query heads where not given."""
    intermediate_size: int | None = None
    """Width of the FFN or of the memory's; (8 - beta) * d / 3 rounded up where not given."""
    beta: int | None = None
    """Flex only: the context-aware FFN has about beta * d^2 parameters."""
    context_form: ContextForm | None = None
    """Flex only: the form of the context-aware FFN."""
    max_position_embeddings: int | None = None
    """The longest sequence; 2048 where nothing says otherwise."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """Where sizes that are not given come from."""

    preset: str | None = None
    """A preset's name; its vocabulary gives way to the tokenizer's."""
    config: Path | None = None
    """A configuration file."""

    def load(self) -> ModelConfig | None:
        """Return the configuration to start from, if any."""
        if self.preset is not None and self.config is not None:
            raise ConfigError("both --preset and --config are given; give one")
        if self.config is not None:
            try:
                text = self.config.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"cannot read {self.config}: {error}") from error
            return ModelConfig.from_json(text, source=str(self.config))
        return None if self.preset is None else preset(self.preset)


def build_config(base: ModelConfig | None, sizes: Sizes, *, vocab_size: int, end_id: int | None) -> ModelConfig:
    """Return the model's configuration; without a base the sizes that have no default must be given.

    vocab_size: of the model. end_id: the tokenizer's end of text, which also begins texts; None keeps the base's ids.
    """
    required = ("kind", "hidden_size", "layers", "heads")
    if base is None and (missing := [name for name in required if getattr(sizes, name) is None]):
        options = ", ".join("--" + name.replace("_", "-") for name in missing)
        raise ConfigError(f"the model's sizes are not all known; give {options}, or a --preset or --config")
    values: dict[str, Any] = {} if base is None else dataclasses.asdict(base)
    values |= _overrides(sizes)
    kind = values["model_type"]
    if kind is not Kind.FLEX_MEMORYLLM and sizes.beta is None and sizes.context_form is None:
        # Of a flex base that became another kind.
        values.pop("context_beta", None)
        values.pop("context_form", None)
    if sizes.kv_heads is None and (base is None or sizes.heads is not None):
        values["num_key_value_heads"] = values["num_attention_heads"]
    reshaped = any(size is not None for size in (sizes.kind, sizes.hidden_size, sizes.beta))
    if sizes.intermediate_size is None and (base is None or reshaped):
        values["intermediate_size"] = flex_intermediate_size(values["hidden_size"], values.get("context_beta", 0))
    values["vocab_size"] = vocab_size
    if end_id is not None:
        values["bos_token_id"] = values["eos_token_id"] = end_id
    return ModelConfig(**values)


def _overrides(sizes: Sizes) -> dict[str, Any]:
    given = {
        "model_type": sizes.kind,
        "hidden_size": sizes.hidden_size,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "intermediate_size": sizes.intermediate_size,
        "context_beta": sizes.beta,
        "context_form": sizes.context_form,
        "max_position_embeddings": sizes.max_position_embeddings,
    }
    return {name: value for name, value in given.items() if value is not None}
