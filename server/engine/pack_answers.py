"""Answers questions about packs: loads, lists and unloads them."""

from collections.abc import Callable
from pathlib import Path
from typing import assert_never

from models.errors import PackError
from paging import TolboothError
from server.engine.errors import RequestError
from server.engine.packs import LoadedPack, Packs
from server.engine.questions import ListPacks, LoadPack, PackAnswer, PackList, PackQuestion, PackState, UnloadPack


class PackAnswers:
    """Answers questions about an engine's packs."""

    def __init__(self, packs: Packs, *, give_up: Callable[[str, Exception], None]) -> None:
        """give_up: ends the request with this id with an error, at the next step."""
        self._packs = packs
        self._give_up = give_up

    def answer(self, question: PackQuestion) -> PackAnswer:
        """Return the answer; raises `RequestError` for what cannot be done."""
        match question:
            case LoadPack():
                try:
                    return _state(self._packs.load(question.name, Path(question.directory)))
                except TolboothError as error:
                    raise RequestError(str(error), param="path") from error
            case UnloadPack():
                pack = self._packs.unload(question.name)
                if question.at_once:
                    for request_id in pack.users:
                        self._give_up(request_id, PackError(f"the memory pack {pack.name} was unloaded"))
                return self._list()
            case ListPacks():
                return self._list()
            case _:
                assert_never(question)

    def _list(self) -> PackList:
        return PackList(packs=[_state(pack) for pack in self._packs.loaded])


def _state(pack: LoadedPack) -> PackState:
    return PackState(
        name=pack.name,
        version=pack.card.version,
        table_id=pack.card.table_id,
        description=pack.card.description,
        num_rows=len(pack.keys),
        num_bytes=pack.num_bytes,
        num_requests=len(pack.users),
        is_leaving=pack.is_leaving,
    )
