"""psycopg's pipelines of ``executemany()``, without the log record that repeats the server's words.

When such a pipeline fails twice, psycopg raises the first error, and logs the second one with the server's message,
which may hold a value: ``Key (email)=(...) already exists``.
"""

from __future__ import annotations

from types import TracebackType

import psycopg


class Pipeline(psycopg.Pipeline):
    """A pipeline that drops an error which follows another one."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            with self._lock:
                self._conn.wait(self._exit_gen())
        except Exception:
            if error is None:
                raise
        finally:
            self._exit(error)


class AsyncPipeline(psycopg.AsyncPipeline):
    """The asyncio counterpart of :class:`Pipeline`."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            async with self._lock:
                await self._conn.wait(self._exit_gen())
        except Exception:
            if error is None:
                raise
        finally:
            self._exit(error)
