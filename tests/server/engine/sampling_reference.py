"""A slow sampler written apart from the fast one: float64, one sequence at a time, loops and sorted lists.

Beside the token it says how near a draw was to another outcome (`draw_gap`): what a test may excuse where scores are
known only up to rounding.
"""

import math
import struct
from dataclasses import dataclass

import xxhash

_MASK = 2**64 - 1


def uniform(seed, choice, position):
    state = xxhash.xxh3_64_intdigest(struct.pack("<QQ", seed, choice))
    state = (state + (position + 1) * 0x9E3779B97F4A7C15) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return ((state ^ (state >> 31)) >> 11) / 2**53


def processed_scores(logits_V, sequence):
    """Return the scores that a token is drawn by, minus infinity for what must not be drawn."""
    params, output = sequence.params, list(sequence.output_ids)
    seen = {*sequence.prompt_ids, *output}
    allowed = range(len(logits_V)) if params.allowed_token_ids is None else set(params.allowed_token_ids)
    words, ends = set(), set()
    for word in sequence.bad_word_ids:
        if [*output, word[-1]][-len(word) :] == list(word):
            words.add(word[-1])
    if len(output) < params.min_tokens:
        ends |= {*params.stop_token_ids, *([] if params.ignore_eos else [sequence.eos_token_id])}
    banned = next(ids for ids in (words | ends, words, set()) if not set(allowed) <= ids)
    scores = []
    for token_id, logit in enumerate(logits_V):
        score = float(logit) + params.logit_bias.get(token_id, 0)
        if token_id in seen:
            score = score / params.repetition_penalty if score > 0 else score * params.repetition_penalty
        if token_id in output:
            score -= params.presence_penalty + params.frequency_penalty * output.count(token_id)
        scores.append(score if token_id in allowed and token_id not in banned else -math.inf)
    return scores


@dataclass
class Draw:
    """How a token was drawn."""

    token: int
    ids: list
    """The tokens that could be, in order."""
    weights: list
    """Of each of them."""
    uniform: float
    margins: dict
    """How far scores must at least move for other tokens to be kept: by `min_p`, by `top_p`, or as two change ranks."""


def reference_draw(logits_V, sequence):
    scores, params = processed_scores(logits_V, sequence), sequence.params
    ranked = sorted((token for token, score in enumerate(scores) if score > -math.inf), key=lambda t: (-scores[t], t))
    best = scores[ranked[0]]
    if params.temperature == 0:
        return Draw(ranked[0], ranked[:1], [1.0], 0.0, {})
    weights = {token: math.exp((scores[token] - best) / params.temperature) for token in ranked}
    margins = {}
    if params.min_p > 0:
        bound = best + math.log(params.min_p) * params.temperature
        margins["min_p"] = min(abs(scores[token] - bound) / 2 for token in ranked)
        ranked = [token for token in ranked if weights[token] >= params.min_p]
    if 0 < params.top_k < len(ranked):
        margins["rank"] = rank_gap(scores, ranked, params.top_k)
        ranked = ranked[: params.top_k]
    if params.top_p < 1:
        total, passed, kept, gaps = math.fsum(weights[token] for token in ranked), 0.0, [], [math.inf]
        for token in ranked:
            if passed < params.top_p * total:
                kept.append(token)
            gaps.append(abs(log_odds(passed, total - passed) - log_odds(params.top_p, 1 - params.top_p)))
            passed += weights[token]
        margins["top_p"] = min(gaps) * params.temperature / 2
        margins["rank"] = min(margins.get("rank", math.inf), rank_gap(scores, ranked, len(kept)))
        ranked = kept
    ids = sorted(ranked)
    number = uniform(sequence.seed, sequence.choice, len(sequence.output_ids))
    sought, passed = number * math.fsum(weights[token] for token in ids), 0.0
    for token in ids:
        passed += weights[token]
        if passed > sought:
            break
    return Draw(token, ids, [weights[token] for token in ids], number, margins)


def rank_gap(scores, ranked, num_kept):
    """Return the gap for the last token kept and the first one left out to change places."""
    if num_kept == len(ranked):
        return math.inf
    return (scores[ranked[num_kept - 1]] - scores[ranked[num_kept]]) / 2


def log_odds(here, there):
    if here <= 0 or there <= 0:
        return -math.inf if here <= 0 else math.inf
    return math.log(here) - math.log(there)


def draw_gap(logits_V, sequence, token_a, token_b):
    """Return how far scores must at least move, each by up to so much, for the other of two tokens to be drawn.

    Either token is what `logits_V` leads to. Scores are those after biases and penalties. Without a temperature it is
    half of the difference of the two. Else it is the least of what brings the nearest edge of the other token's
    interval to the uniform number (moving all scores on one side of an edge up by g and all others down by g adds
    2g / temperature to the log odds of the sides), and of what makes a limit keep other tokens, whatever is drawn then.
    """
    scores = processed_scores(logits_V, sequence)
    if token_a == token_b:
        return 0.0
    if -math.inf in (scores[token_a], scores[token_b]):
        return math.inf
    if sequence.params.temperature == 0:
        return abs(scores[token_a] - scores[token_b]) / 2
    draw = reference_draw(logits_V, sequence)
    other = token_b if draw.token == token_a else token_a
    return min([edge_gap(draw, other, sequence.params.temperature), *draw.margins.values()])


def edge_gap(draw, other, temperature):
    """Return the gap for `other` to be drawn of the same tokens."""
    if other not in draw.ids:
        return math.inf
    index = draw.ids.index(other)
    gaps = []
    for edge in (index, index + 1):
        odds = log_odds(math.fsum(draw.weights[:edge]), math.fsum(draw.weights[edge:]))
        gaps.append(abs(odds - log_odds(draw.uniform, 1 - draw.uniform)))
    return min(gaps) * temperature / 2
