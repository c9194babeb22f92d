"""The three architectures in float64, one token and one head at a time, from the paper's equations.

Slow and obvious on purpose, and independent of the code under test: numpy instead of torch, lists of tokens instead
of batches, rotary positions as a multiplication of complex numbers.
"""

import numpy as np


def logits(config, weights, ids, *, alpha=None):
    """Return the scores [T, V] of one sequence; `weights` maps tensor names to float64 arrays.

    alpha: [T, L], the scale of each token's memory in each layer; ones where not given.
    """
    embedding = weights["model.embed_tokens.weight"]
    stream = [embedding[token] for token in ids]
    for layer in range(config.num_hidden_layers):
        attended = _attention(config, weights, layer, stream)
        stream = [x + y for x, y in zip(stream, attended, strict=True)]
        if config.model_type != "memoryllm":
            stream = [x + _context_ffn(config, weights, layer, x) for x in stream]
        if config.model_type != "dense":
            for position, token in enumerate(ids):
                scale = 1.0 if alpha is None else alpha[position][layer]
                stream[position] = stream[position] + scale * row(config, weights, layer, token)
    head = embedding if config.tie_word_embeddings else weights["lm_head.weight"]
    final = [_norm(x, weights["model.norm.weight"], config.rms_norm_eps) for x in stream]
    return np.stack([head @ x for x in final])


def row(config, weights, layer, token):
    """Return `FFN_l(norm_l(x_t))` (eq. 2.9), [d]."""
    prefix = f"model.layers.{layer}.memory."
    x = _norm(weights["model.embed_tokens.weight"][token], weights[prefix + "norm.weight"], config.rms_norm_eps)
    return _swiglu(weights, prefix, x)


def rotated(x, position, theta):
    """Return a head's vector [D] turned to its position: value i and value i + D/2 are one complex number."""
    half = len(x) // 2
    turn = np.exp(1j * position * theta ** (-2 * np.arange(half) / len(x)))
    turned = (x[:half] + 1j * x[half:]) * turn
    return np.concatenate((turned.real, turned.imag))


def causal_attention(q, k, v):
    """Return attention of q [T, H, D] to k and v [T, G, D], [T, H, D]; query head h reads key head h * G // H."""
    out = np.empty_like(q)
    for position in range(q.shape[0]):
        for head in range(q.shape[1]):
            group = head * k.shape[1] // q.shape[1]
            scores = k[: position + 1, group] @ q[position, head] / np.sqrt(q.shape[2])
            weights = np.exp(scores - scores.max())
            out[position, head] = weights @ v[: position + 1, group] / weights.sum()
    return out


def _attention(config, weights, layer, stream):
    prefix = f"model.layers.{layer}."
    normed = [_norm(x, weights[prefix + "input_layernorm.weight"], config.rms_norm_eps) for x in stream]
    q, k, v = (
        np.stack([(weights[f"{prefix}self_attn.{name}_proj.weight"] @ x).reshape(-1, config.head_dim) for x in normed])
        for name in "qkv"
    )
    for vectors in (q, k):
        for position, heads in enumerate(vectors):
            for head, x in enumerate(heads):
                heads[head] = rotated(x, position, config.rope_theta)
    attended = causal_attention(q, k, v)
    return [weights[prefix + "self_attn.o_proj.weight"] @ x.reshape(-1) for x in attended]


def _context_ffn(config, weights, layer, x):
    """Return the FFN on the stream after attention: a dense model's, or Flex-MemoryLLM's FFN-C."""
    prefix = f"model.layers.{layer}."
    normed = _norm(x, weights[prefix + "post_attention_layernorm.weight"], config.rms_norm_eps)
    if prefix + "mlp.gate_proj.weight" in weights:
        return _swiglu(weights, prefix + "mlp.", normed)
    return weights[prefix + "mlp.down_proj.weight"] @ (weights[prefix + "mlp.up_proj.weight"] @ normed)


def _swiglu(weights, prefix, x):
    gate = weights[prefix + "gate_proj.weight"] @ x
    up = weights[prefix + "up_proj.weight"] @ x
    return weights[prefix + "down_proj.weight"] @ (up * gate / (1 + np.exp(-gate)))


def _norm(x, weight, eps):
    return x / np.sqrt(np.mean(x * x) + eps) * weight
