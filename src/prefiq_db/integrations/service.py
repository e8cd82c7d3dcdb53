"""What each framework's ``PrefiqDb`` shares: where its databases come from, and how its requests are treated."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar, overload

from prefiq_db.application import Application
from prefiq_db.database import Database
from prefiq_db.database_async import AsyncDatabase
from prefiq_db.errors import BindingError, ClosedError, UsageError
from prefiq_db.integrations.request_options import request_options
from prefiq_db.integrations.request_scope import (
    SYNC_TRANSACTIONS,
    RequestScope,
    check_transaction_options,
    current_request,
)
from prefiq_db.integrations.sources import DATABASES, AnyDatabase, Source, databases_of
from prefiq_db.mongo import AsyncMongoDatabase, MongoDatabase
from prefiq_db.unrun import refuse_generator_function

_F = TypeVar("_F", bound=Callable[..., Any])

#: Boots the container of a service: ``bootstrap``, ``bootstrap_async``, or a function that calls one with arguments.
Boot = Callable[[], Application | Awaitable[Application]]


class Service:
    """The databases of one service, from its start to its end."""

    #: how to install the middleware, for messages
    install: ClassVar[str]

    def __init__(self, source: Source | Boot, options: Mapping[str, Any]) -> None:
        self.options = request_options(options)
        _check_source(source)
        # what `transactional` wraps, by id: it must not be registered without its wrapper
        self._wrapped: dict[int, Callable[..., Any]] = {}
        self._boot: Boot | None = source if callable(source) else None
        self._container: Application | None = None
        self._databases: dict[str, AnyDatabase] = {}
        if not callable(source):
            self._take(source)

    def _take(self, source: Source) -> None:
        self._container = source if isinstance(source, Application) else None
        self._databases = {database.name: database for database in databases_of(source)}

    def _drop(self) -> None:
        self._container, self._databases = None, {}

    @property
    def container(self) -> Application:
        """The application container.

        Raises:
            ClosedError: before the service has started, and after it was shut down.
            UsageError: the service was given databases instead of a container.
        """
        if self._container is not None:
            return self._container
        if self._databases:
            raise UsageError("this service was given databases, and no container")
        raise self._not_started()

    @property
    def databases(self) -> Mapping[str, AnyDatabase]:
        """The databases by name; empty before the service has started."""
        return self._databases

    @property
    def db(self) -> Any:
        """The database ``main``."""
        return self.database("main")

    def database(self, name: str) -> AnyDatabase:
        """Return the database *name*.

        Raises:
            BindingError: there is none of that name.
            ClosedError: before the service has started, and after it was shut down.
        """
        if not self._databases:
            raise self._not_started()
        try:
            return self._databases[name]
        except KeyError:
            pass
        raise BindingError(f"there is no database {name!r}; there are {', '.join(sorted(self._databases))}")

    @property
    def request(self) -> RequestScope:
        """The scope of the running request: ``request_id``, ``deadline``."""
        return current_request(self.install)

    @property
    def tx(self) -> Any:
        """The transaction of the running request on the database ``main``; ``None`` if it has none."""
        return self.request.open.get("main")

    @overload
    def transactional(self, endpoint: _F) -> _F: ...
    @overload
    def transactional(self, endpoint: None = None, *, database: str = "main", **options: Any) -> Callable[[_F], _F]: ...
    def transactional(self, endpoint: Any = None, *, database: str = "main", **options: Any) -> Any:
        """Run an endpoint in the transaction of its request; put it below the route.

        It is committed before the response is sent, and rolled back after an exception or an error status. The verbs
        of ``db`` use it. A failed COMMIT is an exception of the request: the client gets an error.

        Args:
            database: the name of the database.
            options: ``isolation``, ``read_only``, ``replica``, ``exactly_once``, ``timeout`` of
                ``db.transaction()``.
        """
        checked = check_transaction_options(options)
        if endpoint is None:
            return functools.partial(self._wrap_once, database, checked)
        return self._wrap_once(database, checked, endpoint)

    def _wrap_once(self, database: str, options: Mapping[str, Any], endpoint: Callable[..., Any]) -> Callable[..., Any]:
        refuse_generator_function(endpoint, "transactional")
        wrapper = self._wrap(database, options, endpoint)
        self._wrapped[id(endpoint)] = endpoint
        return wrapper

    def _wrap(self, database: str, options: Mapping[str, Any], endpoint: Callable[..., Any]) -> Callable[..., Any]:
        """Return *endpoint* in the transaction of its request."""
        raise NotImplementedError

    def _in_thread(self, database: str, options: Mapping[str, Any], endpoint: Callable[..., Any]) -> Callable[..., Any]:
        """Return *endpoint*, which can't await, in a transaction that the thread begins that runs it."""

        @functools.wraps(endpoint)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with begun_in_thread(self.request, self.database(database), options):
                return endpoint(*args, **kwargs)

        return wrapper

    def _refuse_undecorated(self, endpoints: Iterable[Any]) -> None:
        """Raise if one of *endpoints*, as a framework calls them, is what a decorator above the route has wrapped.

        Raises:
            UsageError: naming the endpoint: it would run without its transaction.
        """
        for endpoint in endpoints:
            if id(endpoint) in self._wrapped:
                name = getattr(endpoint, "__qualname__", type(endpoint).__name__)
                raise UsageError(
                    f"{name}: @transactional stands above the route, so the route runs it without a transaction; put "
                    "@transactional below the route"
                )

    def _not_started(self) -> ClosedError:
        return ClosedError("the service has no databases: it has not started, or was shut down")


def _check_source(source: object) -> None:
    """Raise for an application of a framework: it can be called, but boots no container."""
    if not callable(source):
        if isinstance(source, (Application, *DATABASES, Iterable)):
            return
    else:
        try:
            inspect.signature(source).bind()
        except TypeError:
            pass
        except ValueError:
            return  # a function in C tells no signature
        else:
            return
    raise UsageError(
        "source: expected a function without arguments that boots the container, such as bootstrap, or a container or "
        f"databases, not {type(source).__name__}; the application of a framework isn't given here"
    )


@contextmanager
def begun_in_thread(request: RequestScope, database: AnyDatabase, options: Mapping[str, Any]) -> Iterator[Any]:
    """Begin the request's transaction in the thread that runs the endpoint; the middleware ends it.

    An exception that leaves the block rolls it back, whatever response is made of it.

    Raises:
        UsageError: if the database is asynchronous.
    """
    tx = request.make(_sync(database), options)
    assert isinstance(tx, SYNC_TRANSACTIONS)
    tx.__enter__()
    request.share(tx)
    try:
        yield tx
    except BaseException:
        request.doomed = True
        raise


def _sync(database: AnyDatabase) -> Database | MongoDatabase:
    """Return *database* for code that can't await."""
    if isinstance(database, (AsyncDatabase, AsyncMongoDatabase)):
        raise UsageError(
            f"database {database.name} is asynchronous, and this endpoint can't await: write it as `async def`, or set "
            "the mode `sync`"
        )
    return database
