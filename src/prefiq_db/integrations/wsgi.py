"""The endpoints as a WSGI application: for any WSGI server, or mounted in any framework."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prefiq_db.health import Health, HealthCheck
from prefiq_db.integrations.endpoints import Endpoints, Reply, frame
from prefiq_db.integrations.schema import schema_checks
from prefiq_db.integrations.sources import Source, databases_of


class HealthApp:
    """Answer ``/healthz``, ``/livez`` and ``/readyz``, and with ``page=True`` also ``/db``.

    The same as :class:`prefiq_db.integrations.asgi.HealthApp`, for synchronous databases.

    Raises:
        UsageError: a database is asynchronous; it can't be checked without an event loop.
    """

    def __init__(
        self,
        source: Source,
        *,
        page: bool = False,
        checks: Mapping[str, Callable[[], Any]] | None = None,
        **options: Any,
    ) -> None:
        databases: list[Any] = databases_of(source)
        chosen = schema_checks(databases, options) if checks is None else checks
        self.check = HealthCheck(*databases, checks=chosen, **options)
        self._endpoints = Endpoints(databases, page=page)

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of the endpoints."""
        return self._endpoints.paths

    def __call__(self, environ: Mapping[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        # PATH_INFO is relative; SCRIPT_NAME has the path where the application is mounted.
        reply = self._reply(method, environ.get("PATH_INFO", ""))
        headers, body = frame(reply, method)
        start_response(f"{reply.status} {reply.reason}", headers)
        return [body]

    def _reply(self, method: str, path: str) -> Reply:
        found = self._endpoints.at(method, path)
        if isinstance(found, Reply):
            return found
        if found.asks == "nothing":
            return found.reply(Health())
        return found.reply(self.check.readiness() if found.asks == "readiness" else self.check.health())
