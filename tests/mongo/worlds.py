"""Document databases of both worlds behind one face, as in ``tests/twins/harness.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefiq_db.mongo import AsyncMongoDatabase, MongoDatabase, MongoTransaction
from tests.twins.harness import SyncAttempts, SyncFacade, _adapted, add_facade

_VERBS = frozenset(
    {"find", "find_one", "count", "aggregate", "insert", "insert_many", "update", "upsert", "delete", "bulk_write"}
)
_SQL = frozenset(
    {
        *("fetch_all", "fetch_one", "fetch_exactly_one", "fetch_value", "execute", "execute_many", "batch"),
        *("bulk_insert", "session", "resolve_outcome"),
    }
)


class SyncMongoFacade(SyncFacade):
    """A ``MongoDatabase`` with the face of an ``AsyncMongoDatabase``."""

    awaited = _VERBS | {"open", "close", "ping", "test_connection", "health"}
    plain = _SQL | {"name", "settings", "hooks", "stats", "engine", "is_async", "client", "collection"}
    scopes = frozenset({"transaction", "override", "stream", "expect", "no_n_plus_one"})

    async def run_in_transaction(self, fn: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return self._wrapped.run_in_transaction(_adapted(fn), *args, **options)

    def transactional(self, fn: Callable[..., Any] | None = None, **options: Any) -> Any:
        if fn is None:
            return lambda late: self.transactional(late, **options)
        return self._as_coroutine(self._wrapped.transactional(_adapted(fn), **options))

    def attempts(self, **options: Any) -> SyncAttempts:
        return SyncAttempts(self._wrapped.attempts(**options))

    def using(self, **overrides: Any) -> SyncMongoFacade:
        return SyncMongoFacade(self._wrapped.using(**overrides))


class SyncMongoTransactionFacade(SyncFacade):
    """A ``MongoTransaction`` with the face of an ``AsyncMongoTransaction``."""

    awaited = _VERBS
    plain = _SQL | {"outcome", "callback_errors", "client_session"}
    scopes = frozenset({"stream", "bind"})

    def on_commit(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        self._wrapped.on_commit(_adapted(fn))
        return fn

    def on_rollback(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        self._wrapped.on_rollback(_adapted(fn))
        return fn


add_facade(MongoDatabase, SyncMongoFacade)
add_facade(MongoTransaction, SyncMongoTransactionFacade)


def make_mongo(world: str, url: str, **fields: Any) -> Any:
    """Return a document database of *world* that isn't open yet, with verbs to be awaited."""
    return AsyncMongoDatabase(url, **fields) if world == "async" else SyncMongoFacade(MongoDatabase(url, **fields))
