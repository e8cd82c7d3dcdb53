"""One document database in this process: its parts, assembled once, shared by its views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from pymongo import ReadPreference

from prefiq_db.bridge import Runtime, await_
from prefiq_db.forks import in_child
from prefiq_db.hooks.registry import Hooks
from prefiq_db.mongo.command_observer import CommandObserver
from prefiq_db.mongo.pymongo_events import PoolEvents
from prefiq_db.pool.watchdog import watchdog
from prefiq_db.pool.watcher import ConnectionWatcher
from prefiq_db.retry_budget import RetryBudget
from prefiq_db.settings import DatabaseSettings
from prefiq_db.translation.border import Border


@dataclass(eq=False, repr=False)
class MongoInstance:
    """The parts of one document database. Ambient transactions and overrides are kept per instance.

    Attributes:
        make_client: makes PyMongo's client; a closed one can't be opened again.
        pool: counts the connections of the client.
        database: the name of the database that calls go to unless they say another one.
        needs_tokens: always false: MongoDB's COMMIT can be repeated, so nothing has to be looked up.
        has_tenants: whether a call may be for another database; a tenant has no pool of its own here.
        fit_topology: PyMongo's description of servers that were found fit; another one has to be looked at.
        is_async: whether PyMongo's methods give coroutines.
        origin: the instance itself: a database of another name has no connections of its own.
        usual: PyMongo's collections of calls without overrides, by name.
        closing: whether closing was begun and interrupted; ``close()`` continues it.
    """

    settings: DatabaseSettings
    name: str
    runtime: Runtime
    hooks: Hooks
    observer: CommandObserver
    watcher: ConnectionWatcher
    pool: PoolEvents
    make_client: Callable[[], Any]
    retry_budget: RetryBudget
    border: Border
    client: Any = field(init=False)
    database: str = field(init=False)
    statement_timeout_seconds: float = field(init=False)
    commit_budget_seconds: float = field(init=False)
    is_async: bool = field(init=False)
    origin: Any = field(init=False)
    closed: bool = field(default=False, init=False)
    closing: bool = field(default=False, init=False)
    fit_topology: Any = field(default=None, init=False)
    needs_tokens: bool = field(default=False, init=False)
    has_tenants: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        settings = self.settings
        self.is_async, self.origin = self.runtime.is_async, self
        target = settings.target  # made anew each time that it is asked for
        self.database = target.database or target.product.default_database
        self.connect_anew()
        self.statement_timeout_seconds = settings.statement_timeout_seconds
        self.commit_budget_seconds = (
            settings.statement_timeout_seconds + settings.retry.total_seconds + settings.connect_timeout_seconds
        )
        self.watcher.start_with(watchdog.watch)
        in_child(self, MongoInstance.forget_after_fork)

    def connect_anew(self) -> None:
        """Make a client, which connects when it is first used."""
        self.client = self.make_client()
        self.fit_topology = None
        self.usual: dict[str, Any] = {}
        self._collections: dict[tuple[str, str, bool], Any] = {}

    def collection(self, database: str, name: str, *, replica: bool) -> Any:
        """Return PyMongo's collection; with *replica* it reads from a secondary, if there is one."""
        key = (database, name, replica)
        found = self._collections.get(key)
        if found is None:
            found = self.client[database][name]
            if replica:
                found = found.with_options(read_preference=ReadPreference.SECONDARY_PREFERRED)
            if len(self._collections) >= _MOST_COLLECTIONS:
                self._collections.clear()  # names that are made up must not fill the memory
                self.usual.clear()
            self._collections[key] = found
        if database == self.database and not replica:
            self.usual[name] = found
        return found

    def settle(self, value: Any) -> Any:
        """Return the result of a call of PyMongo: in the async world it is a coroutine, to be awaited."""
        return await_(value) if self.is_async and hasattr(value, "__await__") else value

    def close(self) -> None:
        """Close the client and all its connections."""
        self.closed = self.closing = True
        watchdog.forget(self.watcher)
        self.watcher.start_with(watchdog.watch)
        self.settle(self.client.close())
        self.closing = False

    def open(self) -> None:
        """Make a new client if the last one was closed."""
        if self.closed:
            self.connect_anew()
        self.closed = False

    def forget_after_fork(self) -> None:
        """Start with a new client in a forked child; the parent's sockets are neither used nor closed."""
        _of_the_parent.append(self.client)
        self.pool.forget_after_fork()
        self.connect_anew()
        self.watcher.start_with(watchdog.watch)


# PyMongo needs longer to make one than we need for all the rest of a call.
_MOST_COLLECTIONS: Final = 1000

_of_the_parent: list[object] = []
