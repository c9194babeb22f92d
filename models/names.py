"""Other people's words for our things: one declarative map for each foreign checkpoint format.

Knows configuration keys and tensor names as data, and how to turn a foreign `config.json` into our fields and
back. Knows nothing of files or tensors' values. A checkpoint released by others needs a `NameMap` here and
nothing more.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from models.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class NameMap:
    """How one foreign format names what we have. Keys of a nested JSON object are written `outer.inner`."""

    model_type: str
    """Their word for the architecture, in their `config.json`."""
    kind: str
    """Our kind (`models.config.Kind`)."""
    keys: Mapping[str, str]
    """Their configuration key -> our field. Where several mean one field, the first is the one we write."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Our field -> what it is where their key is absent; fields named neither here nor there are required."""
    same_as: Mapping[str, str] = field(default_factory=dict)
    """Our field -> the field that it equals where their key is absent or null."""
    derived: Mapping[str, str] = field(default_factory=dict)
    """Their key -> the `ModelConfig` property that it must equal unless it is null."""
    fixed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Their key -> the values that mean what we compute; any other value is a feature we lack."""
    written: Mapping[str, Any] = field(default_factory=dict)
    """What we write beside the mapped keys so that their reader builds the same model."""
    ignored: frozenset[str] = frozenset()
    """Their keys that change no logit."""
    tensors: Mapping[str, str]
    """Their tensor name -> ours; `{i}` stands for a layer's number."""
    dropped_tensors: frozenset[str] = frozenset()
    """Their tensors that hold nothing learned; `{i}` as in `tensors`."""

    def fields(self, values: Mapping[str, Any], *, source: str) -> dict[str, Any]:
        """Return our fields of their configuration; everything that we cannot honour is one `ConfigError`."""
        found: dict[str, Any] = {}
        problems = []
        for key, value in self._flat(values).items():
            if key in self.keys:
                ours = self.keys[key]
                if found.setdefault(ours, value) != value:
                    problems.append(f"{key} is {value!r}, but the same is said to be {found[ours]!r}")
            elif key in self.fixed:
                if value not in self.fixed[key]:
                    problems.append(f"{key} is {value!r}, which is not supported (only {_choices(self.fixed[key])})")
            elif key not in self.derived:
                problems.append(f"{key!r} is not known for model_type {self.model_type}")
        if problems:
            raise ConfigError(f"{source}: {'; '.join(problems)}")
        for ours, other in self.same_as.items():
            if found.get(ours) is None and other in found:
                found[ours] = found[other]
        return {"model_type": self.kind, **self.defaults, **found}

    def check_derived(self, values: Mapping[str, Any], config: object, *, source: str) -> None:
        """Raise `ConfigError` where their configuration gives something another value than we derive."""
        for key, name in self.derived.items():
            value, ours = values.get(key), getattr(config, name)
            if value is not None and value != ours:
                raise ConfigError(f"{source}: {key} is {value!r}, which is not supported (only {ours})")

    def words(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the configuration in their words, the inverse of `fields`."""
        theirs = {ours: key for key, ours in reversed(list(self.keys.items()))}
        mapped = {theirs[name]: value for name, value in fields.items() if name in theirs}
        return {"model_type": self.model_type, **self.written, **mapped}

    def tensor_name(self, theirs: str) -> str | None:
        """Return our name of their tensor, None for one to drop; a name that the map lacks stays as it is."""
        if any(_layer(pattern, theirs) is not None for pattern in self.dropped_tensors):
            return None
        for pattern, ours in self.tensors.items():
            if (layer := _layer(pattern, theirs)) is not None:
                return ours.replace("{i}", layer)
        return theirs

    def _flat(self, values: Mapping[str, Any]) -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for key, value in values.items():
            if key in self.ignored or key == "model_type":
                continue
            if isinstance(value, dict):
                flat |= {f"{key}.{inner}": inner_value for inner, inner_value in value.items()}
            else:
                flat[key] = value
        return flat


def _layer(pattern: str, name: str) -> str | None:
    """Return the layer's number in `name` ("" if the pattern has none), or None where it does not match."""
    match = re.fullmatch(re.escape(pattern).replace(r"\{i\}", "([0-9]+)"), name)
    return None if match is None else "".join(match.groups())


def _choices(values: tuple[Any, ...]) -> str:
    return " or ".join(map(repr, values))


_SAME_KEYS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
)
_SAME_TENSORS = (
    "model.embed_tokens.weight",
    "model.layers.{i}.input_layernorm.weight",
    "model.layers.{i}.self_attn.q_proj.weight",
    "model.layers.{i}.self_attn.k_proj.weight",
    "model.layers.{i}.self_attn.v_proj.weight",
    "model.layers.{i}.self_attn.o_proj.weight",
    "model.layers.{i}.post_attention_layernorm.weight",
    "model.layers.{i}.mlp.gate_proj.weight",
    "model.layers.{i}.mlp.up_proj.weight",
    "model.layers.{i}.mlp.down_proj.weight",
    "model.norm.weight",
    "lm_head.weight",
)

LLAMA = NameMap(
    model_type="llama",
    kind="dense",
    keys={name: name for name in _SAME_KEYS} | {"rope_parameters.rope_theta": "rope_theta"},
    # What `LlamaConfig` takes where a key is absent.
    defaults={
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    same_as={"num_key_value_heads": "num_attention_heads"},
    derived={"head_dim": "head_dim"},
    fixed={
        "architectures": (["LlamaForCausalLM"], ["LLaMAForCausalLM"], None),
        "hidden_act": ("silu", "swish"),
        "attention_bias": (False,),
        "mlp_bias": (False,),
        "rope_scaling": (None,),
        "rope_scaling.rope_type": ("default",),
        "rope_scaling.type": ("default",),
        "rope_parameters": (None,),
        "rope_parameters.rope_type": ("default",),
        "rope_parameters.partial_rotary_factor": (1.0,),
        "partial_rotary_factor": (1.0,),
        "rope_interleaved": (False,),
        "is_encoder_decoder": (False,),
        "add_cross_attention": (False,),
        "quantization_config": (None,),
        "sliding_window": (None,),
    },
    written={
        "architectures": ["LlamaForCausalLM"],
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
    },
    ignored=frozenset(
        {
            "_attn_implementation_autoset",
            "_name_or_path",
            "attention_dropout",  # training only
            "dtype",
            "initializer_range",  # training only
            "is_decoder",
            "is_llama_config",
            "max_sequence_length",  # an early name of max_position_embeddings, which is there too
            "output_attentions",
            "output_hidden_states",
            "pad_token_id",
            "pretraining_tp",  # splits matrix products, with the same result
            "return_dict",
            "torch_dtype",
            "transformers.js_config",
            "transformers_version",
            "use_cache",
        }
    ),
    tensors={name: name for name in _SAME_TENSORS},
    dropped_tensors=frozenset({"model.layers.{i}.self_attn.rotary_emb.inv_freq"}),
)

NAME_MAPS: Mapping[str, NameMap] = {LLAMA.model_type: LLAMA}
