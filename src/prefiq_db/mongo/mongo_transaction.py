"""A sync transaction of MongoDB; twin: ``mongo_transaction_async``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Self, TypeVar

from prefiq_db.faces.verb_names import takes_verbs_of
from prefiq_db.leaving import surely
from prefiq_db.mongo.document_verbs_sync import DocumentVerbs
from prefiq_db.mongo.opened_session import OpenedSession
from prefiq_db.mongo.sql_words import SqlWords
from prefiq_db.reports import Outcome
from prefiq_db.transaction import Block

if TYPE_CHECKING:
    from prefiq_db.mongo.mongo_core import MongoCore

F = TypeVar("F", bound=Callable[..., Any])


@takes_verbs_of(DocumentVerbs)
class MongoTransaction(SqlWords):
    """A transaction; every verb of :class:`MongoDatabase` runs in its session. MongoDB has no savepoints."""

    _watch: object = None

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

    def __enter__(self) -> Self:
        return self._core.enter(self)

    @surely
    def __exit__(self, exc_type: object, exc: BaseException | None, traceback: object) -> None:
        try:
            self._core.tx.end(exc)
        finally:
            self._watch = None if self._core.tx.is_over else self._watch

    @property
    def _is_begun(self) -> bool:
        return self._core.tx.is_begun

    def _finish(self) -> None:
        self._core.tx.abandon()

    # --- documents -------------------------------------------------------------------------------

    find = DocumentVerbs.find
    find_one = DocumentVerbs.find_one
    stream = DocumentVerbs.stream
    count = DocumentVerbs.count
    aggregate = DocumentVerbs.aggregate
    insert = DocumentVerbs.insert
    insert_many = DocumentVerbs.insert_many
    update = DocumentVerbs.update
    upsert = DocumentVerbs.upsert
    delete = DocumentVerbs.delete
    bulk_write = DocumentVerbs.bulk_write

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
