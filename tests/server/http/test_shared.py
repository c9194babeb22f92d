"""A value that is worked out once for many."""

import asyncio

import pytest

from server.http.shared import Shared
from tests.paging.pager_fakes import Clock

pytestmark = pytest.mark.anyio


class Work:
    """Counts; waits for its gate, and fails where it is told to."""

    def __init__(self):
        self.num_begun = 0
        self.gate = asyncio.Event()
        self.error = None

    async def __call__(self):
        self.num_begun += 1
        number = self.num_begun
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return number


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def work():
    return Work()


@pytest.fixture
def shared(work, clock):
    return Shared(work, fresh_seconds=2.0, clock=clock)


async def test_it_is_worked_out_once_for_all_who_wait(work, shared):
    asked = [asyncio.create_task(shared.get()) for _ in range(5)]
    work.gate.set()
    assert [1] * 5 == await asyncio.gather(*asked)


async def test_it_is_worked_out_anew_when_it_is_old(work, shared, clock):
    work.gate.set()
    first, again = await shared.get(), await shared.get()
    clock.now += 2.0
    assert (1, 1, 2) == (first, again, await shared.get())


async def test_who_goes_away_does_not_take_it_from_the_others(work, shared):
    leaving, staying = (asyncio.create_task(shared.get()) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    work.gate.set()
    assert 1 == await staying


async def test_after_an_error_the_next_tries_again(work, shared):
    work.gate.set()
    work.error = ValueError("no")
    with pytest.raises(ValueError, match="no"):
        await shared.get()
    work.error = None
    assert 2 == await shared.get()
