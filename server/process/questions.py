"""Questions to the engine on both ends of the socket: asked with a number, answered by it, given up after a while.

Knows numbers and failures. Knows nothing of what is asked: that is `server/engine/questions.py`'s.
"""

import asyncio
import itertools
import traceback
from collections.abc import Callable
from typing import cast

import msgspec

from server.engine.errors import QueueFullError, RequestError
from server.engine.questions import Answer, AnswerT, Question, QuestionFor
from server.process.errors import BrokenQuestionError, FrameError, NoAnswerError
from server.process.messages import Answered, Ask, FromEngine, Unanswered

_MOST_OPEN = 64
"""Questions that are not answered yet, beyond which no more are asked."""

_DECODER = msgspec.msgpack.Decoder(Question)


class OpenQuestions:
    """The asking end: who waits for which answer, on one event loop."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._open: dict[int, asyncio.Future[Answer]] = {}

    async def ask(
        self,
        question: QuestionFor[AnswerT],
        send: Callable[[Ask], None],
        timeout: float,  # noqa: ASYNC109 what it raises is its own
    ) -> AnswerT:
        """Send a question and return its answer; the errors are those of `EngineClient.ask`."""
        if len(self._open) >= _MOST_OPEN:
            raise QueueFullError(f"{len(self._open)} questions wait for the engine already; try again later")
        ask_id = next(self._numbers)
        answer = self._open[ask_id] = asyncio.get_running_loop().create_future()
        try:
            send(Ask(ask_id=ask_id, question=msgspec.Raw(msgspec.msgpack.encode(question))))
            async with asyncio.timeout(timeout):
                return cast("AnswerT", await answer)
        except TimeoutError:
            raise NoAnswerError(
                f"the engine did not answer within {timeout:g} s; it is busy, try again later"
            ) from None
        finally:
            del self._open[ask_id]

    def settle(self, message: Answered | Unanswered) -> None:
        """Hand an answer to who waits for it, if anybody still does."""
        answer = self._open.get(message.ask_id)
        if answer is None or answer.done():
            return
        if isinstance(message, Answered):
            answer.set_result(message.answer)
        else:
            answer.set_exception(_refusal(message))

    def fail(self, error: Callable[[], Exception]) -> None:
        """Tell everybody who waits that no answer comes."""
        for answer in self._open.values():
            if not answer.done():
                answer.set_exception(error())


def answer(ask: Ask, respond: Callable[[Question], Answer], send: Callable[[FromEngine], None]) -> None:
    """Send the answer to a question, or why it has none; nothing that goes wrong with it comes out of here."""
    try:
        send(Answered(ask_id=ask.ask_id, answer=respond(_DECODER.decode(ask.question))))
    except RequestError as error:
        send(Unanswered(ask_id=ask.ask_id, message=str(error), param=error.param))
    except QueueFullError as error:
        send(Unanswered(ask_id=ask.ask_id, message=str(error), is_overload=True))
    except (msgspec.DecodeError, FrameError) as error:
        send(Unanswered(ask_id=ask.ask_id, message=f"the question cannot be answered: {error}", is_fault=True))
    except Exception as error:  # noqa: BLE001 one question must not end every request
        traceback.print_exc()
        send(Unanswered(ask_id=ask.ask_id, message=f"{type(error).__name__}: {error}", is_fault=True))


def _refusal(message: Unanswered) -> Exception:
    if message.is_fault:
        return BrokenQuestionError(message.message)
    if message.is_overload:
        return QueueFullError(message.message)
    return RequestError(message.message, param=message.param)
