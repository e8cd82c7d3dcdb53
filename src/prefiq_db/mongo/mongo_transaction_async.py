"""An async transaction of MongoDB; twin: ``mongo_transaction``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Self, TypeVar

from prefiq_db.bridge import spawn
from prefiq_db.errors import PrefiqDbError
from prefiq_db.faces.verb_names import takes_verbs_of
from prefiq_db.mongo.document_verbs_async import AsyncDocumentVerbs
from prefiq_db.mongo.opened_session import OpenedSession
from prefiq_db.mongo.sql_words import SqlWords
from prefiq_db.reports import Outcome
from prefiq_db.transaction import Block

if TYPE_CHECKING:
    from prefiq_db.mongo.mongo_core import MongoCore

F = TypeVar("F", bound=Callable[..., Any])


@takes_verbs_of(AsyncDocumentVerbs)
class AsyncMongoTransaction(SqlWords):
    """A transaction; every verb of :class:`AsyncMongoDatabase` runs in its session. MongoDB has no savepoints."""

    _core: OpenedSession

    def __init__(self, core: MongoCore, tx: Block) -> None:
        self._core = OpenedSession(core, tx)

    @property
    def outcome(self) -> Outcome:
        """The outcome: ``active``, ``committed``, ``not committed`` or ``unknown``."""
        return self._core.tx.outcome

    @property
    def callback_errors(self) -> tuple[Exception, ...]:
        """The errors of ``on_commit`` and ``on_rollback`` functions; they never fail the transaction."""
        return self._core.tx.callback_errors

    @property
    def client_session(self) -> Any:
        """PyMongo's session, for calls of its own objects: ``session=tx.client_session``."""
        return self._core.tx.scope.session  # type: ignore[attr-defined] # a transaction of MongoDB has a SessionScope

    async def __aenter__(self) -> Self:
        return await spawn(self._core.enter, self)

    async def __aexit__(self, exc_type: object, exc: BaseException | None, traceback: object) -> None:
        tx = self._core.tx
        try:
            await spawn(tx.end, exc)
        except BaseException as error:
            if not isinstance(error, PrefiqDbError) and not tx.is_over:  # interrupted before its first line
                await spawn(tx.abandon)
            raise

    # --- documents -------------------------------------------------------------------------------

    find = AsyncDocumentVerbs.find
    find_one = AsyncDocumentVerbs.find_one
    stream = AsyncDocumentVerbs.stream
    count = AsyncDocumentVerbs.count
    aggregate = AsyncDocumentVerbs.aggregate
    insert = AsyncDocumentVerbs.insert
    insert_many = AsyncDocumentVerbs.insert_many
    update = AsyncDocumentVerbs.update
    upsert = AsyncDocumentVerbs.upsert
    delete = AsyncDocumentVerbs.delete
    bulk_write = AsyncDocumentVerbs.bulk_write

    # --- what follows the end --------------------------------------------------------------------

    def bind(self) -> AbstractContextManager[None]:
        """Return a block in which the database's own verbs use this transaction, in the running thread or task."""
        return self._core.bind()

    def on_commit(self, fn: F) -> F:
        """Call *fn* after COMMIT, unless the transaction is rolled back."""
        self._core.tx.on_commit(fn)
        return fn

    def on_rollback(self, fn: F) -> F:
        """Call *fn* after the transaction was rolled back."""
        self._core.tx.on_rollback(fn)
        return fn
