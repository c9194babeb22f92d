"""What is said of how likely tokens were: log probabilities by unchanged scores, and ranks.

Shape legend: P positions, V vocabulary, K tokens to name.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from server.engine.messages import Candidate, PositionLogprobs
from server.engine.sampling.errors import ScoresError

_SCORES_AT_ONCE = 2**22


@torch.inference_mode()
def prompt_logprobs(logits_PV: Tensor, next_ids: Sequence[int], num: int) -> list[PositionLogprobs]:
    """Return what the scores at P positions say of the token after each, and of the `num` likeliest.

    Raises `ScoresError` where scores are not numbers.
    """
    told = position_logprobs(logits_PV, next_ids, [num] * len(next_ids))
    for position in told:
        if math.isnan(position.actual.logprob):
            raise ScoresError(
                f"the model's scores before prompt token {position.actual.token_id} are not finite numbers; "
                "its weights may be damaged, or its number format too narrow"
            )
    return told


def position_logprobs(logits_PV: Tensor, ids: Sequence[int], nums: Sequence[int]) -> list[PositionLogprobs]:
    """Return what scores say of one token at each position, and of as many of the likeliest as `nums` says.

    A rank is 1 more than the number of tokens with a greater log probability; those of equal ones are equal. Every
    log probability is NaN where any score is NaN or infinity.
    """
    positions = max(1, _SCORES_AT_ONCE // logits_PV.shape[1])
    ids_P = torch.tensor(ids, dtype=torch.int64).to(logits_PV.device)
    told = []
    for begin in range(0, len(logits_PV), positions):
        part = slice(begin, begin + positions)
        told += _told(logits_PV[part], ids_P[part], nums[part])
    return told


def _told(logits_PV: Tensor, ids_P: Tensor, nums: Sequence[int]) -> list[PositionLogprobs]:
    logprobs_PV = torch.log_softmax(logits_PV, -1, dtype=torch.float32)
    actual_P1 = logprobs_PV.gather(1, ids_P[:, None])
    ranks_P1 = (logprobs_PV > actual_P1).sum(-1, keepdim=True) + 1
    top_ids_PK = _likeliest(logprobs_PV, max(nums))
    top_PK = logprobs_PV.gather(1, top_ids_PK)
    columns = (ids_P[:, None], actual_P1, ranks_P1, top_ids_PK, top_PK)
    rows = torch.cat([column.double() for column in columns], 1).tolist()  # float64 holds ids and ranks exactly
    values = 3 + top_PK.shape[1]
    return [
        _position(row[:3], row[3 : 3 + num], row[values : values + num]) for row, num in zip(rows, nums, strict=True)
    ]


def _likeliest(logprobs_PV: Tensor, num: int) -> Tensor:
    """Return the ids of the likeliest tokens, [P, K]: the likeliest first, of equal ones the lowest id."""
    if not num:
        return logprobs_PV.new_empty((len(logprobs_PV), 0), dtype=torch.int64)
    # Different numbers in float32 differ by at least one part in 2^24. A higher id lowers a number by less than that,
    # for up to 2^20 ids, so that it only tells equal ones apart.
    lowering_V = 1 + torch.arange(logprobs_PV.shape[1], dtype=torch.float64, device=logprobs_PV.device) * 2.0**-45
    return (logprobs_PV.double() * lowering_V).topk(num).indices


def _position(actual: Sequence[float], top_ids: Sequence[float], top: Sequence[float]) -> PositionLogprobs:
    token_id, logprob, rank = actual
    candidates: list[Candidate] = []
    for index, (other_id, other) in enumerate(zip(top_ids, top, strict=True)):
        is_equal = index > 0 and other == top[index - 1]
        candidates.append(Candidate(int(other_id), other, candidates[-1].rank if is_equal else index + 1))
    return PositionLogprobs(Candidate(int(token_id), logprob, int(rank)), candidates)
