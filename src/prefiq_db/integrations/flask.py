"""Flask: the scope and the transaction of each request, the container, and the health endpoints."""

from __future__ import annotations

import atexit
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Self

from flask import Flask, Response, got_request_exception, has_request_context, request

from prefiq_db.application import Application
from prefiq_db.bootstrap import bootstrap
from prefiq_db.errors import UsageError
from prefiq_db.integrations.request_scope import (
    doom_request,
)
from prefiq_db.integrations.service import Boot, Service
from prefiq_db.integrations.sources import Source
from prefiq_db.integrations.wsgi import HealthApp
from prefiq_db.integrations.wsgi_requests import RequestMiddleware
from prefiq_db.unrun import is_coroutine_function


class PrefiqDb(Service):
    """prefiq_db in a Flask application::

        app = Flask("shop")
        prefiq = PrefiqDb(app, timeout=10)     # or PrefiqDb(timeout=10) and later prefiq.init_app(app)

    Args:
        app: the application; ``None``: call :meth:`init_app` later.
        source: a function that boots the container; ``None``: :func:`~prefiq_db.bootstrap`. It is called by
            :meth:`init_app`, and what it returns is shut down by :meth:`shutdown`, at the latest when the process ends.
            Or a container or databases that your program opens and closes itself.
        options: see :class:`~prefiq_db.integrations.request_options.RequestOptions`: ``timeout``, ``timeout_header``,
            ``id_header``, ``safe_methods``, ``read_only_requests``, ``rolls_back_from``.

    Raises:
        UsageError: for ``cancel_on_disconnect``: a WSGI server doesn't report that the client has gone.
    """

    install: ClassVar[str] = "call prefiq.init_app(app), or PrefiqDb(app)"

    def __init__(self, app: Flask | None = None, source: Source | Boot | None = None, **options: Any) -> None:
        if "cancel_on_disconnect" in options:
            raise UsageError("cancel_on_disconnect: a WSGI server doesn't tell that the client has gone; leave it out")
        super().__init__(bootstrap if source is None else source, options)
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Boot the container, and give every request of *app* a scope.

        Raises:
            UsageError: *app* has a ``PrefiqDb`` already.
        """
        if not isinstance(app, Flask):
            raise UsageError("app: expected a Flask application; a container or databases are given as source=")
        if "prefiq_db" in app.extensions:
            raise UsageError("this application has a PrefiqDb already")
        if self._boot is not None and not self._databases:
            made = self._boot()
            if not isinstance(made, Application):
                if inspect.iscoroutine(made):
                    made.close()
                raise UsageError("source: expected a function that returns a booted Application, such as bootstrap")
            self._take(made)
            atexit.register(self.shutdown)
        app.extensions["prefiq_db"] = self
        got_request_exception.connect(_doom, app)
        app.before_request_funcs.setdefault(None, []).insert(0, functools.partial(self._check_view, app))
        answer = functools.partial(_answer, app)
        app.wsgi_app = RequestMiddleware(app.wsgi_app, self, _route, answer, functools.partial(_request, app))  # type: ignore[method-assign]  # as Flask says to

    def _check_view(self, app: Flask) -> None:
        """Refuse the request if its view has ``@transactional`` above its route."""
        self._refuse_undecorated([app.view_functions.get(request.endpoint or "")])

    def shutdown(self) -> None:
        """Shut down the container that :meth:`init_app` booted; a second call does nothing."""
        if self._boot is not None and self._container is not None:
            container = self._container
            self._drop()
            atexit.unregister(self.shutdown)
            container.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.shutdown()

    def _wrap(self, database: str, options: Mapping[str, Any], endpoint: Callable[..., Any]) -> Callable[..., Any]:
        if is_coroutine_function(endpoint):
            raise UsageError("transactional: Flask runs each async view in an event loop of its own; write it as `def`")
        return self._in_thread(database, options, endpoint)


def _route() -> str | None:
    return request.url_rule.rule if has_request_context() and request.url_rule is not None else None


def _request(app: Flask, environ: dict[str, Any]) -> Any:
    """Return the running request, with its route's arguments; in a WSGI middleware, where none runs, a new one."""
    if has_request_context():
        return request._get_current_object()  # type: ignore[attr-defined]  # of the proxy that Flask's request is
    return app.request_class(environ)


def _doom(sender: Flask, **_: Any) -> None:
    """Roll back after an exception behind the view, in making its response or in ``after_request``."""
    doom_request()


def _answer(
    app: Flask, failure: Exception, environ: dict[str, Any], start_response: Callable[..., Any]
) -> Iterable[bytes]:
    """Let the application's error handlers answer *failure*, as they would if the view had raised it."""
    with app.request_context(environ):
        try:
            try:
                raise failure  # Flask raises the active exception again, if no handler takes it
            except Exception as error:  # noqa: BLE001 - the COMMIT's
                response = app.finalize_request(app.handle_user_exception(error), from_error_handler=True)
        except Exception as error:  # noqa: BLE001 - no handler took it: it is the application's 500
            response = app.handle_exception(error)
        return response(environ, start_response)


def mount_health(app: Flask, source: Source, **options: Any) -> HealthApp:
    """Add the endpoints to *app*; *source* and *options* are those of the WSGI application."""
    health = HealthApp(source, **options)

    def answer() -> Any:
        return Response.from_app(health, request.environ)

    for path in health.paths:
        app.add_url_rule(path, f"prefiq_db{path}", answer, methods=["GET", "HEAD"])
    return health
