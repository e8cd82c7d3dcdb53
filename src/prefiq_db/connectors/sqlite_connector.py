"""SQLite: a file, or an in-memory database that all connections of one engine share."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import uuid
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from prefiq_db.config import Target
from prefiq_db.connectors.connector import Connect, Connector
from prefiq_db.deadline import Deadline
from prefiq_db.dialects.sqlite_connection import connection_factory
from prefiq_db.settings import DatabaseSettings
from prefiq_db.translation.connecting import Connecting


class SqliteConnector(Connector):
    """A file, or an in-memory database that all connections of one engine share.

    In memory: SQLite's ``memdb`` file system under a unique name. A second writer waits there, as it does for a file; a
    shared cache would fail at once with SQLITE_LOCKED. An extra connection keeps the database alive while the pool is
    empty.
    """

    def __init__(self, settings: DatabaseSettings, target: Target) -> None:
        super().__init__(settings, target)
        self.in_memory = target.database == ":memory:"
        self.path = f"file:/prefiq-{uuid.uuid4().hex}?vfs=memdb" if self.in_memory else os.path.abspath(target.database)
        self.anchor: sqlite3.Connection | None = None

    def connected(self, connect: Connect, cparams: dict[str, Any], login: Mapping[str, Any], deadline: Deadline) -> Any:
        if self.in_memory and self.anchor is None:
            self.anchor = sqlite3.connect(self.path, uri=True, check_same_thread=False)
        read_only = self.settings.read_only
        return self.open(
            connect,
            uri=self.in_memory or read_only,
            isolation_level=None,
            timeout=self.settings.lock_timeout_seconds,
            check_same_thread=False,
            factory=connection_factory(
                self.settings.statement_timeout_seconds, durable_wal=not self.in_memory, read_only=read_only
            ),
        )

    def tried(self, deadline: Deadline) -> Connecting:
        return Connecting(
            self.target.database, None if self.in_memory else self.path, read_only=self.settings.read_only
        )

    @property
    def address(self) -> str:
        """The address for sqlite3; a read-only database is opened so that no PRAGMA can make it writable."""
        if self.in_memory or not self.settings.read_only:
            return self.path
        return f"file:{quote(self.path)}?mode=ro"

    def open(self, connect: Connect, **arguments: Any) -> Any:
        return connect(self.address, **arguments)

    def close(self) -> None:
        """Close the in-memory database."""
        if self.anchor is not None:
            self.anchor.close()
            self.anchor = None


class AiosqliteConnector(SqliteConnector):
    """Waits for aiosqlite's thread when opening fails or is cancelled.

    aiosqlite only asks the thread to stop: it would report to a loop that may be closed by then, and a connection that
    was opened after the cancellation would never be closed.
    """

    def open(self, connect: Connect, **arguments: Any) -> Any:
        return connect(self.address, async_creator_fn=self._open, **arguments)

    async def _open(self, path: str, *, factory: Callable[..., sqlite3.Connection], **arguments: Any) -> Any:
        import aiosqlite

        made: list[sqlite3.Connection] = []

        def remembered(*args: Any, **kwargs: Any) -> sqlite3.Connection:
            made.append(factory(*args, **kwargs))
            return made[-1]

        opening = aiosqlite.connect(path, factory=remembered, **arguments)
        # As in SQLAlchemy: an unclosed connection must not keep the interpreter from exiting.
        opening._thread.daemon = True
        try:
            return await opening
        except BaseException:
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, opening._thread.join))
            for connection in made:
                connection.close()
            raise
