"""The memory packs that clients may choose, and what an operator does with them.

Knows names and directories. An engine that died forgets what was loaded since its start; this remembers, and has the
next one load it before anybody asks for it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from pathlib import Path

from models.errors import PackError
from models.pack_card import check_pack_name
from server.engine.errors import RequestError
from server.engine.questions import ListPacks, LoadPack, PackList, PackState, UnloadPack
from server.http.errors import ApiError, invalid, unavailable
from server.process.client import EngineClient

_SECONDS = 60.0
"""For the engine to answer: where rows are not paged, it reads a pack first."""
_POLL_SECONDS = 0.05
_END_SECONDS = 10.0
"""For requests that were told to end."""

_log = logging.getLogger("tolbooth.http")


class ServedPacks:
    """One server's packs."""

    def __init__(self, engine: EngineClient, at_start: Iterable[str]) -> None:
        """`at_start`: the names of those that every engine loads by itself."""
        self._engine = engine
        self._at_start = frozenset(at_start)
        self._unloaded: set[str] = set()  # of those
        self._loaded: dict[str, Path] = {}  # since the start
        self._synced_restarts = 0
        self._changing = asyncio.Lock()

    @property
    def names(self) -> list[str]:
        """What clients may choose, in order."""
        return sorted((self._at_start - self._unloaded) | self._loaded.keys())

    async def ready(self, name: str | None) -> None:
        """See to it that the engine of the moment has a pack; raises what asking the engine raises."""
        if name is not None and self._engine.num_restarts != self._synced_restarts:
            async with self._changing:
                await self._sync()

    async def states(self) -> PackList:
        """Return what is told of all packs."""
        async with self._changing:
            await self._sync()
        return await self._engine.ask(ListPacks(), _SECONDS)

    async def load(self, name: str, directory: Path) -> PackState:
        """Load a pack; the errors name the field."""
        try:
            check_pack_name(name)
        except PackError as error:
            raise invalid(str(error), param="name") from error
        async with self._changing:
            await self._sync()
            state = await self._engine.ask(LoadPack(name=name, directory=str(directory)), _SECONDS)
            self._loaded[name] = directory
            self._unloaded.discard(name)
        return state

    async def unload(self, name: str, seconds: float) -> int:
        """Unload a pack: no new request may choose it, and those that use it have so many seconds to end.

        Then they are ended with an error. Returns how many had to be.
        """
        async with self._changing:
            await self._sync()
            if name not in self.names:
                raise ApiError(404, f"no pack called {name[:80]!r} is loaded", param="name", code="pack_not_found")
            self._loaded.pop(name, None)
            if name in self._at_start:
                self._unloaded.add(name)
            await self._engine.ask(UnloadPack(name=name), _SECONDS)
        if await self._is_gone(name, seconds):
            return 0
        left = await self._engine.ask(UnloadPack(name=name, at_once=True), _SECONDS)
        num_ended = sum(state.num_requests for state in left.packs if state.name == name)
        if not await self._is_gone(name, _END_SECONDS):
            raise unavailable(f"the pack {name} is unloaded, but not gone yet", retry_after=1.0, code="engine_busy")
        return num_ended

    async def _is_gone(self, name: str, seconds: float) -> bool:
        """Wait until a pack is gone, so many seconds at most; return whether it is."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while True:
            packs = (await self._engine.ask(ListPacks(), _SECONDS)).packs
            if all(state.name != name for state in packs):
                return True
            if loop.time() >= deadline:
                return False
            await asyncio.sleep(_POLL_SECONDS)

    async def _sync(self) -> None:
        """Have a new engine load what the one before had; what it cannot load any more is no longer served."""
        num_restarts = self._engine.num_restarts
        if num_restarts == self._synced_restarts:
            return
        for name in self._unloaded:
            with contextlib.suppress(RequestError):  # it is not there, and need not be
                await self._engine.ask(UnloadPack(name=name, at_once=True), _SECONDS)
        for name, directory in [*self._loaded.items()]:
            try:
                await self._engine.ask(LoadPack(name=name, directory=str(directory)), _SECONDS)
            except RequestError as error:
                _log.warning("the pack %s was not loaded again: %s", name, error)
                del self._loaded[name]
        self._synced_restarts = num_restarts


def pack_directory(folder: str | None, path: str) -> Path:
    """Return the directory of a pack that a client names by its path below a folder, or raise the error.

    Nothing outside the folder can be named, neither by `..` nor by symbolic links.
    """
    if folder is None:
        raise invalid(
            "this server loads no packs at run time; its operator names their folder with --packs-dir", param="path"
        )
    inside = Path(path)
    if not path or "\0" in path or inside.is_absolute() or ".." in inside.parts:
        raise invalid("path must be the path of a pack below the server's folder of packs", param="path")
    try:
        root = Path(folder).resolve(strict=True)
        directory = (root / inside).resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise invalid(f"there is no pack at {path[:200]!r} in the server's folder of packs", param="path") from error
    if directory == root or not directory.is_relative_to(root):
        raise invalid(f"{path[:200]!r} leads out of the server's folder of packs", param="path")
    return directory
