"""Transactions: one pinned connection, blocks nested on it, and who may use it.

``with db.transaction()`` makes the transaction ambient for the task or thread that opened it. Others that inherit the
context get :class:`TransactionOwnershipError` instead of a silent second connection. An explicit ``tx`` may be handed
to another task or thread, one at a time.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from sqlalchemy import Connection, Executable

from prefiq_db.bridge import Runtime
from prefiq_db.calls import Call
from prefiq_db.config import ISOLATION_LEVELS
from prefiq_db.errors import (
    ClosedError,
    ErrorClass,
    ErrorKind,
    ForkError,
    NestingError,
    NotCommittedError,
    OutcomeUnknownError,
    PrefiqDbError,
    TransactionBusyError,
    TransactionOwnershipError,
    TransactionTimeoutError,
    UsageError,
)
from prefiq_db.events import TransactionFinished
from prefiq_db.execution.facts import LOCK_REASON, control_refused, ddl_refused, facts_of_text
from prefiq_db.execution.shapes import Shape
from prefiq_db.execution.standard import StandardRoad
from prefiq_db.hooks.registry import Hooks
from prefiq_db.origin import Line, readable

logger = logging.getLogger("prefiq_db.transaction")

_HAND_OVER: Final = (
    "adopt it there with `with tx.bind():` or use the verbs of `tx`; for a time limit use asyncio.timeout(), which "
    "stays in the task, instead of asyncio.wait_for()"
)


# How often to look whether the connection is free; nobody can wake us who doesn't know that we wait.
_LOOK_AGAIN_SECONDS: Final = 0.005


class Outcome(StrEnum):
    """What became of a transaction."""

    ACTIVE = "active"
    COMMITTED = "committed"
    NOT_COMMITTED = "not committed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class TransactionOptions:
    """How a transaction begins.

    Attributes:
        isolation: one of :data:`~prefiq_db.config.ISOLATION_LEVELS`, or ``None`` for the server's default.
        read_only: the server refuses writes in it.
        durable: refuse to be nested: leaving the block means it is committed.
        timeout_seconds: from BEGIN to COMMIT; ``None`` means no limit beyond that of each statement.
    """

    isolation: str | None = None
    read_only: bool = False
    durable: bool = False
    timeout_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.isolation is not None:
            level = str(self.isolation).upper().replace("_", " ")
            if level not in ISOLATION_LEVELS:
                raise UsageError(f"isolation: expected one of {', '.join(ISOLATION_LEVELS)}")
            object.__setattr__(self, "isolation", level)
        for name in ("read_only", "durable"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name}: expected True or False")
        check_timeout(self.timeout_seconds)


def check_timeout(seconds: float | None) -> None:
    """Raise :class:`UsageError` unless *seconds* is ``None`` or a positive, finite number."""
    if seconds is None:
        return
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < float("inf"):
        raise UsageError("timeout: expected seconds, greater than 0 and finite")


@dataclass(frozen=True, slots=True)
class Ground:
    """What a transaction stands on: the database's road, its world and its limits.

    Attributes:
        key: identifies the database in the ambient mapping; all views of one database share it.
        commit_budget_seconds: how long COMMIT and the ``on_commit`` functions may outlive a cancellation.
    """

    key: object
    database: str
    road: StandardRoad
    runtime: Runtime
    hooks: Hooks
    statement_timeout_seconds: float
    commit_budget_seconds: float


# --- who uses it ---------------------------------------------------------------------------------


class Scope:
    """One pinned connection and the blocks open on it."""

    def __init__(self, ground: Ground, connection: Connection) -> None:
        self.ground = ground
        self.connection = connection
        self.pid = os.getpid()
        self.blocks: list[TransactionCore] = []
        # Verbs that came through an explicit tx, or under bind(): somebody meant this transaction by name.
        self.explicit_uses = 0
        self._busy = threading.Lock()

    def refuse_ending(self, statement: str, is_ddl: bool) -> None:
        """Raise if *statement* would end the transaction by itself, be it a verb's, a session's or a connection's."""
        facts = facts_of_text(statement)
        if facts.control:
            raise control_refused()
        if (facts.ddl or is_ddl) and self.ground.road.dialect.ddl_commits:
            raise ddl_refused(self.ground.road.dialect.label)
        if facts.no_tomorrow and not self._ends_with_transaction(statement, facts.no_tomorrow):
            self.ground.road.state(self.connection).tainted = True

    def _ends_with_transaction(self, statement: str, reason: str) -> bool:
        """Return whether what a statement leaves behind is gone after COMMIT; else the connection goes with it."""
        if reason == LOCK_REASON:
            return True
        # To MariaDB, SET LOCAL means the session.
        local = "transaction|statement" if self.ground.road.dialect.ddl_commits else "local|constraints|transaction"
        return re.match(rf"\s*set\s+({local})\b", statement, re.I) is not None

    def seize(self, within_seconds: float) -> bool:
        """Hold the connection for good: wait until a statement that somebody else runs on it has ended.

        Ending the transaction on a connection that is being read would mix up the replies.
        """
        deadline = time.monotonic() + within_seconds
        while not self._busy.acquire(blocking=False):
            if time.monotonic() >= deadline:
                return False
            self.ground.runtime.sleep(_LOOK_AGAIN_SECONDS)
        return True

    @property
    def finished(self) -> bool:
        return not self.blocks

    @contextmanager
    def used(self) -> Iterator[None]:
        """Hold the connection for one statement.

        Raises:
            TransactionBusyError: if another task or thread holds it: a connection speaks for one at a time.
            ForkError: in a forked child, whose copy of the connection belongs to the parent.
        """
        if self.pid != os.getpid():
            raise ForkError(
                "this transaction was opened before a fork and belongs to the parent process; open a new one here"
            )
        if not self._busy.acquire(blocking=False):
            raise TransactionBusyError(
                "two tasks or threads used one transaction at the same moment; run them one after the other, or give "
                "each its own transaction()"
            )
        try:
            yield
        finally:
            self._busy.release()


