"""From scores to tokens: the likeliest, or one drawn by a uniform number, for a whole batch at once.

How a token is drawn by a number u in [0, 1), which a seed's reproducibility rests on:

1. Every token's weight is its probability by the softmax of scores / temperature, in float32.
2. Tokens are ranked by score, equal ones by id. `min_p` keeps those of at least so much of the first one's weight,
   `top_k` so many, `top_p` those before which less than its share of what is left has been passed; one after another.
3. The weights of the tokens kept are added up **in the order of their ids**, in float64. The token is the first at
   which the sum is greater than u times the whole sum.

In the order of ids two tokens of almost equal score lie where they lie, whichever is ahead; in the order of ranks they
would change places, and the draw with them. No row's outcome depends on the other rows.

Ranking a vocabulary is slow, so limits are looked for among the likeliest tokens, the candidates. Where those turn out
too few, the row has `UNSURE`, and is to be drawn again among more of them.

Shape legend: S sequences, R of them not greedy, Q of those with limits, V vocabulary, C candidates, B blocks.
"""

import torch
from torch import Tensor

from server.engine.sampling.batch import Batch

BROKEN = -1
"""In place of a token: the row's greatest score is no finite number."""
UNSURE = -2
"""In place of a token: there were too few candidates."""
_BLOCK = 256


def draw(scores_SV: Tensor, batch: Batch) -> Tensor:
    """Return each row's token, `BROKEN` or `UNSURE`, [S]; never `UNSURE` where every token is a candidate."""
    if batch.num_drawn == len(scores_SV):
        scores_SV = scores_SV.float()
        top_S = scores_SV.amax(-1)
        tokens_S = _drawn(scores_SV, top_S, batch)
    else:
        top_S, tokens_S = scores_SV.max(-1)  # of equal ones the first
        rows_R = batch.drawn_rows_R
        if rows_R is not None:
            tokens_R = _drawn(scores_SV[rows_R].float(), top_S[rows_R].float(), batch)
            tokens_S = tokens_S.index_copy(0, rows_R, tokens_R)
    return torch.where(top_S.isfinite(), tokens_S, BROKEN)


def _drawn(scores_RV: Tensor, top_R: Tensor, batch: Batch) -> Tensor:
    # The greatest score becomes 0 before anything is multiplied, so that no temperature makes an infinity of it.
    weights_RV = torch.softmax((scores_RV - top_R[:, None]).mul_(batch.sharpness_R1), -1)
    uniforms_R1, rows_Q = batch.uniforms(), batch.limited_rows_Q
    if rows_Q is None:
        return _tokens_at(weights_RV, uniforms_R1)
    if len(rows_Q) == len(scores_RV):
        return _limited(scores_RV, weights_RV, uniforms_R1, batch)
    tokens_Q = _limited(scores_RV[rows_Q], weights_RV[rows_Q], uniforms_R1[rows_Q], batch)
    return _tokens_at(weights_RV, uniforms_R1).index_copy(0, rows_Q, tokens_Q)


