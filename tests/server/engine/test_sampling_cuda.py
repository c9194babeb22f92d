"""The sampler on a GPU."""

import pytest
import torch

from server.engine.sampling import Sampler
from tests.server.engine.sampling_reference import draw_gap, reference_draw
from tests.server.engine.sampling_samples import make_sequence, random_logits

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

KINDS = [
    {"temperature": 0},
    {},
    {"temperature": 0.7, "top_p": 0.9},
    {"top_k": 40, "logprobs": 3},
    {"min_p": 0.05, "repetition_penalty": 1.2, "prompt_ids": [1, 2, 3], "output_ids": [5, 5]},
    {"allowed_token_ids": [7, 8, 9], "bad_word_ids": [[8]]},
    {"top_p": 0.95, "logit_bias": dict.fromkeys(range(900), 12.0)},
]


def test_tokens_are_the_references_but_at_near_ties():
    sequences = [make_sequence(**params, seed=seed) for seed in range(4) for params in KINDS]
    logits_SV = torch.stack([random_logits(1003, seed=row) for row in range(len(sequences))])
    sampled = Sampler(1003, torch.device("cuda")).sample(logits_SV.cuda(), sequences)
    for logits_V, sequence, token in zip(logits_SV.tolist(), sequences, sampled.token_ids, strict=True):
        expected = reference_draw(logits_V, sequence).token
        assert expected == token or draw_gap(logits_V, sequence, expected, token) < 2e-5


def test_of_equal_greatest_scores_the_lowest_id_wins():
    sampler = Sampler(40_000, torch.device("cuda"))
    assert [0] * 3 == sampler.sample(torch.zeros(3, 40_000).cuda(), [make_sequence(temperature=0)] * 3).token_ids
