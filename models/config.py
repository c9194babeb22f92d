"""What a model is: its kind and its sizes.

Knows the arithmetic of sizes (intermediate widths, parameter counts, bytes of the table) and how to read and
write `config.json`. Knows nothing of tensors. A dense model's `config.json` is written in the words of
`transformers` (`models/names.py`), which so loads the same directory.

| kind             | layer                                                                           |
|------------------|---------------------------------------------------------------------------------|
| `dense`          | `Y = X + Attn(norm(X))`, `X' = Y + FFN(norm(Y))`                                |
| `memoryllm`      | `X' = X + Attn(norm(X)) + FFN-M(norm_l(X_0))` (MemoryLLM, eq. 2.6)              |
| `flex-memoryllm` | `Y = X + Attn(norm(X))`, `X' = Y + FFN-C(norm(Y)) + FFN-M(norm_l(X_0))`         |
"""

import dataclasses
import json
import math
import typing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from models.errors import ConfigError
from models.names import LLAMA, NAME_MAPS

CONFIG_FILE = "config.json"

_COUNTS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "max_position_embeddings",
)


class Kind(StrEnum):
    """The three architectures."""

    DENSE = "dense"
    MEMORYLLM = "memoryllm"
    FLEX_MEMORYLLM = "flex-memoryllm"


class ContextForm(StrEnum):
    """The form of Flex-MemoryLLM's context-aware part, FFN-C; each has about `beta * d^2` parameters."""

    LINEAR = "linear"  # down(up(x)), up and down of width beta*d/2
    SWIGLU = "swiglu"  # down(silu(gate(x)) * up(x)), each of width beta*d/3