@dataclass(frozen=True, slots=True)
class _Held:
    scope: Scope
    worker: object
    bound: bool


_NOTHING: Mapping[object, _Held] = MappingProxyType({})
_ambient: ContextVar[Mapping[object, _Held]] = ContextVar("prefiq_db_transactions", default=_NOTHING)


def ambient(ground: Ground) -> Scope | None:
    """Return the transaction that verbs of the database itself belong to here, if any.

    Raises:
        TransactionOwnershipError: if it was inherited by a task or thread that did not open it.
    """
    held = _ambient.get().get(ground.key)
    if held is None:
        return None
    mine = held.worker == ground.runtime.worker()
    if held.scope.finished:
        if mine and held.bound:
            raise ClosedError(
                "the transaction that was adopted here with tx.bind() has ended; leave the block to work outside of it"
            )
        return None
    if not mine:
        raise TransactionOwnershipError(
            f"a transaction on database {ground.database} is open in the task or thread that started this one, and "
            f"this one did not open it; {_HAND_OVER}",
            database=ground.database,
        )
    if held.bound:
        held.scope.explicit_uses += 1
    return held.scope


def _enter(scope: Scope, *, bound: bool = False) -> Mapping[object, _Held]:
    """Make *scope* ambient here; return what was before."""
    before = _ambient.get()
    _ambient.set({**before, scope.ground.key: _Held(scope, scope.ground.runtime.worker(), bound)})
    return before


def _leave(scope: Scope) -> bool:
    """End *scope*'s being ambient here; return whether it was."""
    current = _ambient.get()
    held = current.get(scope.ground.key)
    if held is None or held.scope is not scope:
        return False
    # set, never reset(token): that raises in another context, and generators are finished in other contexts
    _ambient.set({key: value for key, value in current.items() if key is not scope.ground.key})
    return True


# --- the transaction -----------------------------------------------------------------------------

_ids = itertools.count(1)


