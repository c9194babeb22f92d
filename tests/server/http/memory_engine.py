"""The engine of these tests with a row memory: a small pager, whose reads end when a test says so."""

import msgspec

from server.engine.messages import EngineStats
from server.engine.questions import Answer, Question
from server.engine.row_answers import RowAnswers
from server.process.client import EngineState
from server.process.errors import EngineUnavailableError
from server.process.recent_stats import Before
from tests.paging.pager_fakes import StepStorage, make_pager, random_rows
from tests.server.http.fake_engine import TABLE, FakeEngine

VOCAB_SIZE, NUM_SLOTS, MIN_LEASABLE = TABLE["vocab_size"], 40, 5


class MemoryEngine(FakeEngine):
    """Answers questions as an engine does, over the same encoding."""

    def __init__(self):
        super().__init__(vocab_size=VOCAB_SIZE)
        self.stats_before = Before(5.0, EngineStats())
        self.storage = StepStorage(random_rows(VOCAB_SIZE))
        self.pager = make_pager(NUM_SLOTS, min_leasable=MIN_LEASABLE)
        self.pager.attach(self.storage)
        self.answers = RowAnswers(self.pager, vocab_size=VOCAB_SIZE)
        self.trouble = None
        """Raised in place of the next answers."""

    async def ask(self, question, timeout):  # noqa: ARG002, ASYNC109 as the client has it
        if self.state is not EngineState.READY:
            raise EngineUnavailableError(f"the engine is {self.state}", retry_after=2.5)
        if self.trouble is not None:
            raise self.trouble
        asked = msgspec.msgpack.decode(msgspec.msgpack.encode(question), type=Question)
        return msgspec.msgpack.decode(msgspec.msgpack.encode(self.answers.answer(asked)), type=Answer)

    def bring(self):
        """Let everything arrive that was asked for."""
        while self.answers.wishes.is_bringing:
            self.storage.end_all()
            self.pager.poll()
            self.answers.wishes.advance()

    def unpage(self):
        """Be an engine whose rows are computed."""
        self.info = msgspec.structs.replace(self.info, table={}, granted={"memory": "computed"})
