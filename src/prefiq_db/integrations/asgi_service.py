"""What ``PrefiqDb`` does in every ASGI framework: the lifespan, and endpoints in the transaction of their request."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from prefiq_db.bootstrap import bootstrap_async
from prefiq_db.integrations.asgi_requests import transaction_of_request
from prefiq_db.integrations.service import Boot, Service
from prefiq_db.integrations.sources import Source
from prefiq_db.unrun import is_coroutine_function


class AsgiService(Service):
    """The base of each ASGI framework's ``PrefiqDb``.

    Args:
        source: a function that boots the container; it is called when the application starts, and what it returns is
            shut down at the end. Or a container or databases that your program opens and closes itself. ``None``:
            :func:`~prefiq_db.bootstrap_async`.
        options: see :class:`~prefiq_db.integrations.request_options.RequestOptions`: ``timeout``, ``timeout_header``,
            ``id_header``, ``safe_methods``, ``read_only_requests``, ``rolls_back_from``, ``cancel_on_disconnect``.
    """

    def __init__(self, source: Source | Boot | None = None, **options: Any) -> None:
        super().__init__(bootstrap_async if source is None else source, options)

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Boot the container, and shut it down at the end; what was given ready is left as it is.

        Raises:
            UsageError: an endpoint of *app* has ``@transactional`` above its route.
        """
        self._refuse_undecorated(_endpoints(app))
        if self._boot is None:
            yield
            return
        made = self._boot()
        container = await made if inspect.isawaitable(made) else made
        async with container:
            self._take(container)
            try:
                yield
            finally:
                self._drop()

    def _wrap(self, database: str, options: Mapping[str, Any], endpoint: Callable[..., Any]) -> Callable[..., Any]:
        if not is_coroutine_function(endpoint):
            return self._in_thread(database, options, endpoint)

        @functools.wraps(endpoint)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            async with transaction_of_request(self, database, options, self.install):
                return await endpoint(*args, **kwargs)

        return wrapper


def _endpoints(app: Any) -> Iterator[Any]:
    """Yield the endpoints of Starlette's routes in *app*, also those of what is mounted in it."""
    for route in getattr(app, "routes", None) or ():
        yield getattr(route, "endpoint", None)
        yield from _endpoints(getattr(route, "original_router", route))  # FastAPI's, of an included router
