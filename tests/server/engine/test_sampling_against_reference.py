"""The fast sampler against the slow one."""

from unittest import mock

import pytest
import torch
from hypothesis import given, note, settings
from hypothesis import strategies as st

from server.engine.sampling import sampler
from tests.server.engine.sampling_reference import draw_gap, edge_gap, reference_draw
from tests.server.engine.sampling_samples import (
    limits,
    logits,
    make_sequence,
    random_logits,
    sample_all,
    sequences,
    temperatures,
    vocab_sizes,
)

TOLERANCE = 2e-5  # of scores up to 150 in float32


@st.composite
def batches(draw):
    vocab_size = draw(vocab_sizes)
    rows = draw(st.lists(st.tuples(logits(vocab_size), sequences(vocab_size)), min_size=1, max_size=5))
    return torch.stack([row for row, _ in rows]), [sequence for _, sequence in rows]


@settings(deadline=None)
@given(batch=batches(), dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
def test_every_token_is_the_references_but_at_near_ties(batch, dtype):
    logits_SV, sequences = batch[0].to(dtype), batch[1]
    for row, token in enumerate(sample_all(logits_SV, sequences).token_ids):
        logits_V = logits_SV[row].tolist()
        note(str(vars(sequences[row])))
        expected = reference_draw(logits_V, sequences[row]).token
        assert expected == token or draw_gap(logits_V, sequences[row], expected, token) < TOLERANCE


def test_near_ties_are_rare():
    sequence = make_sequence(top_p=0.9, top_k=50, min_p=0.01)
    gaps = []
    for seed in range(200):
        logits_V = random_logits(100, seed=seed).tolist()
        token = reference_draw(logits_V, sequence).token
        gaps.append(min(draw_gap(logits_V, sequence, token, other) for other in range(100) if other != token))
    assert sum(gap < TOLERANCE for gap in gaps) < 5


@pytest.mark.parametrize("min_candidates", [1, 3, 10, 256])
@settings(deadline=None)
@given(data=st.data(), step=st.sampled_from([None, 0.5, 2.0]), seed=st.integers(0, 10**6))
def test_limits_keep_the_lowest_ids_of_equal_scores_however_many_candidates(min_candidates, data, step, seed):
    params = data.draw(st.fixed_dictionaries({"temperature": temperatures, **limits(300)}))
    sequence = make_sequence(**params, seed=seed)
    logits_V = random_logits(300, seed=seed, step=step)
    with mock.patch.multiple(sampler, _MIN_CANDIDATES=min_candidates, _MORE=4):
        (token,) = sample_all(logits_V[None], [sequence]).token_ids
    expected = reference_draw(logits_V.tolist(), sequence)
    gaps = [edge_gap(expected, token, 1.0), *(expected.margins.get(name, 1) for name in ("min_p", "top_p"))]
    assert expected.token == token or min(gaps) < TOLERANCE
