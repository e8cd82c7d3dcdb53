"""psycopg's server-side cursors, which don't know the number of their rows."""

from __future__ import annotations

from typing import Any

import psycopg


class ServerCursor(psycopg.ServerCursor[Any]):
    """A server-side cursor whose row count is unknown; psycopg says 0, and then the size of the last batch."""

    __slots__ = ()

    @property
    def rowcount(self) -> int:
        return -1

    def __del__(self, *unused: Any) -> None:
        # psycopg warns of one that is still open, also when its connection was lost or closed before.
        if not self._conn.closed:
            super().__del__()


class AsyncServerCursor(psycopg.AsyncServerCursor[Any]):
    """The asyncio counterpart of :class:`ServerCursor`."""

    __slots__ = ()

    @property
    def rowcount(self) -> int:
        return -1

    def __del__(self, *unused: Any) -> None:
        if not self._conn.closed:
            super().__del__()
