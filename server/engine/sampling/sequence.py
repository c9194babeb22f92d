"""One choice of a request, as the sampler sees it: parameters, seed, tokens so far.

Knows neither batches nor tensors.
"""

from collections.abc import Sequence

from server.engine.params import SamplingParams
from server.engine.sampling.bans import Bans
from server.engine.sampling.changes import ScoreChanges
from server.engine.sampling.uniforms import stream_key


class SampledSequence:
    """A sequence whose tokens are drawn; made once, used for as long as it runs."""

    def __init__(
        self,
        params: SamplingParams,
        *,
        seed: int,
        choice: int,
        prompt_ids: Sequence[int],
        output_ids: Sequence[int],
        eos_token_id: int | None,
        bad_word_ids: Sequence[Sequence[int]] = (),
    ) -> None:
        """Take parameters that `check_params` passed.

        seed: `params.seed`, or one that was made up where that is None. output_ids: the caller's own list, to which
        the caller adds each token before the next is drawn; tokens are only ever added.
        """
        self.params = params
        self.seed = seed
        self.choice = choice
        self.prompt_ids = prompt_ids
        self.output_ids = output_ids
        self.eos_token_id = eos_token_id
        self.bad_word_ids = bad_word_ids
        self.stream_key = stream_key(seed, choice)
        self.changes = ScoreChanges(params, prompt_ids) if ScoreChanges.are_asked_for(params) else None
        self.bans: Bans | None = None
        if bad_word_ids or params.min_tokens:
            self.bans = Bans(params, eos_token_id=eos_token_id, bad_word_ids=bad_word_ids)

    @property
    def position(self) -> int:
        """Of the next token in the output, counted from 0."""
        return len(self.output_ids)
