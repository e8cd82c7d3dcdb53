"""Close what belongs to an event loop before the loop is closed, whoever runs it.

A loop that is closed first finalizes its asynchronous generators: pytest-asyncio's and anyio's do, and that of a test
client's thread. So a generator keeps the connections, and closes them at its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Final

from prefiq_db.bridge import await_, spawn

# How long closing may take, in a loop that runs in another thread.
_END_SECONDS: Final = 30.0


class LoopKeeper:
    """Calls *close*, synchronous code that may wait, at the end of the loop that it was started in.

    Args:
        cut: called before *close* if the loop is closed already: nobody can say goodbye on its sockets.
    """

    def __init__(self, close: Callable[[], None], cut: Callable[[], None]) -> None:
        self._close, self._cut = close, cut
        self._is_closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._kept: AsyncGenerator[None] | None = None

    def start(self) -> None:
        """Begin to keep, in the running loop; do nothing the second time."""
        if self._kept is None:
            self._loop = asyncio.get_running_loop()
            self._kept = self._keep()
            await_(self._kept.__anext__())

    async def _keep(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            self._is_closed = True
            await spawn(self._close)

    def end(self) -> None:
        """Close now, from outside of the loop, unless the loop has."""
        kept, loop = self._kept, self._loop
        if kept is None or loop is None or self._is_closed:
            return
        if loop.is_closed():
            # Somebody closed it without shutdown_asyncgens(), and the connections would keep their locks.
            self._cut()
            asyncio.run(spawn(self._close))
        elif loop.is_running():
            asyncio.run_coroutine_threadsafe(_ended(kept), loop).result(_END_SECONDS)
        else:
            loop.run_until_complete(_ended(kept))


async def _ended(kept: AsyncGenerator[None]) -> None:
    await kept.aclose()
