"""The form of `POST /v1/completions`' answers."""

from collections.abc import Sequence

from msgspec import UNSET

from server.engine.messages import Request
from server.engine.params import SamplingParams
from server.engine.text import ChoiceText
from server.http.choice import Choice, Gain
from server.http.form import Asked, Form, choice_tail, encode_json
from server.http.generation import Generation
from server.http.logprobs import completion_logprobs, joined, prompt_logprobs
from server.http.prompts import TokenPrompt
from server.http.responses import Completion, CompletionChoice, CompletionLogprobs
from server.http.served_model import ServedModel
from server.http.usage import usage_of


class CompletionForm(Form):
    """Texts; the prompt comes before its continuation where it is echoed."""

    object_name = "text_completion"

    def __init__(
        self, asked: Asked, model: ServedModel, generation: Generation, prompts: Sequence[TokenPrompt], *, echo: bool
    ) -> None:
        super().__init__(asked, model, generation)
        self._echoes = (
            [self._text_of(prompt, request) for prompt, request in zip(prompts, generation.requests, strict=True)]
            if echo
            else None
        )
        self._to_echo = {choice.index for choice in generation.choices} if echo else set()
        self._starts = [b'{"index":%d,"text":' % choice.index for choice in generation.choices]

    def choice_json(self, choice: Choice, gain: Gain) -> bytes:
        """Return a choice of a frame; a choice's first one has the prompt if it is echoed."""
        text = gain.text
        parts = [self._own_logprobs(choice, gain)]
        if choice.index in self._to_echo:
            self._to_echo.discard(choice.index)
            text = self._echoed(choice) + text
            parts.insert(0, self._prompt_logprobs(choice))
        logprobs = [part for part in parts if part is not None]
        tail = choice_tail(joined(logprobs) if logprobs else None, gain)
        return self._starts[choice.index] + encode_json(text) + tail

    def whole(self, gains: Sequence[Sequence[Gain]]) -> Completion:
        """Return the answer of one piece."""
        return Completion(
            id=self.asked.id,
            created=self.asked.created,
            model=self.asked.model_name,
            choices=[self._choice(choice, gains[choice.index]) for choice in self.generation.choices],
            usage=usage_of(self.generation, with_memory=self.asked.with_memory),
        )

    def _choice(self, choice: Choice, gains: Sequence[Gain]) -> CompletionChoice:
        last = gains[-1]
        assert last.finish_reason is not None, "a generation ends when all of its choices have"
        parts = [self._prompt_logprobs(choice), *(self._own_logprobs(choice, gain) for gain in gains)]
        logprobs = [part for part in parts if part is not None]
        asked = self.asked.num_prompt_logprobs
        positions = self.generation.prompt_logprobs[choice.prompt_index]
        return CompletionChoice(
            index=choice.index,
            text=self._echoed(choice) + "".join(gain.text for gain in gains),
            logprobs=joined(logprobs) if logprobs else None,
            finish_reason=last.finish_reason,
            stop_reason=last.stop_reason,
            prompt_logprobs=UNSET if asked is None else prompt_logprobs(self.model, positions or (), num_top=asked),
        )

    def _echoed(self, choice: Choice) -> str:
        return "" if self._echoes is None else self._echoes[choice.prompt_index]

    def _text_of(self, prompt: TokenPrompt, request: Request) -> str:
        if prompt.text is not None:
            return prompt.text
        return self.model.tokenizer.decode(prompt.ids, skip_special_tokens=request.params.skip_special_tokens)

    def _own_logprobs(self, choice: Choice, gain: Gain) -> CompletionLogprobs | None:
        if self.asked.num_logprobs is None or gain.logprobs is None:
            return None
        before = len(self._echoed(choice))
        offsets = [before + offset for offset in gain.text_offsets]
        return completion_logprobs(self.model, gain.logprobs, None, offsets, num_top=self.asked.num_logprobs)

    def _prompt_logprobs(self, choice: Choice) -> CompletionLogprobs | None:
        positions = self.generation.prompt_logprobs[choice.prompt_index]
        if self._echoes is None or self.asked.num_logprobs is None or positions is None:
            return None
        request = self.generation.requests[choice.prompt_index]
        plain = SamplingParams(skip_special_tokens=request.params.skip_special_tokens)
        offsets = ChoiceText(self.model.tokenizer, (), plain).push(request.prompt_ids, is_last=True).text_offsets
        return completion_logprobs(self.model, positions, request.prompt_ids, offsets, num_top=self.asked.num_logprobs)
