"""The three architectures as one module with one forward for training, evaluation and serving.

Knows weights and the order of operations. Does not know where ToL rows come from (`models/rows.py`), how
sequences are laid out (`models/attention.py`), or anything of requests.

Shape legend: N tokens of the batch, d hidden size, V vocabulary, L layers, K intermediate size, H query heads,
G key/value heads, D head dimension.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.attention import AttentionContext
from models.config import ContextForm, Kind, ModelConfig
from models.linear import Linear, laid_out, multiply
from models.rows import Rows


class Embedding(nn.Embedding):
    """As `Linear`, for a table of vectors."""

    def reset_parameters(self) -> None:
        """Leave the values as they are."""


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learned scale."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x_Nd: Tensor) -> Tensor:
        """Return `x / rms(x) * weight`, [N, d]."""
        return F.rms_norm(x_Nd, self.weight.shape, self.weight, self.eps)


class SwiGLU(nn.Module):
    """`FFN(x) = W_down((x W_up^T) * silu(x W_gate^T))`."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = Linear(intermediate_size, hidden_size, bias=False)
        self.gate_up_proj: Linear | None = None

    def forward(self, x_Nd: Tensor) -> Tensor:
        """Return the FFN of each token, [N, d]."""
        if self.gate_up_proj is None:
            gate_NK, up_NK = self.gate_proj(x_Nd), self.up_proj(x_Nd)
        else:
            gate_NK, up_NK = self.gate_up_proj(x_Nd).chunk(2, dim=-1)
        out: Tensor = self.down_proj(F.silu(gate_NK) * up_NK)
        return out

    def prepare(self) -> None:
        """Make one matrix of those that read the same, and lay matrices out for their device."""
        self.gate_up_proj = Linear.joined([self.gate_proj, self.up_proj])
        self.down_proj = Linear.joined([self.down_proj])
        del self.gate_proj, self.up_proj


class LinearContext(nn.Module):
    """FFN-C in its plain linear form: two factors and nothing between."""

    def __init__(self, hidden_size: int, width: int) -> None:
        super().__init__()
        self.up_proj = Linear(hidden_size, width, bias=False)
        self.down_proj = Linear(width, hidden_size, bias=False)

    def forward(self, x_Nd: Tensor) -> Tensor:
        """Return the map of each token, [N, d]."""
        out: Tensor = self.down_proj(self.up_proj(x_Nd))
        return out

    def prepare(self) -> None:
        """Lay matrices out for their device."""
        self.up_proj, self.down_proj = Linear.joined([self.up_proj]), Linear.joined([self.down_proj])


class MemoryFFN(SwiGLU):
    """FFN-M: a SwiGLU that reads the token embedding through a norm of its own (MemoryLLM, eq. 2.6)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.hidden_size, config.intermediate_size)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x0_Nd: Tensor) -> Tensor:
        """Return this layer's part of the rows of tokens embedded as `x0_Nd`, [N, d]."""
        return super().forward(self.norm(x0_Nd))


