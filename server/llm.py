"""Offline use: an engine in this process, texts in and texts out.

    from server import LLM, SamplingParams
    with LLM("demo", tol_device_fraction=0.1) as llm:
        for completion in llm.generate(["Once upon a time"], SamplingParams(max_tokens=50, temperature=0.8)):
            print(completion.outputs[0].text)

Knows how requests are fed to an engine and gathered again. Knows nothing of HTTP.
"""

import itertools
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import msgspec
from tokenizers import Tokenizer

from models.bundled import resolve_model
from models.errors import CheckpointError, ConfigError
from models.tokenizer import TOKENIZER_FILE, encode, load_tokenizer
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.errors import QueueFullError
from server.engine.memory_options import MemoryOptions
from server.engine.messages import ChoiceOutput, FinishReason, MemoryUse, PositionLogprobs, Request, RequestOutput
from server.engine.params import SamplingParams
from server.engine.starting import start_engine
from server.engine.text import ChoiceText, bad_word_ids
from server.progress import Progress

Prompt = str | Sequence[int]
"""Text, or token ids."""


@dataclass
class Output:
    """One choice's output, as far as it has come."""

    text: str = ""
    """Without special tokens, unless `skip_special_tokens` is off; empty where the model has no tokenizer."""
    token_ids: list[int] = field(default_factory=list)
    """An end of text or stop token that ended it is the last."""
    logprobs: list[PositionLogprobs] = field(default_factory=list)
    """Of each token, where asked for."""
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    """The stop string or stop token that ended it; None for the end of text."""


@dataclass
class Completion:
    """What became of one prompt."""

    prompt: str | None
    """None where ids were given."""
    prompt_ids: list[int]
    outputs: list[Output]
    """One for each of `n` choices."""
    prompt_logprobs: Sequence[PositionLogprobs | None] | None = None
    """Of each prompt token but the first, where asked for."""
    num_cached_tokens: int = 0
    memory: MemoryUse | None = None
    """What its tokens asked of the row memory."""
    error: str | None = None
    """What broke; only where a choice's `finish_reason` is `error`."""