def round_up(value: int, multiple: int) -> int:
    """Return the least multiple of `multiple` that is not below `value`."""
    return -(-value // multiple) * multiple


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The sizes of one model, named as `transformers` names them; validated once, never changed."""

    model_type: Kind
    """The architecture."""
    vocab_size: int
    """V: rows of the embedding, of the head and of the ToL table."""
    hidden_size: int
    """d."""
    num_hidden_layers: int
    """L."""
    num_attention_heads: int
    """Query heads; each has `head_dim` values."""
    num_key_value_heads: int
    """Key and value heads, a divisor of the query heads."""
    intermediate_size: int
    """K of the FFN: the dense one, or the memory's (FFN-M)."""
    context_beta: int = 0
    """Flex only: FFN-C has about `context_beta * d^2` parameters (1, 2 or 3); 0 elsewhere."""
    context_form: ContextForm = ContextForm.SWIGLU
    """Flex only: the form of FFN-C."""
    max_position_embeddings: int = 2048
    """The longest sequence the model was trained for."""
    rms_norm_eps: float = 1e-5
    """Added to the mean square in every norm."""
    rope_theta: float = 10000.0
    """The base of the rotary embedding's wavelengths."""
    tie_word_embeddings: bool = True
    """Whether the head is the embedding."""
    bos_token_id: int | None = None
    """Put before a prompt where the tokenizer does so."""
    eos_token_id: int | None = None
    """Ends a text."""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("rms_norm_eps", "rope_theta"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be finite and above 0")
        for name in ("bos_token_id", "eos_token_id"):
            token_id = getattr(self, name)
            if token_id is not None and not 0 <= token_id < self.vocab_size:
                raise ConfigError(f"{name} is {token_id}, outside the vocabulary of {self.vocab_size}")
        betas = (1, 2, 3) if self.model_type is Kind.FLEX_MEMORYLLM else (0,)
        if self.context_beta not in betas:
            raise ConfigError(
                f"context_beta is {self.context_beta}; a {self.model_type} model takes {', '.join(map(str, betas))}"
            )
        if not self.context_beta and self.context_form is not ContextForm.SWIGLU:
            raise ConfigError(f"context_form is {self.context_form}; a {self.model_type} model has no FFN-C to form")
        self._check_heads()

    def _check_heads(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        if self.head_dim % 2:
            raise ConfigError(f"head_dim is {self.head_dim}; rotary embeddings need an even one")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )

    @property
    def head_dim(self) -> int:
        """Values of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def has_memory(self) -> bool:
        """Whether layers read FFN outputs of the token embedding (the ToL rows)."""
        return self.model_type is not Kind.DENSE

    @property
    def context_size(self) -> int:
        """Width of FFN-C; 0 where there is none."""
        if self.context_form is ContextForm.LINEAR:
            return self.context_beta * self.hidden_size // 2
        # Nearest multiple of 8, which keeps FFN-C closest to beta * d^2 parameters.
        return 8 * round(self.context_beta * self.hidden_size / 24)

    @property
    def total_params(self) -> int:
        """Parameters of all layers and the final norm, without embedding and head."""
        memory = 3 * self.hidden_size * self.intermediate_size + self.hidden_size
        return self.active_params + (self.num_hidden_layers * memory if self.has_memory else 0)

    @property
    def active_params(self) -> int:
        """Parameters that a step multiplies with when the memory is a table, without embedding and head."""
        d = self.hidden_size
        attention = 2 * d * d + 2 * d * self.num_key_value_heads * self.head_dim + d
        mlp = 0
        if self.model_type is Kind.DENSE:
            mlp = 3 * d * self.intermediate_size + d
        elif self.model_type is Kind.FLEX_MEMORYLLM:
            matrices = 2 if self.context_form is ContextForm.LINEAR else 3
            mlp = matrices * d * self.context_size + d
        return self.num_hidden_layers * (attention + mlp) + d

    @property
    def tol_bytes(self) -> int:
        """Bytes of the whole ToL table in 16 bits; 0 for a dense model (MemoryLLM, eq. 2.9)."""
        if not self.has_memory:
            return 0
        return 2 * self.vocab_size * self.num_hidden_layers * self.hidden_size

    def to_json(self) -> str:
        """Return the text of `config.json`."""
        values = dataclasses.asdict(self)
        if self.model_type is Kind.DENSE:
            values = LLAMA.words(values)
        return json.dumps(values, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str = CONFIG_FILE) -> "ModelConfig":
        """Read `config.json`; unknown keys, missing keys and wrong types raise `ConfigError` naming `source`."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits is a plain ValueError
            raise ConfigError(f"{source} is not JSON: {error}") from error
        if not isinstance(values, dict):
            raise ConfigError(f"{source} holds no JSON object")
        return cls.from_dict(values, source=source)

    @classmethod
    def from_dict(cls, values: dict[str, Any], *, source: str = CONFIG_FILE) -> "ModelConfig":
        """Build a configuration from plain JSON values, ours or those of a `NameMap`, as strictly as `from_json`."""
        model_type = values.get("model_type")
        words = NAME_MAPS.get(model_type) if isinstance(model_type, str) else None
        if words is not None:
            config = cls._from_fields(words.fields(values, source=source), source=source)
            words.check_derived(values, config, source=source)
            return config
        if isinstance(model_type, str) and model_type not in set(Kind):
            raise ConfigError(f"{source}: model_type is {model_type!r}; it can be {', '.join((*Kind, *NAME_MAPS))}")
        return cls._from_fields(values, source=source)

    @classmethod
    def _from_fields(cls, values: dict[str, Any], *, source: str) -> "ModelConfig":
        fields = {field.name: field for field in dataclasses.fields(cls)}
        if unknown := sorted(values.keys() - fields.keys()):
            raise ConfigError(f"{source} has unknown keys: {', '.join(map(repr, unknown))}")
        required = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
        if missing := sorted(required - values.keys()):
            raise ConfigError(f"{source} lacks keys: {', '.join(missing)}")
        hints = typing.get_type_hints(cls)
        typed = {name: _typed(value, hints[name], f"{source}: {name}") for name, value in values.items()}
        try:
            return cls(**typed)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from error

    @classmethod
    def load(cls, directory: Path) -> "ModelConfig":
        """Read `directory/config.json`."""
        path = directory / CONFIG_FILE
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read {path}: {error}") from error
        return cls.from_json(text, source=str(path))


def _typed(value: object, hint: Any, where: str) -> Any:
    """Return `value` as the type `hint`, or raise; a JSON integer serves as a float, a boolean never as a number."""
    accepted = typing.get_args(hint) or (hint,)
    for kind in accepted:
        if kind is type(None) and value is None:
            return None
        if issubclass(kind, StrEnum) and isinstance(value, str):
            if value in set(kind):
                return kind(value)
            raise ConfigError(f"{where} is {value!r}; it can be {', '.join(kind)}")
        if kind is float and type(value) in (int, float):
            try:
                return float(typing.cast("float", value))
            except OverflowError as error:
                raise ConfigError(f"{where} is too large") from error
        if type(value) is kind:
            return value
    names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in accepted)
    raise ConfigError(f"{where} is {json.dumps(value)}; it must be {names}")