class Attention(nn.Module):
    """Projections and rotary positions around an `AttentionContext`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = (config.num_attention_heads, config.num_key_value_heads)
        self.head_dim = config.head_dim
        kv_size = config.num_key_value_heads * config.head_dim
        self.q_proj = Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k_proj = Linear(config.hidden_size, kv_size, bias=False)
        self.v_proj = Linear(config.hidden_size, kv_size, bias=False)
        self.o_proj = Linear(config.hidden_size, config.hidden_size, bias=False)
        self.qkv_proj: Linear | None = None

    def forward(self, x_Nd: Tensor, layer: int, rotary: tuple[Tensor, Tensor], context: AttentionContext) -> Tensor:
        """Return what each token gathers from its context, [N, d]."""
        if self.qkv_proj is None:
            qkv = torch.cat((self.q_proj(x_Nd), self.k_proj(x_Nd), self.v_proj(x_Nd)), dim=-1)
        else:
            qkv = self.qkv_proj(x_Nd)
        num_heads, num_kv_heads = self.heads
        qk_NED, v_NGD = qkv.view(len(x_Nd), -1, self.head_dim).tensor_split([num_heads + num_kv_heads], dim=1)
        q_NHD, k_NGD = rotate(qk_NED, *rotary).tensor_split([num_heads], dim=1)
        out: Tensor = self.o_proj(context.attend(layer, q_NHD, k_NGD, v_NGD).flatten(1))
        return out

    def prepare(self) -> None:
        """Make one matrix of those that read the same, and lay matrices out for their device."""
        self.qkv_proj = Linear.joined([self.q_proj, self.k_proj, self.v_proj])
        self.o_proj = Linear.joined([self.o_proj])
        del self.q_proj, self.k_proj, self.v_proj


class Layer(nn.Module):
    """One layer of any kind: attention, then `mlp` where there is one (dense, flex), then memory where there is."""

    def __init__(self, config: ModelConfig, *, with_memory: bool) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm: RMSNorm | None = None
        self.mlp: SwiGLU | LinearContext | None = None
        self.memory = MemoryFFN(config) if config.has_memory and with_memory else None
        if config.model_type is not Kind.MEMORYLLM:
            self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        if config.model_type is Kind.DENSE:
            self.mlp = SwiGLU(config.hidden_size, config.intermediate_size)
        elif config.model_type is Kind.FLEX_MEMORYLLM:
            form = LinearContext if config.context_form is ContextForm.LINEAR else SwiGLU
            self.mlp = form(config.hidden_size, config.context_size)

    def forward(self, x_Nd: Tensor, layer: int, rotary: tuple[Tensor, Tensor], context: AttentionContext) -> Tensor:
        """Return the residual stream after attention and `mlp`, before the memory is added."""
        y_Nd: Tensor = x_Nd + self.self_attn(self.input_layernorm(x_Nd), layer, rotary, context)
        if self.mlp is None or self.post_attention_layernorm is None:
            return y_Nd
        out: Tensor = y_Nd + self.mlp(self.post_attention_layernorm(y_Nd))
        return out


class Backbone(nn.Module):
    """Everything below the head; a module of its own because tensors are named as `transformers` names them."""

    def __init__(self, config: ModelConfig, *, with_memory: bool) -> None:
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, with_memory=with_memory) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Transformer(nn.Module):
    """A model of any kind. `with_memory=False` leaves the memory's FFNs out: their outputs come from a table."""

    def __init__(self, config: ModelConfig, *, with_memory: bool = True) -> None:
        super().__init__()
        self.config = config
        self.model = Backbone(config, with_memory=with_memory)
        self.lm_head = None
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        self._tied_head: Tensor | None = None

    def forward(
        self,
        ids_N: Tensor,
        positions_N: Tensor,
        context: AttentionContext,
        rows: Rows | None = None,
        alpha_NL: Tensor | None = None,
    ) -> Tensor:
        """Return the normed hidden state of every token, [N, d]; `logits` makes vocabulary scores of it.

        ids_N: token ids, int64, the tokens of all sequences one after another.
        positions_N: each token's position in its sequence, int64.
        rows: the batch's ToL rows, for kinds that have a memory; None for a dense model.
        alpha_NL: how much of each layer's row each token gets, in the model's dtype; all of it where not given, 0
            leaves a layer out.
        """
        config = self.config
        if config.has_memory != (rows is not None):
            raise ValueError(f"a {config.model_type} model takes {'its' if config.has_memory else 'no'} rows")
        x_Nd: Tensor = self.model.embed_tokens(ids_N)
        rotary = rotary_factors(positions_N, config.head_dim, config.rope_theta, x_Nd.dtype)
        for index, layer in enumerate(self.model.layers):
            x_Nd = layer(x_Nd, index, rotary, context)
            if rows is not None:
                x_Nd = rows.add_to(x_Nd, index, None if alpha_NL is None else alpha_NL[:, index])
        out: Tensor = self.model.norm(x_Nd)
        return out

    def logits(self, hidden_Md: Tensor) -> Tensor:
        """Return vocabulary scores [M, V] of hidden states."""
        return multiply(hidden_Md, self.head)

    def prepare_for_inference(self) -> None:
        """Let matrices be as the device multiplies fastest: those that read the same joined, values in its order.

        The model computes as before, with other roundings; it can be neither trained nor saved from now on. On a CPU
        matrices are then in memory, not in mapped files.
        """
        for module in [*self.modules()]:
            if isinstance(module, (Attention, SwiGLU, LinearContext)):
                module.prepare()
        if self.lm_head is None:
            # The embedding stays beside it: of that single rows are read.
            head = laid_out(self.head_weight)
            self._tied_head = None if head is self.head_weight else head.detach()
        else:
            self.lm_head = Linear.joined([self.lm_head])

    @property
    def head(self) -> Tensor:
        """The head's matrix, [V, d], for `multiply` alone."""
        return self.head_weight if self._tied_head is None else self._tied_head

    @property
    def nbytes(self) -> int:
        """Bytes of all weights; those that are mapped files included."""
        tied_head = 0 if self._tied_head is None else self._tied_head.nbytes
        return tied_head + sum(parameter.nbytes for parameter in self.parameters())

    @property
    def mapped_bytes(self) -> int:
        """Bytes of weights that may be mapped files, so that memory is yet to be taken for them."""
        return sum(each.nbytes for each in self.parameters() if each.device.type == "cpu" and not each.is_mkldnn)

    @property
    def head_weight(self) -> Tensor:
        """The head's matrix, [V, d]; the embedding's where they are tied."""
        weight: Tensor = (self.model.embed_tokens if self.lm_head is None else self.lm_head).weight
        return weight

    @property
    def memories(self) -> list[MemoryFFN]:
        """The memory's FFNs in layer order; raises `ValueError` if the model was built without them."""
        found = [layer.memory for layer in self.model.layers if isinstance(layer.memory, MemoryFFN)]
        if len(found) != self.config.num_hidden_layers:
            raise ValueError("this model was built without its memory's FFNs")
        return found

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Fill every parameter: norms with 1, matrices with normal 0.02, those that add to the residual scaled down."""
        for name, parameter in self.named_parameters():
            init_tensor(name, parameter, self.config.num_hidden_layers, generator)


@torch.no_grad()
def init_tensor(name: str, tensor: Tensor, num_layers: int, generator: torch.Generator) -> None:
    """Fill one parameter in place, by its name."""
    if name.endswith("norm.weight"):
        tensor.fill_(1)
    elif name.endswith(("o_proj.weight", "down_proj.weight")):
        tensor.normal_(0, 0.02 * (2 * num_layers) ** -0.5, generator=generator)
    else:
        tensor.normal_(0, 0.02, generator=generator)


def rotary_factors(positions_N: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return what `rotate` multiplies by, [N, 1, D] each: cosines, and sines whose first half is negative.

    Computed in float32 at least.
    """
    precision = torch.promote_types(dtype, torch.float32)
    exponents = torch.arange(0, head_dim, 2, device=positions_N.device, dtype=precision) / head_dim
    angles = positions_N[:, None, None].to(precision) * theta**-exponents
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x_NHD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply half-split rotary positions: value i is paired with value i + D/2, as `transformers` does."""
    return torch.addcmul(x_NHD * cos, x_NHD.roll(x_NHD.shape[-1] // 2, dims=-1), sin)
