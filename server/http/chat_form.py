"""The form of `POST /v1/chat/completions`' answers."""

from collections.abc import Sequence

from msgspec import UNSET

from server.http.choice import Choice, Gain
from server.http.form import Asked, Form, choice_tail, encode_json
from server.http.generation import Generation
from server.http.logprobs import chat_logprobs, prompt_logprobs
from server.http.responses import ChatChoice, ChatCompletion, ChatLogprobs, Message
from server.http.served_model import ServedModel
from server.http.usage import usage_of


class ChatForm(Form):
    """Messages of the assistant; a stream begins with the role of each."""

    object_name = "chat.completion.chunk"

    def __init__(self, asked: Asked, model: ServedModel, generation: Generation) -> None:
        super().__init__(asked, model, generation)
        self._starts = [b'{"index":%d,"delta":{"content":' % choice.index for choice in generation.choices]

    def opening(self) -> bytes:
        """Return a frame with the role for each choice."""
        rest = b'"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null,"stop_reason":null}'
        return b"".join(self._frame(b'{"index":%d,' % choice.index + rest) for choice in self.generation.choices)

    def choice_json(self, choice: Choice, gain: Gain) -> bytes:
        """Return a choice of a frame."""
        logprobs = None if gain.logprobs is None else chat_logprobs(self.model, gain.logprobs)
        return self._starts[choice.index] + encode_json(gain.text) + b"}" + choice_tail(logprobs, gain)

    def whole(self, gains: Sequence[Sequence[Gain]]) -> ChatCompletion:
        """Return the answer of one piece."""
        asked = self.asked.num_prompt_logprobs
        positions = self.generation.prompt_logprobs[0] or ()
        return ChatCompletion(
            id=self.asked.id,
            created=self.asked.created,
            model=self.asked.model_name,
            choices=[self._choice(choice, gains[choice.index]) for choice in self.generation.choices],
            usage=usage_of(self.generation, with_memory=self.asked.with_memory),
            prompt_logprobs=UNSET if asked is None else prompt_logprobs(self.model, positions, num_top=asked),
        )

    def _choice(self, choice: Choice, gains: Sequence[Gain]) -> ChatChoice:
        last = gains[-1]
        assert last.finish_reason is not None, "a generation ends when all of its choices have"
        entries = [entry for gain in gains for entry in chat_logprobs(self.model, gain.logprobs or ()).content]
        return ChatChoice(
            index=choice.index,
            message=Message(content="".join(gain.text for gain in gains)),
            logprobs=None if self.asked.num_logprobs is None else ChatLogprobs(content=entries),
            finish_reason=last.finish_reason,
            stop_reason=last.stop_reason,
        )
