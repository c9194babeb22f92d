"""Engines on a small model, and what they are held against."""

from contextlib import contextmanager

import torch

from models.attention import PackedContext
from models.computed_rows import ComputedRows
from paging.storage.faulty import FaultyStorage
from server.engine.config import EngineConfig
from server.engine.parts import open_table_storage
from server.engine.sampling import SampledSequence
from server.engine.starting import start_engine
from tests.server.engine.sampling_reference import draw_gap

TOLERANCE = 1e-4
"""By so much may scores of tokens differ that take each other's place."""


@contextmanager
def started(model, *, plan=None, **options):
    """An engine; `plan`: what goes wrong with reads."""

    def open_storage(table, config):
        storage = open_table_storage(table, config)
        return storage if plan is None else FaultyStorage(storage, plan)

    config = EngineConfig(model=str(model), **({"threads": 1, "device": "cpu"} | options))
    engine = start_engine(config, open_storage=open_storage)
    try:
        yield engine
    finally:
        engine.close()


class Reference:
    """A model in float64 that runs whole sequences."""

    def __init__(self, model):
        self.model = model

    @torch.inference_mode()
    def logits(self, ids):
        """Return the scores after each of the tokens, [N, V]."""
        ids_N = torch.tensor(ids)
        rows = ComputedRows(self.model).fetch(ids_N)
        return self.model.logits(self.model(ids_N, torch.arange(len(ids)), PackedContext([len(ids)]), rows))

    def assert_same(self, asked, choice, expected, tokens):
        """See that outputs are equal up to where two tokens were a toss-up."""
        differing = [index for index, pair in enumerate(zip(expected, tokens, strict=False)) if pair[0] != pair[1]]
        if not differing:
            assert len(expected) == len(tokens)
            return
        common = expected[: differing[0]]
        sequence = SampledSequence(
            asked.params,
            seed=asked.params.seed,
            choice=choice,
            prompt_ids=asked.prompt_ids,
            output_ids=common,
            eos_token_id=0,
        )
        scores_V = self.logits([*asked.prompt_ids, *common])[-1]
        gap = draw_gap(scores_V, sequence, expected[len(common)], tokens[len(common)])
        assert gap < TOLERANCE, f"{asked.request_id}, choice {choice}, differs at {len(common)}"


class Recorder:
    """Keeps the chunks and the scores of an engine's steps."""

    def __init__(self, engine):
        self.chunks, self.scores = [], []
        self._runner = engine.runner
        self._run, self._scores = engine.runner.run, engine.runner.scores
        engine.runner.run, engine.runner.scores = self.run, self.score

    def run(self, chunks, rows, alpha_NL=None, batch=None):
        self.chunks.append(
            [(each.sequence.state.request.request_id, each.sequence.num_computed, each.length) for each in chunks]
        )
        return self._run(chunks, rows, alpha_NL, batch)

    def score(self, hidden_Nd, positions):
        self.scores.append(self._scores(hidden_Nd, positions))
        return self.scores[-1]
