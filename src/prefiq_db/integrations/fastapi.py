"""FastAPI: as Starlette, and the transaction of a request as a dependency."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from typing import Any, NoReturn

from fastapi import Depends
from starlette.requests import HTTPConnection

from prefiq_db.errors import UsageError
from prefiq_db.integrations import starlette
from prefiq_db.integrations.asgi_requests import transaction_of_request
from prefiq_db.integrations.request_scope import AnyTransaction, check_transaction_options

mount_health = starlette.mount_health


class PrefiqDb(starlette.PrefiqDb):
    """prefiq_db in a FastAPI application::

        prefiq = PrefiqDb(timeout=10)
        app = FastAPI(lifespan=prefiq.lifespan)
        app.add_middleware(prefiq.middleware)

        @app.post("/orders", dependencies=[prefiq.transaction()])
        async def order(order: Order) -> None:
            await prefiq.db.execute(...)

    The arguments are those of :class:`~prefiq_db.integrations.asgi_service.AsgiService`.
    """

    @property
    def transaction(self) -> RequestDependency:
        """``prefiq.transaction(database="main", **options)`` is a dependency; see :class:`RequestDependency`."""
        return RequestDependency(self)


class RequestDependency:
    """What makes dependencies: call it. FastAPI refuses it uncalled, with an error that says so."""

    def __init__(self, prefiq: PrefiqDb) -> None:
        self._prefiq = prefiq

    @property
    def __signature__(self) -> inspect.Signature:
        """What ``Depends(prefiq.transaction)`` asks for."""
        raise _not_called()

    @property
    def dependency(self) -> NoReturn:
        """What ``dependencies=[prefiq.transaction]`` asks for."""
        raise _not_called()

    def __call__(self, database: str = "main", **options: Any) -> Any:
        """Return a dependency: the endpoint, and what it depends on, run in the transaction of the request.

        Its value is the transaction: ``tx: Annotated[AsyncTransaction, prefiq.transaction()]``. It is committed before
        the response is sent, and rolled back after an exception or an error status. The verbs of ``db`` use it in
        ``async def`` and ``def`` endpoints alike.

        Args:
            database: the name of the database.
            options: ``isolation``, ``read_only``, ``replica``, ``exactly_once``, ``timeout`` of
                ``db.transaction()``.
        """
        checked = check_transaction_options(options)
        prefiq = self._prefiq

        async def request_transaction(connection: HTTPConnection) -> AsyncIterator[AnyTransaction]:
            if connection.scope["type"] != "http":
                raise UsageError("transaction: a WebSocket has no transaction of a request; use db.transaction() there")
            _refuse_generator(connection.scope.get("endpoint"))
            async with transaction_of_request(prefiq, database, checked, prefiq.install) as tx:
                yield tx

        # "function": an exception of the endpoint is seen here before its response is sent.
        return Depends(request_transaction, scope="function")


def _not_called() -> UsageError:
    return UsageError("transaction: call it, without Depends: dependencies=[prefiq.transaction()]")


def _refuse_generator(endpoint: Any) -> None:
    """Raise for an endpoint that yields: it runs while its response is sent, so after the COMMIT."""
    if inspect.isgeneratorfunction(endpoint) or inspect.isasyncgenfunction(endpoint):
        raise UsageError(
            f"{endpoint.__qualname__} yields, so it runs while its response is sent, after the COMMIT: what it writes "
            "would be outside the request's transaction; let it have no transaction, or return the response"
        )
