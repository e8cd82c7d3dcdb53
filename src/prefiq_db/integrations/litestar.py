"""Litestar: the scope and the transaction of each request, and the container."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from litestar import Litestar, Request
from litestar.connection import ASGIConnection
from litestar.utils.scope.state import ScopeState

from prefiq_db.integrations.asgi import Receive, Scope, Send
from prefiq_db.integrations.asgi_requests import AsgiApp, RequestMiddleware
from prefiq_db.integrations.asgi_service import AsgiService
from prefiq_db.integrations.request_scope import doom_request


class PrefiqDb(AsgiService):
    """prefiq_db in a Litestar application::

        prefiq = PrefiqDb(timeout=10)

        @post("/orders")
        @prefiq.transactional
        async def order(data: Order) -> None:
            await prefiq.db.execute(...)

        app = Litestar([order], lifespan=[prefiq.lifespan], middleware=[prefiq.middleware])

    The arguments are those of :class:`~prefiq_db.integrations.asgi_service.AsgiService`.
    """

    install: ClassVar[str] = "add the middleware: Litestar(..., middleware=[prefiq.middleware])"

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Boot the container, and shut it down at the end; what was given ready is left as it is.

        An exception that *app* sees, such as one of serialization, then rolls back its request's transaction.
        """
        if isinstance(app, Litestar) and _doom not in app.after_exception:
            app.after_exception.append(_doom)
        async with super().lifespan(app):
            yield

    def middleware(self, app: AsgiApp) -> RequestMiddleware:
        """Return the middleware around *app*; put it first in the list, so that it is outermost."""
        return RequestMiddleware(app, self, _route, _answer, _request)


async def _doom(error: Exception, scope: object) -> None:
    """Roll back after an exception behind the handler: in serialization, or in ``after_request``."""
    doom_request()


def _request(scope: Scope) -> Any:
    kind = Request if scope["type"] == "http" else ASGIConnection
    return kind(scope)  # type: ignore[arg-type]  # ours is any ASGI framework's


def _route(scope: Scope) -> str | None:
    return scope.get("path_template")


async def _answer(failure: Exception, scope: Scope, receive: Receive, send: Send) -> None:
    """Raise *failure* to the exception handlers around the middleware."""
    # Litestar notes the start of a response before it is sent, and then lets no handler answer any more.
    ScopeState.from_scope(scope).response_started = False  # type: ignore[arg-type] # ours is any ASGI framework's
    raise failure
