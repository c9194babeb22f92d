"""The paper's sizes by name: `{250m,750m,1b}-{dense,memoryllm,flex1,flex2,flex3}` (MemoryLLM, Tables 4 and 5)."""

from collections.abc import Mapping
from types import MappingProxyType

from models.config import Kind, ModelConfig, round_up
from models.errors import ConfigError

# scale -> (hidden size, heads); 24 layers and the LLaMA-3.1 vocabulary throughout
_SCALES = {"250m": (960, 16), "750m": (1600, 16), "1b": (2048, 32)}
_BETAS = {"flex1": 1, "flex2": 2, "flex3": 3}


def flex_intermediate_size(hidden_size: int, beta: int) -> int:
    """Return K_M = (8 - beta) * d / 3, rounded up to a multiple of 8; `beta` 0 gives a plain FFN's K."""
    return round_up(-(-(8 - beta) * hidden_size // 3), 8)


def _config(scale: str, variant: str) -> ModelConfig:
    hidden_size, heads = _SCALES[scale]
    beta = _BETAS.get(variant, 0)
    return ModelConfig(
        model_type=Kind.FLEX_MEMORYLLM if beta else Kind(variant),
        vocab_size=128_256,
        hidden_size=hidden_size,
        num_hidden_layers=24,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        intermediate_size=flex_intermediate_size(hidden_size, beta),
        context_beta=beta,
        rope_theta=500_000.0,
    )


PRESETS: Mapping[str, ModelConfig] = MappingProxyType(
    {f"{scale}-{variant}": _config(scale, variant) for scale in _SCALES for variant in ("dense", "memoryllm", *_BETAS)}
)


def preset(name: str) -> ModelConfig:
    """Return the preset called `name`, or raise `ConfigError` with the names there are."""
    if name not in PRESETS:
        raise ConfigError(f"no preset is called {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
