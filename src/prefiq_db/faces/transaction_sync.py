"""A sync transaction, or a savepoint in one; twin: ``transaction_async``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Self, TypeVar

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from prefiq_db.core import DatabaseCore, QuietSession, TransactionCore, join_options, note_session
from prefiq_db.faces.verb_names import takes_verbs_of
from prefiq_db.faces.verbs_sync import Verbs
from prefiq_db.leaving import surely
from prefiq_db.transaction import Block, Outcome, TransactionOptions

F = TypeVar("F", bound=Callable[..., Any])


@takes_verbs_of(Verbs)
class Transaction:
    """A transaction, or a savepoint in one; every verb of :class:`Database` runs on its connection."""

    _watch: object = None

    def __init__(self, core: DatabaseCore, tx: Block) -> None:
        self._base = self._core = TransactionCore(core, tx)

    @property
    def outcome(self) -> Outcome:
        """The outcome: ``active``, ``committed``, ``not committed`` or ``unknown``."""
        return self._core.tx.outcome

    @property
    def token(self) -> str | None:
        """The token for ``resolve_outcome``, in any process; ``None`` without ``exactly_once``."""
        return self._core.tx.tell_token()

    @property
    def callback_errors(self) -> tuple[Exception, ...]:
        """The errors of ``on_commit`` and ``on_rollback`` functions; they never fail the transaction."""
        return self._core.tx.callback_errors

    @property
    def connection(self) -> Connection:
        """The pinned SQLAlchemy connection."""
        return self._core.tx.connection

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
        tx = self._core.tx
        return tx._over or tx._handle is not None  # is_begun, without the call

    def _finish(self) -> None:
        self._core.tx.abandon()

    # --- statements ------------------------------------------------------------------------------

    fetch_all = Verbs.fetch_all
    fetch_one = Verbs.fetch_one
    fetch_exactly_one = Verbs.fetch_exactly_one
    fetch_value = Verbs.fetch_value
    stream = Verbs.stream
    execute = Verbs.execute
    execute_many = Verbs.execute_many
    batch = Verbs.batch
    bulk_insert = Verbs.bulk_insert
    upsert = Verbs.upsert

    # --- savepoints, sessions and what follows the end -----------------------------------------------

    def transaction(
        self,
        *,
        isolation: str | None = None,
        read_only: bool = False,
        durable: bool = False,
        timeout: float | None = None,
    ) -> Transaction:
        """Return a nested transaction: a savepoint."""
        options = TransactionOptions(isolation, read_only, durable, timeout)
        return Transaction(self._core.database, self._core.make_savepoint(options))

    def session(self, **options: Any) -> Session:
        """Return an ORM session that works in a savepoint of this transaction; its objects don't expire on commit."""
        self._core.check_tenant()
        session = QuietSession(self.connection, join_transaction_mode="create_savepoint", **join_options(options))
        note_session(self._core.tx.instance, session)
        return session

    def bind(self) -> AbstractContextManager[None]:
        """Return a block in which the database's own verbs use this transaction, in the running thread or task."""
        return self._core.bind()

    def on_commit(self, fn: F) -> F:
        """Call *fn* after the outermost COMMIT, unless this block or one around it is rolled back."""
        self._core.tx.on_commit(fn)
        return fn

    def on_rollback(self, fn: F) -> F:
        """Call *fn* after this block, or one around it, was rolled back."""
        self._core.tx.on_rollback(fn)
        return fn

    def rollback(self) -> None:
        """Roll this block back when it is left, without an exception; statements until then still run.

        In a nested one it undoes that block alone. ``outcome`` is ``not committed`` then.
        """
        self._core.tx.unwant()
