"""From a request to what the engine keeps of it: whether it can be served, and the sequences that it becomes.

Knows what a model and its engine can serve. Knows nothing of steps, or of which requests are under way.
"""

import secrets

from server.engine.blocks import PrefixKey
from server.engine.errors import RequestError
from server.engine.memory_options import LayerShares
from server.engine.messages import EngineInfo, Request
from server.engine.packs import Packs
from server.engine.sampling import SampledSequence, check_params
from server.engine.sequence import RequestState, Sequence


class Intake:
    """Takes requests one by one, in the order of their arrival."""

    def __init__(
        self,
        *,
        info: EngineInfo,
        fingerprint: str,
        shares: LayerShares,
        packs: Packs,
        shares_prefixes: bool,
        max_waiting: int,
    ) -> None:
        """fingerprint, shares, packs, shares_prefixes: as the engine's. max_waiting: most choices of a request."""
        self._info = info
        self._fingerprint = fingerprint
        self._shares = shares
        self._packs = packs
        self._shares_prefixes = shares_prefixes
        self._max_waiting = max_waiting
        self._num_taken = 0

    def take(self, request: Request) -> RequestState:
        """Return a request with a sequence for each of its choices; `RequestError` for one that cannot be served."""
        self._check(request)
        info, params = self._info, request.params
        salt = f"salt {request.cache_salt}" if request.cache_salt is not None else ""
        if not self._shares_prefixes:
            salt = f"request {self._num_taken}"
        pack = None if request.pack is None else self._packs.named(request.pack)
        alpha = self._shares.of(request.memory)
        key = PrefixKey(
            model=self._fingerprint, overlay="" if pack is None else pack.identity, alpha=alpha or (), salt=salt
        )
        state = RequestState(
            request,
            arrival=self._num_taken,
            root=key.digest(),
            pack=pack,
            alpha=alpha,
            eos_token_id=info.eos_token_id,
            max_model_len=info.max_model_len,
        )
        seed = secrets.randbits(64) if params.seed is None else params.seed
        for choice in range(params.n):
            sequence = Sequence(state, choice, block_size=info.block_size)
            sequence.sampled = SampledSequence(
                params,
                seed=seed,
                choice=choice,
                prompt_ids=state.prompt_ids,
                output_ids=sequence.output_ids,
                eos_token_id=info.eos_token_id,
                bad_word_ids=request.bad_word_ids,
            )
            state.sequences.append(sequence)
        self._num_taken += 1
        return state

    def _check(self, request: Request) -> None:
        params, info, length = request.params, self._info, len(request.prompt_ids)
        if not length:
            raise RequestError("the prompt has no tokens; give at least one", param="prompt")
        if length + (params.max_tokens != 0) > info.max_model_len:
            raise RequestError(
                f"the prompt has {length} tokens; the model takes {info.max_model_len} with the output", param="prompt"
            )
        if not 0 <= min(request.prompt_ids) <= max(request.prompt_ids) < info.vocab_size:
            raise RequestError(
                f"the prompt has token ids outside the vocabulary, 0 to {info.vocab_size - 1}", param="prompt"
            )
        if params.n > self._max_waiting:
            raise RequestError(f"n is {params.n}; at most {self._max_waiting} may wait at once", param="n")
        check_params(params, info.vocab_size, request.bad_word_ids)
