"""An async transaction, or a savepoint in one; twin: ``transaction_sync``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Self, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from prefiq_db.bridge import spawn
from prefiq_db.core import DatabaseCore, TransactionCore, join_options, note_session, quiet
from prefiq_db.errors import PrefiqDbError
from prefiq_db.faces.verb_names import takes_verbs_of
from prefiq_db.faces.verbs_async import AsyncVerbs
from prefiq_db.transaction import Block, Outcome, TransactionOptions

F = TypeVar("F", bound=Callable[..., Any])


@takes_verbs_of(AsyncVerbs)
class AsyncTransaction:
    """A transaction, or a savepoint in one; every verb of :class:`AsyncDatabase` runs on its connection."""

    def __init__(self, core: DatabaseCore, engine: AsyncEngine, tx: Block) -> None:
        self._engine = engine
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
    def connection(self) -> AsyncConnection:
        """The pinned SQLAlchemy connection."""
        return AsyncConnection(self._engine, self._core.tx.connection)

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

    # --- statements ------------------------------------------------------------------------------

    fetch_all = AsyncVerbs.fetch_all
    fetch_one = AsyncVerbs.fetch_one
    fetch_exactly_one = AsyncVerbs.fetch_exactly_one
    fetch_value = AsyncVerbs.fetch_value
    stream = AsyncVerbs.stream
    execute = AsyncVerbs.execute
    execute_many = AsyncVerbs.execute_many
    batch = AsyncVerbs.batch
    bulk_insert = AsyncVerbs.bulk_insert
    upsert = AsyncVerbs.upsert

    # --- savepoints, sessions and what follows the end -----------------------------------------------

    def transaction(
        self,
        *,
        isolation: str | None = None,
        read_only: bool = False,
        durable: bool = False,
        timeout: float | None = None,
    ) -> AsyncTransaction:
        """Return a nested transaction: a savepoint."""
        options = TransactionOptions(isolation, read_only, durable, timeout)
        return AsyncTransaction(self._core.database, self._engine, self._core.make_savepoint(options))

    def session(self, **options: Any) -> AsyncSession:
        """Return an ORM session that works in a savepoint of this transaction; its objects don't expire on commit."""
        self._core.check_tenant()
        session = AsyncSession(
            self.connection, join_transaction_mode="create_savepoint", **quiet(join_options(options))
        )
        note_session(self._core.tx.instance, session.sync_session)
        return session

    def bind(self) -> AbstractContextManager[None]:
        """Return a block in which the database's own verbs use this transaction, in the running task."""
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