class TransactionCore:
    """One block: a transaction, or a savepoint in one. Both worlds' shells stand on it."""

    def __init__(self, ground: Ground, options: TransactionOptions, parent: Scope | None = None) -> None:
        self.ground = ground
        self.options = options
        self.id = next(_ids)
        self.outcome = Outcome.ACTIVE
        self.callback_errors: tuple[Exception, ...] = ()
        self._scope = parent
        self.retry_number = 0
        self.line: Line | None = None
        self._started = 0.0
        self._is_root = parent is None
        self._handle: Any = None
        self._deadline: float | None = None
        self._on_commit: list[Callable[[], Any]] = []
        self._on_rollback: list[Callable[[], Any]] = []
        if parent is not None:
            self._check_nested(parent)

    def _check_nested(self, parent: Scope) -> None:
        if parent.finished:
            raise ClosedError("the outer transaction has ended; open a new one")
        if self.options.durable:
            raise NestingError("transaction(durable=True) was opened inside another transaction; open it outside")
        outer = parent.blocks[0].options
        if self.options.isolation is not None and self.options.isolation != outer.isolation:
            raise NestingError(
                "isolation: a nested transaction is a savepoint and can't change the level; set it outside"
            )
        if self.options.read_only and not outer.read_only:
            raise NestingError(
                "read_only: a nested transaction is a savepoint and can't become read-only; set it outside"
            )
        if parent.blocks[-1].outcome is not Outcome.ACTIVE:
            raise ClosedError("the outer transaction has ended")

    @property
    def scope(self) -> Scope:
        assert self._scope is not None, "asked for before begin()"
        return self._scope

    def nested(self, options: TransactionOptions) -> TransactionCore:
        """Return a savepoint in this transaction that has not begun."""
        self._check_active()
        return TransactionCore(self.ground, options, self.scope)

    @property
    def connection(self) -> Connection:
        """The pinned SQLAlchemy connection, inside the transaction."""
        self._check_active()
        return self.scope.connection

    @property
    def root_options(self) -> TransactionOptions:
        """How the outermost block began."""
        self._check_active()
        return self.scope.blocks[0].options

    def check_new(self) -> None:
        """Raise if it has begun already."""
        if self._handle is not None or self.outcome is not Outcome.ACTIVE:
            raise UsageError("a transaction begins once; call transaction() again for another one")

    @property
    def is_root(self) -> bool:
        """Whether this is a transaction of its own rather than a savepoint."""
        return self._is_root

    # --- begin -----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Send BEGIN or SAVEPOINT and become ambient for this task or thread."""
        self.check_new()
        if self.options.timeout_seconds is not None:
            self._deadline = time.monotonic() + self.options.timeout_seconds
        if self._is_root:
            self._begin_root()
        else:
            with self.scope.used():
                self._handle = self.ground.road.begin_nested(self.scope.connection)
        self.scope.blocks.append(self)

    def _begin_root(self) -> None:
        road, options = self.ground.road, self.options
        self._started = time.perf_counter()
        connection = road.checkout(options.timeout_seconds)
        try:
            state = road.state(connection)
            self.line = state.line
            state.transaction_id = self.id
            state.retry_number = self.retry_number
            state.write = not options.read_only
            state.read_only = options.read_only
            state.isolation = options.isolation or state.isolation
            state.managed = True
            if options.timeout_seconds is not None and options.timeout_seconds < self._statement_limit:
                state.local_timeout = options.timeout_seconds
            self._handle = road.begin(connection)
        except BaseException:
            connection.close()
            raise
        self._scope = Scope(self.ground, connection)
        state.guard = self._scope.refuse_ending
        _enter(self._scope)

    # --- statements ------------------------------------------------------------------------------

    def run(
        self,
        statement: Executable,
        params: Any,
        shape: Shape,
        timeout_seconds: float | None = None,
        *,
        explicit: bool,
        call: Call | None = None,
    ) -> Any:
        """Run one statement in this transaction."""
        self._check_active()
        scope = self.scope
        if explicit:
            scope.explicit_uses += 1
        with scope.used():
            if scope.connection.invalidated:
                raise self._lost()
            limit = self._limit(timeout_seconds)
            fetched = self.ground.road.run(scope.connection, statement, params, shape, limit, call)
        return shape.finished(fetched)

    @property
    def _statement_limit(self) -> float:
        return self.ground.statement_timeout_seconds

    def _limit(self, timeout_seconds: float | None) -> float:
        """Return the statement timeout, after looking at the whole transaction's."""
        limits = [timeout_seconds or self._statement_limit]
        for block in self.scope.blocks:
            block.check_deadline()
            if block.options.timeout_seconds is not None:
                limits.append(block.options.timeout_seconds)
        return min(limits)

    def check_deadline(self) -> None:
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise TransactionTimeoutError(
                f"the transaction on database {self.ground.database} took longer than its "
                f"{self.options.timeout_seconds:g} s and is rolled back",
                database=self.ground.database,
            )

    def _check_active(self) -> None:
        if self.outcome is not Outcome.ACTIVE:
            raise ClosedError(f"the transaction has ended ({self.outcome.value}); open a new one")
        if self._handle is None:
            raise UsageError("the transaction has not begun: use it as `with db.transaction() as tx:`")

    def _lost(self) -> NotCommittedError:
        return NotCommittedError(
            f"the connection to database {self.ground.database} was lost inside the transaction, and nothing of it was "
            "committed",
            database=self.ground.database,
            classification=ErrorClass(
                ErrorKind.CONNECTION_LOST, transient=True, connection_lost=True, retry_transaction=True
            ),
        )

    # --- hand over -------------------------------------------------------------------------------

    @contextmanager
    def bind(self) -> Iterator[None]:
        """Make this transaction ambient for the running task or thread, for the length of the block."""
        self._check_active()
        before = _enter(self.scope, bound=True)
        self.scope.explicit_uses += 1
        try:
            yield
        finally:
            _ambient.set(before)

    def on_commit(self, fn: Callable[[], Any]) -> Callable[[], Any]:
        """Call *fn* after the outermost COMMIT; never, if this block or one around it is rolled back."""
        self._check_active()
        self._on_commit.append(_checked_callable(fn, "on_commit"))
        return fn

    def on_rollback(self, fn: Callable[[], Any]) -> Callable[[], Any]:
        """Call *fn* after this block, or one around it, was rolled back."""
        self._check_active()
        self._on_rollback.append(_checked_callable(fn, "on_rollback"))
        return fn

    # --- end -------------------------------------------------------------------------------------

    def end(self, error: BaseException | None) -> None:
        """Commit, or roll back if *error* is leaving the block."""
        self._check_active()
        if not self._is_root:
            self._end_nested(error)
            return
        try:
            self._end_root(error)
        finally:
            self._tell()

    def _tell(self) -> None:
        hooks = self.ground.hooks
        if hooks.wants(TransactionFinished):
            duration = time.perf_counter() - self._started
            database, outcome = self.ground.database, self.outcome.value
            hooks.emit(TransactionFinished(database, self.id, outcome, duration, readable(self.line)))

    def _end_root(self, error: BaseException | None) -> None:
        scope = self.scope
        at_home = _leave(scope)
        inner = scope.blocks[1:]
        if error is None and inner:
            self._roll_back()
            raise UsageError("the transaction ended while a nested one was still open; everything was rolled back")
        if error is None and not at_home and scope.explicit_uses == 0:
            self._roll_back()
            raise TransactionOwnershipError(
                "the block was left in another context than it was entered in (another task, a fixture, a middleware), "
                f"so statements meant for it may have run outside it; it was rolled back; {_HAND_OVER}",
                database=self.ground.database,
            )
        if error is not None:
            self._roll_back()
            return
        try:
            self.ground.runtime.shielded(self._commit, self.ground.commit_budget_seconds)
        except TimeoutError:
            self._give_up()
        except BaseException as interruption:
            if not isinstance(interruption, Exception):
                # The very same instance goes on: a subclass would break asyncio.timeout().
                interruption.transaction_outcome = self.outcome  # type: ignore[attr-defined]
            raise

    def _commit(self) -> None:
        scope = self.scope
        try:
            with scope.used():
                self.check_deadline()
                if scope.connection.invalidated:
                    raise self._lost()
                # Until the reply is read, nobody knows.
                self.outcome = Outcome.UNKNOWN
                self.ground.road.border.cross(self._handle.commit, "commit")
        except PrefiqDbError as error:
            known = not isinstance(error, OutcomeUnknownError)
            self.outcome = Outcome.ACTIVE
            self._roll_back(Outcome.NOT_COMMITTED if known else Outcome.UNKNOWN)
            raise
        except BaseException:
            self._discard()
            scope.blocks.clear()
            raise
        self.outcome = Outcome.COMMITTED
        scope.blocks.clear()
        self._return()
        self._call(self._on_commit, "on_commit")

    def _give_up(self) -> None:
        """Say so when COMMIT, or what follows it, did not end within its budget."""
        if self.outcome is Outcome.COMMITTED:
            budget = self.ground.commit_budget_seconds
            self._note_callback_error("on_commit", None, TimeoutError(f"not done within {budget:g} s"))
            return
        self.outcome = Outcome.UNKNOWN
        raise OutcomeUnknownError(
            f"COMMIT on database {self.ground.database} was not answered within "
            f"{self.ground.commit_budget_seconds:g} s: it may have happened",
            database=self.ground.database,
        )

    def _roll_back(self, outcome: Outcome = Outcome.NOT_COMMITTED) -> None:
        scope = self.scope
        callbacks = [fn for block in scope.blocks for fn in block._on_rollback]
        for block in scope.blocks:
            block.outcome = outcome
        scope.blocks.clear()
        try:
            if not scope.seize(self.ground.commit_budget_seconds):
                self._discard()
            elif not scope.connection.invalidated:
                self.ground.road.border.cross(self._handle.rollback)
        except PrefiqDbError as error:
            # The error on its way matters more; the server rolls back by itself when the connection closes.
            logger.info(
                "ROLLBACK on database %s failed (%s); the connection is closed instead",
                self.ground.database,
                error.kind.value,
                extra={"database": self.ground.database, "error_kind": error.kind.value},
            )
            self._discard()
        except BaseException:
            self._discard()
            raise
        else:
            self._return()
        if outcome is Outcome.NOT_COMMITTED:
            self._call(callbacks, "on_rollback")

    def _return(self) -> None:
        self.ground.road.border.cross(self.scope.connection.close)

    def _discard(self) -> None:
        """Close the connection for good, so that whatever is open on it ends at the server."""
        connection = self.scope.connection
        try:
            if not connection.closed and not connection.invalidated:
                connection.invalidate()
        finally:
            connection.close()

    def _end_nested(self, error: BaseException | None) -> None:
        scope = self.scope
        if not scope.blocks or scope.blocks[-1] is not self:
            raise UsageError("nested transactions end in the reverse order of their beginning; this one isn't the last")
        outer = scope.blocks[-2]
        scope.blocks.pop()
        if error is None:
            try:
                with scope.used():
                    if scope.connection.invalidated:
                        raise self._lost()
                    self.ground.road.border.cross(self._handle.commit)
            except BaseException:
                self._undo_nested()
                raise
            # "Committed" is for the outermost to say; until then the fate is shared.
            self.outcome = Outcome.COMMITTED
            outer._on_commit.extend(self._on_commit)
            outer._on_rollback.extend(self._on_rollback)
        else:
            self._undo_nested()

    def _undo_nested(self) -> None:
        self.outcome = Outcome.NOT_COMMITTED
        if not self.scope.connection.invalidated:
            try:
                self.ground.road.border.cross(self._handle.rollback)
            except PrefiqDbError as error:
                # Then the outer transaction can't go on either; the server or the aborted state will say so.
                logger.info(
                    "ROLLBACK TO SAVEPOINT on database %s failed (%s)",
                    self.ground.database,
                    error.kind.value,
                    extra={"database": self.ground.database, "error_kind": error.kind.value},
                )
        self._call(self._on_rollback, "on_rollback")

    def _call(self, functions: list[Callable[[], Any]], what: str) -> None:
        """Call them all; an error of theirs never looks like a failed transaction: it is logged and kept."""
        for fn in functions:
            try:
                self.ground.runtime.call(fn)
            except Exception as error:  # noqa: BLE001 - the caller's function may raise anything; kept and logged
                self._note_callback_error(what, fn, error)

    def _note_callback_error(self, what: str, fn: Callable[[], Any] | None, error: Exception) -> None:
        self.callback_errors = (*self.callback_errors, error)
        logger.error(
            "%s function %s of a transaction on database %s raised %s; the transaction itself is %s",
            what,
            "" if fn is None else getattr(fn, "__qualname__", type(fn).__name__),
            self.ground.database,
            type(error).__name__,
            self.outcome.value,
            extra={"database": self.ground.database, "error_type": type(error).__name__},
        )


def _checked_callable(fn: Callable[[], Any], name: str) -> Callable[[], Any]:
    if not callable(fn):
        raise UsageError(f"{name}: expected a function without arguments")
    return fn
