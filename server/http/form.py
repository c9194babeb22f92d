"""What an answer looks like on the wire, whichever endpoint gives it: whole, or as a stream of frames.

Frames are put together from parts that are encoded once for each stream: a token costs a few short encodings, no model
of it is built.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from server.http.choice import Choice, Gain
from server.http.errors import ApiError
from server.http.generation import Generation, Step
from server.http.requests import GenerationRequest
from server.http.served_model import ServedModel
from server.http.usage import usage_of

DONE = b"data: [DONE]\n\n"

encode_json = msgspec.json.Encoder().encode


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a client asked of the answer's form."""

    id: str
    created: int
    model_name: str
    """As the client called it."""
    stream: bool
    include_usage: bool
    """A stream ends with a frame of usage alone."""
    continuous_usage: bool
    """Every frame has the usage so far."""
    with_memory: bool
    """Usage says what the request asked of the row memory; a stream, also which tier each token's row came from."""
    num_logprobs: int | None
    num_prompt_logprobs: int | None

    @classmethod
    def of(
        cls,
        request: GenerationRequest,
        *,
        id: str,  # noqa: A002 the wire's name
        created: int,
        model_name: str,
        num_logprobs: int | None,
    ) -> "Asked":
        """Read it off a request."""
        options, with_memory = request.stream_options, bool(request.return_memory_stats)
        return cls(
            id=id,
            created=created,
            model_name=model_name,
            stream=bool(request.stream),
            # A stream can say what was asked of the memory nowhere else.
            include_usage=with_memory or (options is not None and bool(options.include_usage)),
            continuous_usage=options is not None and bool(options.continuous_usage_stats),
            with_memory=with_memory,
            num_logprobs=num_logprobs,
            num_prompt_logprobs=request.prompt_logprobs,
        )


class Form(ABC):
    """The form of one answer; an endpoint says what its choices look like."""

    object_name: str
    """Of a frame."""

    def __init__(self, asked: Asked, model: ServedModel, generation: Generation) -> None:
        self.asked = asked
        self.model = model
        self.generation = generation
        head = {"id": asked.id, "object": self.object_name, "created": asked.created, "model": asked.model_name}
        self._head = b"data: " + encode_json(head)[:-1] + b',"choices":['

    def opening(self) -> bytes:
        """Return the frames that come before any token."""
        return b""

    def frames(self, step: Step) -> bytes:
        """Return the frames of one step, none for choices that have nothing to say yet."""
        return b"".join(self._frame(self.choice_json(choice, gain)) for choice, gain in step if self._says(gain))

    def closing(self) -> bytes:
        """Return the frames that come after the last token."""
        if not self.asked.include_usage:
            return DONE
        return self._head + b'],"usage":' + self._usage_json() + b"}\n\n" + DONE

    @abstractmethod
    def choice_json(self, choice: Choice, gain: Gain) -> bytes:
        """Return a choice of a frame."""

    @abstractmethod
    def whole(self, gains: Sequence[Sequence[Gain]]) -> msgspec.Struct:
        """Return the answer of one piece, from all gains of each choice."""

    def _frame(self, choice_json: bytes) -> bytes:
        if self.asked.continuous_usage:
            return b"".join((self._head, choice_json, b'],"usage":', self._usage_json(), b"}\n\n"))
        return b"".join((self._head, choice_json, b'],"usage":null}\n\n' if self.asked.include_usage else b"]}\n\n"))

    def _says(self, gain: Gain) -> bool:
        told = gain.logprobs is not None or gain.tiers is not None or self.asked.continuous_usage
        return bool(gain.text) or gain.finish_reason is not None or (told and gain.num_tokens > 0)

    def _usage_json(self) -> bytes:
        return encode_json(usage_of(self.generation, with_memory=self.asked.with_memory))


def choice_tail(logprobs: msgspec.Struct | None, gain: Gain) -> bytes:
    """Return the end of a choice of a frame, which all endpoints share."""
    tiers = b"" if gain.tiers is None else b',"tiers":' + encode_json(gain.tiers)
    return b"".join(
        (
            b',"logprobs":',
            encode_json(logprobs),
            b',"finish_reason":',
            encode_json(gain.finish_reason),
            b',"stop_reason":',
            encode_json(gain.stop_reason),
            tiers,
            b"}",
        )
    )


def error_frames(error: ApiError) -> bytes:
    """Return the end of a stream that broke."""
    return b"data: " + encode_json(error.body) + b"\n\n" + DONE
