"""Sequences and scores for tests of sampling."""

import numpy as np
import torch
from hypothesis import strategies as st

from server.engine.params import SamplingParams
from server.engine.sampling import SampledSequence, Sampler

EOS = 0
CPU = torch.device("cpu")


def make_sequence(*, prompt_ids=(0,), output_ids=(), choice=0, eos_token_id=EOS, bad_word_ids=(), **params):
    params = SamplingParams(**({"max_tokens": None, "seed": 7} | params))
    return SampledSequence(
        params,
        seed=params.seed,
        choice=choice,
        prompt_ids=prompt_ids,
        output_ids=list(output_ids),
        eos_token_id=eos_token_id,
        bad_word_ids=bad_word_ids,
    )


def sample_all(logits_SV, sequences):
    logits_SV = torch.as_tensor(logits_SV)
    return Sampler(logits_SV.shape[1], CPU).sample(logits_SV, sequences)


def sample_one(logits, **options):
    (token,) = sample_all(torch.tensor([logits]), [make_sequence(**options)]).token_ids
    return token


def tokens_of(logits, num, **options):
    """Draw for the first `num` positions of an output."""
    logits_SV = torch.tensor(logits).expand(num, -1)
    sequences = [make_sequence(**options, output_ids=[1] * position) for position in range(num)]
    return sample_all(logits_SV, sequences).token_ids


def random_logits(vocab_size, *, seed, scale=3.0, step=None):
    """Return float32 scores; `step`: they are multiples of it, so that many are equal."""
    logits = np.random.default_rng(seed).normal(size=vocab_size) * scale
    return torch.from_numpy(logits if step is None else np.round(logits / step) * step).float()


vocab_sizes = st.sampled_from([1, 2, 7, 30, 255, 256, 257, 400, 700])
temperatures = st.sampled_from([0.0, 1e-5, 0.2, 0.8, 1.0, 1.5, 20.0])


@st.composite
def logits(draw, vocab_size):
    scale = draw(st.sampled_from([0.0, 0.3, 3.0, 30.0]))
    step = draw(st.sampled_from([None, None, 0.25, 1.0]))
    return random_logits(vocab_size, seed=draw(st.integers(0, 10**6)), scale=scale, step=step)


def limits(vocab_size):
    return {
        "top_p": st.just(1.0) | st.floats(0.01, 0.999),
        "top_k": st.just(0) | st.integers(1, vocab_size + 1),
        "min_p": st.just(0.0) | st.floats(1e-4, 1),
    }


@st.composite
def sequences(draw, vocab_size):
    """A sequence with any parameters that concern which token comes next."""
    ids = st.integers(0, vocab_size - 1)
    few_ids = st.lists(ids, max_size=12)
    factors = st.sampled_from([1.0, 1.0, 0.7, 1.3])
    penalties = st.sampled_from([0.0, 0.0, -0.5, 1.5])
    optional = {
        "temperature": temperatures,
        **limits(vocab_size),
        "repetition_penalty": factors,
        "presence_penalty": penalties,
        "frequency_penalty": penalties,
        "logit_bias": st.dictionaries(ids, st.floats(-20, 20), max_size=4),
        "allowed_token_ids": st.none() | st.lists(ids, min_size=1, max_size=40),
        "stop_token_ids": st.lists(ids, max_size=3),
        "ignore_eos": st.booleans(),
        "min_tokens": st.sampled_from([0, 0, 3]),
        "seed": st.integers(0, 2**64 - 1),
        "choice": st.integers(0, 3),
        "prompt_ids": st.lists(ids, min_size=1, max_size=12),
        "output_ids": few_ids,
        "bad_word_ids": st.lists(st.lists(ids, min_size=1, max_size=3), max_size=3),
    }
    return make_sequence(**draw(st.fixed_dictionaries({}, optional=optional)))
