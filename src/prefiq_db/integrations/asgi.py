"""The endpoints as an ASGI application: for any ASGI server, or mounted in any framework."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from prefiq_db.health import AsyncHealthCheck, Health
from prefiq_db.integrations.endpoints import Endpoints, Reply, frame
from prefiq_db.integrations.schema import schema_checks
from prefiq_db.integrations.sources import Source, databases_of

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class HealthApp:
    """Answer ``/healthz``, ``/livez`` and ``/readyz``, and with ``page=True`` also ``/db``.

    Args:
        source: an :class:`~prefiq_db.Application`, a database, or several with different names.
        page: serve the page ``/db`` and its data ``/db.json``. It shows statements and lines of your code to everyone
            who can open it, so it is off by default.
        checks: further checks of ``/readyz``, see :class:`~prefiq_db.health.HealthCheck`; the default checks that the
            schema of each database is at its head.
        options: the other options of :class:`~prefiq_db.health.AsyncHealthCheck`: ``non_critical``, ``read_only``,
            ``deadline_seconds``, ``cache_seconds``.
    """

    def __init__(
        self,
        source: Source,
        *,
        page: bool = False,
        checks: Mapping[str, Callable[[], Any]] | None = None,
        **options: Any,
    ) -> None:
        databases = databases_of(source)
        chosen = schema_checks(databases, options) if checks is None else checks
        self.check = AsyncHealthCheck(*databases, checks=chosen, **options)
        self._endpoints = Endpoints(databases, page=page)

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of the endpoints."""
        return self._endpoints.paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        else:
            method = scope["method"]
            await _send(await self._reply(method, _path(scope)), method, send)

    async def _reply(self, method: str, path: str) -> Reply:
        found = self._endpoints.at(method, path)
        if isinstance(found, Reply):
            return found
        if found.asks == "nothing":
            return found.reply(Health())
        return found.reply(await (self.check.readiness() if found.asks == "readiness" else self.check.health()))


def _path(scope: Scope) -> str:
    """Return the path relative to where the application is mounted."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path.removeprefix(root) if path.startswith(f"{root}/") else path


async def _send(reply: Reply, method: str, send: Send) -> None:
    headers, body = frame(reply, method)
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    await send({"type": "http.response.start", "status": reply.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