def _limited(scores_QV: Tensor, weights_QV: Tensor, uniforms_Q1: Tensor, batch: Batch) -> Tensor:
    """Return tokens, [Q], drawn from what the limits leave; `UNSURE` where candidates were too few."""
    truncation, num_candidates = batch.truncation, batch.num_candidates
    scores_QC, places_QC, ids_QC = _ranked(scores_QV, num_candidates)
    weights_QC = weights_QV.gather(1, ids_QC.gather(1, places_QC))
    mass_QC = weights_QC.double()
    keeps_QC = mass_QC >= truncation.min_p * mass_QC[:, :1]
    keeps_QC &= torch.arange(num_candidates, device=ids_QC.device) < truncation.top_k
    # A share of what is left is known only where something is left out.
    is_unsure_Q = (keeps_QC & ~truncation.is_open)[:, -1]
    mass_QC = mass_QC * keeps_QC
    passed_QC = mass_QC.cumsum(-1)
    whole_Q1 = torch.where(truncation.is_open, 1.0, passed_QC[:, -1:])
    keeps_QC &= passed_QC - mass_QC < truncation.top_p * whole_Q1
    kept_QC = torch.zeros_like(weights_QC).scatter_(1, places_QC, weights_QC * keeps_QC)  # in the order of ids
    if num_candidates == scores_QV.shape[1]:
        return _tokens_at(kept_QC, uniforms_Q1)
    sums_QC = kept_QC.double().cumsum(-1)
    place_Q1, _ = _first_above(sums_QC, uniforms_Q1 * sums_QC[:, -1:])
    # Whoever is no candidate comes after the last one kept, unless as likely as that: then its id might be lower.
    last_Q1 = scores_QC.gather(1, (keeps_QC.sum(-1, keepdim=True) - 1).clamp_(min=0))
    is_unsure_Q |= last_Q1[:, 0] <= scores_QC[:, -1]
    return torch.where(is_unsure_Q, UNSURE, ids_QC.gather(1, place_Q1)[:, 0])


def _ranked(scores_QV: Tensor, num_candidates: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the likeliest tokens' scores by rank, equal ones by id; the place of each among their ids; the ids.

    [Q, C] each; the ids are in ascending order.
    """
    if num_candidates == scores_QV.shape[1]:
        ids_QC = torch.arange(num_candidates, device=scores_QV.device).expand(scores_QV.shape)
        candidates_QC = scores_QV
    else:
        ids_QC = scores_QV.topk(num_candidates, sorted=False).indices.sort(-1).values
        candidates_QC = scores_QV.gather(1, ids_QC)
    # Of equal scores `topk` gives some first; with the ids in order before a stable sort, they stay so.
    ranked = candidates_QC.sort(dim=-1, descending=True, stable=True)
    return ranked.values, ranked.indices, ids_QC


def _tokens_at(weights_RV: Tensor, uniforms_R1: Tensor) -> Tensor:
    """Return the token at which the sum of weights first exceeds a number's share of the whole, [R].

    Sums of blocks first, then within the one block: a running sum over a vocabulary in float64 costs ten times as much.
    """
    vocab_size = weights_RV.shape[1]
    num_whole = vocab_size // _BLOCK
    sums_RB = weights_RV[:, : num_whole * _BLOCK].view(len(weights_RV), num_whole, _BLOCK).sum(-1, dtype=torch.float64)
    rest_R1 = weights_RV[:, num_whole * _BLOCK :].sum(-1, keepdim=True, dtype=torch.float64)
    sums_RB = torch.cat([torch.zeros_like(rest_R1), sums_RB, rest_R1], 1).cumsum(-1)
    block_R1, sought_R1 = _first_above(sums_RB, uniforms_R1 * sums_RB[:, -1:])
    block_R1 = (block_R1 - 1).clamp_(min=0)  # the first of the sums is none of a block
    ids = block_R1 * _BLOCK + torch.arange(_BLOCK, device=weights_RV.device)
    weights = weights_RV.gather(1, ids.clamp(max=vocab_size - 1)).double() * (ids < vocab_size)
    offset_R1, _ = _first_above(weights.cumsum(-1), sought_R1 - sums_RB.gather(1, block_R1))
    return (block_R1 * _BLOCK + offset_R1).clamp_(max=vocab_size - 1)[:, 0]


def _first_above(sums: Tensor, sought_R1: Tensor) -> tuple[Tensor, Tensor]:
    """Return the index of the first sum above the number sought, and that number, made to be less than the last sum."""
    last_R1 = sums[:, -1:].contiguous()
    sought_R1 = torch.minimum(sought_R1, torch.nextafter(last_R1, torch.zeros_like(last_R1)))
    return torch.searchsorted(sums, sought_R1, right=True).clamp_(max=sums.shape[1] - 1), sought_R1
