"""Starlette: the scope and the transaction of each request, the container, and the health endpoints."""

from __future__ import annotations

from typing import Any, ClassVar

from starlette.applications import Starlette
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import HTTPConnection, Request

from prefiq_db.integrations.asgi import HealthApp, Receive, Scope, Send
from prefiq_db.integrations.asgi_requests import AsgiApp, RequestMiddleware
from prefiq_db.integrations.asgi_service import AsgiService
from prefiq_db.integrations.sources import Source


class PrefiqDb(AsgiService):
    """prefiq_db in a Starlette application::

        prefiq = PrefiqDb(timeout=10)
        app = Starlette(routes=[...], lifespan=prefiq.lifespan)
        app.add_middleware(prefiq.middleware)

    The arguments are those of :class:`~prefiq_db.integrations.asgi_service.AsgiService`.
    """

    install: ClassVar[str] = "add the middleware: app.add_middleware(prefiq.middleware)"

    def middleware(self, app: AsgiApp) -> RequestMiddleware:
        """Return the middleware around *app*; add it last: outside of those that use ``db`` before the endpoint."""
        return RequestMiddleware(app, self, _route, _answer, _request)


def _request(scope: Scope) -> HTTPConnection:
    return Request(scope) if scope["type"] == "http" else HTTPConnection(scope)


def _route(scope: Scope) -> str | None:
    """Return the route's template; Starlette itself tells none, so there it is the endpoint's name."""
    path = getattr(scope.get("route"), "path_format", None)
    if path is not None:
        return str(path)
    endpoint = scope.get("endpoint")
    return None if endpoint is None else str(getattr(endpoint, "__name__", type(endpoint).__name__))


async def _answer(failure: Exception, scope: Scope, receive: Receive, send: Send) -> None:
    """Let the application's exception handlers answer *failure*; without one for it, raise it."""

    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        raise failure

    handlers = getattr(scope.get("app"), "exception_handlers", {})
    chosen = {key: handler for key, handler in handlers.items() if key not in (500, Exception)}
    await ExceptionMiddleware(fail, handlers=chosen)(scope, receive, send)


def mount_health(app: Starlette, source: Source, **options: Any) -> HealthApp:
    """Add the endpoints to *app*, also during its startup; *source* and *options* are those of the ASGI application."""
    health = HealthApp(source, **options)
    for path in health.paths:
        app.router.add_route(path, health, include_in_schema=False)  # type: ignore[arg-type]
    return health
