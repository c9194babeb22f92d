"""How the tokens of a request are chosen, and when its output ends.

Knows names, ranges and what they mean, spelled as users of other servers know them. Knows no tensors and no text.
"""

import math
from collections.abc import Mapping, Sequence

import msgspec

from server.engine.errors import RequestError

MAX_SEED = 2**64 - 1


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One request's parameters; a value out of range is a `RequestError`.

    Logits pass in this order: `allowed_token_ids`, `bad_words`, `min_tokens`, `logit_bias`, penalties, `temperature`,
    `min_p`, `top_k`, `top_p`; what is left is drawn from. Log probabilities are those of the unchanged logits.
    """

    n: int = 1
    """Choices: outputs drawn independently from the same prompt."""
    max_tokens: int | None = 16
    """Most tokens to generate; None: as many as the context has room for; 0 only scores the prompt."""
    min_tokens: int = 0
    """No end of text, stop token or stop string ends an output before it has so many tokens."""
    temperature: float = 1.0
    """0 takes the likeliest token."""
    top_p: float = 1.0
    """Draw from the smallest set of likeliest tokens whose probabilities reach this."""
    top_k: int = 0
    """Draw from so many likeliest tokens; 0 and -1: from all."""
    min_p: float = 0.0
    """Draw from tokens with at least this share of the likeliest token's probability."""
    repetition_penalty: float = 1.0
    """Logits of tokens in prompt or output are divided by this where positive, else multiplied."""
    presence_penalty: float = 0.0
    """Taken from the logits of tokens in the output."""
    frequency_penalty: float = 0.0
    """Taken from the logits of tokens in the output, once for each time they are in it."""
    logit_bias: Mapping[int, float] = {}
    """Added to logits, by token id."""
    allowed_token_ids: Sequence[int] | None = None
    """Draw from these alone; None: from the vocabulary."""
    bad_words: Sequence[str] = ()
    """Words that an output never completes."""
    stop: Sequence[str] = ()
    """Strings that end an output."""
    stop_token_ids: Sequence[int] = ()
    """Tokens that end an output, beside the end of text."""
    include_stop_str_in_output: bool = False
    """Whether the stop string that ended an output stays in its text."""
    ignore_eos: bool = False
    """Whether the end of text is a token like others."""
    seed: int | None = None
    """The same seed gives the same draws whatever else is in the batch; None: another one each time."""
    logprobs: int | None = None
    """Log probabilities of each output token and of so many of the likeliest; None: none at all."""
    prompt_logprobs: int | None = None
    """The same of each prompt token but the first."""
    skip_special_tokens: bool = True
    """Whether special tokens are left out of the text."""

    def __post_init__(self) -> None:
        self._check("n", self.n >= 1, "at least 1")
        self._check("max_tokens", self.max_tokens is None or self.max_tokens >= 0, "at least 0")
        within = self.max_tokens is None or self.min_tokens <= self.max_tokens
        self._check("min_tokens", self.min_tokens >= 0 and within, "at least 0 and at most max_tokens")
        self._check("temperature", 0 <= self.temperature < math.inf, "finite and at least 0")
        self._check("top_p", 0 < self.top_p <= 1, "above 0 and at most 1")
        self._check("top_k", self.top_k >= -1, "at least 1, or 0 or -1 for all tokens")
        self._check("min_p", 0 <= self.min_p <= 1, "from 0 to 1")
        self._check("repetition_penalty", 0 < self.repetition_penalty < math.inf, "finite and above 0")
        for name in ("presence_penalty", "frequency_penalty"):
            self._check(name, -2 <= getattr(self, name) <= 2, "from -2 to 2")
        self._check("logit_bias", all(math.isfinite(bias) for bias in self.logit_bias.values()), "finite numbers")
        self._check("allowed_token_ids", self.allowed_token_ids is None or len(self.allowed_token_ids), "not empty")
        self._check("bad_words", all(self.bad_words), "words of at least one character")
        self._check("stop", all(self.stop), "strings of at least one character")
        self._check("seed", self.seed is None or 0 <= self.seed <= MAX_SEED, "from 0 to 2^64 - 1")
        for name in ("logprobs", "prompt_logprobs"):
            value = getattr(self, name)
            self._check(name, value is None or value >= 0, "at least 0")

    @property
    def is_greedy(self) -> bool:
        """Whether nothing is left to chance."""
        return self.temperature == 0

    def _check(self, name: str, holds: object, rule: str) -> None:
        if not holds:
            raise RequestError(f"{name} is {getattr(self, name)!r:.80}; it must be {rule}", param=name)