class LLM:
    """A model that completes texts; close it, or use it as a context manager."""

    def __init__(
        self, model: str = "demo", *, quiet: bool = False, start: Callable[..., Engine] = start_engine, **options: Any
    ) -> None:
        """Load a checkpoint directory or a bundled model; `options` are those of `EngineConfig`.

        quiet: print neither what was granted nor progress of generating. start: makes the engine. Raises what
        `start_engine` raises, `ConfigError` for options that there are not or values that do not suit.
        """
        self._quiet = quiet
        with Progress() as progress:
            self.engine = start(_config({"model": model, **options}), progress.update)
        tokenizer_file = resolve_model(model) / TOKENIZER_FILE
        self.tokenizer: Tokenizer | None = load_tokenizer(tokenizer_file) if tokenizer_file.exists() else None
        self._numbers = itertools.count()
        if not quiet:
            for name, value in self.engine.info.granted.items():
                sys.stderr.write(f"{name}: {value}\n")

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        pack: str | None = None,
        memory: MemoryOptions | None = None,
    ) -> list[Completion]:
        """Complete prompts, as many at once as there are lanes for; return the completions in the prompts' order.

        params: for all prompts, or one for each. pack: the name of a pack to lay over the memory, one of the option
        `pack`. memory: what the prompts change of the memory's part in the model. Where a row cannot be read, its
        prompt's outputs end with `error` and the others go on. Raises `RequestError` for a prompt or parameters that
        cannot be served.
        """
        several = _several(prompts)
        each = [params or SamplingParams()] * len(several) if not isinstance(params, Sequence) else list(params)
        if len(each) != len(several):
            raise ValueError(f"{len(several)} prompts and {len(each)} parameters; give one for all, or one for each")
        runs = [_Run(self, prompt, its, pack, memory) for prompt, its in zip(several, each, strict=True)]
        with Progress() as progress:
            for done in self._run(runs):
                if not self._quiet:
                    progress.update("generating", done, len(runs))
        return [run.completion for run in runs]

    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        pack: str | None = None,
        memory: MemoryOptions | None = None,
    ) -> Iterator[tuple[str, Completion]]:
        """Complete one prompt's first choice piece by piece: yield each new piece of text and what there is so far."""
        run = _Run(self, prompt, params or SamplingParams(), pack, memory)
        told = 0
        for _ in self._run([run]):
            text = run.completion.outputs[0].text
            yield text[told:], run.completion
            told = len(text)

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()

    def require_tokenizer(self) -> Tokenizer:
        """Return the tokenizer, or raise `CheckpointError`."""
        if self.tokenizer is None:
            raise CheckpointError(f"the model has no {TOKENIZER_FILE}; give token ids, or put one into its directory")
        return self.tokenizer

    def _run(self, runs: Sequence["_Run"]) -> Iterator[int]:
        """Run requests to their ends; yield after each step how many have ended."""
        waiting = deque(runs)
        under_way: dict[str, _Run] = {}
        try:
            while waiting or under_way:
                while waiting:
                    request = waiting[0].request(f"offline-{next(self._numbers)}")
                    try:
                        self.engine.add(request)
                    except QueueFullError:
                        if not under_way:
                            raise
                        break
                    under_way[request.request_id] = waiting.popleft()
                for output in self.engine.step():
                    run = under_way.get(output.request_id)
                    if run is not None and run.take(output):
                        del under_way[output.request_id]
                yield len(runs) - len(waiting) - len(under_way)
        finally:
            for request_id in under_way:
                self.engine.abort(request_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _Run:
    """One prompt on its way through the engine."""

    def __init__(
        self, llm: LLM, prompt: Prompt, params: SamplingParams, pack: str | None, memory: MemoryOptions | None
    ) -> None:
        self._llm = llm
        self._pack, self._memory = pack, memory
        self._params = params
        text = prompt if isinstance(prompt, str) else None
        prompt_ids = list(prompt) if not isinstance(prompt, str) else encode(llm.require_tokenizer(), prompt)
        start_id = llm.engine.info.bos_token_id
        if text == "" and start_id is not None:
            prompt_ids = [start_id]
        self.completion = Completion(text, prompt_ids, [Output() for _ in range(params.n)])
        self._texts: list[ChoiceText] | None = None
        if llm.tokenizer is not None:
            self._texts = [ChoiceText(llm.tokenizer, prompt_ids, params) for _ in range(params.n)]
        elif params.stop or params.bad_words:
            llm.require_tokenizer()

    def request(self, request_id: str) -> Request:
        """Return what the engine is asked."""
        self._request_id = request_id
        words = self._params.bad_words
        return Request(
            request_id=request_id,
            prompt_ids=self.completion.prompt_ids,
            params=self._params,
            bad_word_ids=bad_word_ids(self._llm.require_tokenizer(), words) if words else (),
            pack=self._pack,
            memory=self._memory,
        )

    def take(self, output: RequestOutput) -> bool:
        """Take what a step brought; return whether that was the end."""
        completion = self.completion
        if output.prompt_logprobs is not None:
            completion.prompt_logprobs = output.prompt_logprobs
        if output.num_cached_tokens is not None:
            completion.num_cached_tokens = output.num_cached_tokens
        completion.error = output.error or completion.error
        completion.memory = output.memory or completion.memory
        for gain in output.choices:
            self._add(completion.outputs[gain.choice], gain)
        return output.is_finished or all(each.finish_reason is not None for each in completion.outputs)

    def _add(self, output: Output, gain: ChoiceOutput) -> None:
        token_ids, reason, stop_reason = list(gain.token_ids), gain.finish_reason, gain.stop_token_id
        stop: str | int | None = stop_reason
        if self._texts is not None:
            is_stop = reason is FinishReason.STOP
            delta = self._texts[gain.choice].push(
                token_ids, is_last=reason is not None, ends_in_stop_token=is_stop and bool(token_ids)
            )
            output.text += delta.text
            token_ids = token_ids[: delta.num_tokens]
            if delta.stop_string is not None:
                if reason is None:
                    self._llm.engine.abort(self._request_id, gain.choice)
                reason, stop = FinishReason.STOP, delta.stop_string
        output.token_ids += token_ids
        output.logprobs += (gain.logprobs or ())[: len(token_ids)]
        output.finish_reason, output.stop_reason = reason, stop


def _config(options: dict[str, Any]) -> EngineConfig:
    try:
        return msgspec.convert(options, EngineConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"an option of LLM is wrong: {error}") from error


def _several(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """Return prompts as a list; one prompt may be text, or ids."""
    if isinstance(prompts, str):
        return [prompts]
    several: list[Prompt] = []
    ids: list[int] = []
    for each in prompts:
        if isinstance(each, int):
            ids.append(each)
        else:
            several.append(each)
    if ids and several:
        raise ValueError("prompts are texts or lists of token ids; there are single ids among them")
    return [ids] if ids else several
