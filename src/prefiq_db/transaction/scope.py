"""The pinned connection of a transaction, the blocks open on it, and its current user."""

from __future__ import annotations

import os
from typing import Any, Final, Generic, NoReturn, TypeVar

from sqlalchemy import Connection

from prefiq_db.deadline import Deadline
from prefiq_db.dialects.base import PrefiqDialect
from prefiq_db.dialects.session import SessionState
from prefiq_db.errors import ClosedError, ForkError, PrefiqDbError, TransactionBusyError
from prefiq_db.execution.inside import Inside
from prefiq_db.execution.pinned import Pinned
from prefiq_db.execution.refused_statements import (
    commit_refused,
    hidden_refused,
    refuse_behind_pooler,
    refuse_everywhere,
)
from prefiq_db.execution.statement_facts import Facts, facts_sent
from prefiq_db.instance import Instance

B = TypeVar("B")

# How often to poll whether the connection is free; its user doesn't know that we wait, so can't wake us.
_LOOK_AGAIN_SECONDS: Final = 0.005


class Guard:
    """Judges each statement on the pinned connection before it is sent.

    The connection's state knows it. It doesn't know the connection, so one that is dropped unclosed is found.
    """

    __slots__ = ("_dialect", "is_closed", "state")

    state: SessionState

    def __init__(self, dialect: PrefiqDialect) -> None:
        self._dialect = dialect
        self.is_closed = False

    def refuse_ending(self, statement: str, context: Any) -> None:
        """Raise if *statement*, from a verb, a session or a connection, would end the transaction.

        A statement whose effect on the connection outlives COMMIT marks it: the pool won't reuse it.
        """
        if self.is_closed:
            raise ClosedError("the transaction has ended with the statement that was said to be the last")
        state = self.state
        transaction = state.transaction
        if getattr(context, "carrier", None) is not None:
            # Our own statement, made for bulk_insert(): by another protocol, so it travels alone.
            transaction.may_travel = transaction.may_close = transaction.only_reads = False
            return
        dialect = self._dialect
        facts = facts_sent(context, statement, dialect.label)
        if not facts.stands_inside:
            _refuse(facts, dialect.label)
        if facts.lingers:
            if not dialect.limits.session_settings:
                refuse_behind_pooler(facts)
            state.checkout.tainted = True
        Inside(facts, statement, dialect).note(transaction)

    def admits(self, inside: Inside) -> bool:
        """Note what a text means that is known to be refused nowhere; return whether it may be sent now."""
        if self.is_closed:
            return False
        transaction = self.state.transaction
        if transaction.owes_begin or transaction.only_reads:  # nobody else asks what it means
            inside.note(transaction)
        return True


def _refuse(facts: Facts, label: str) -> None:
    """Raise because a statement with these *facts* may not be sent in a transaction."""
    refuse_everywhere(facts)
    if facts.commits:
        raise commit_refused(label, facts.commits)
    if facts.hidden:
        raise hidden_refused(label)


class Scope(Generic[B]):
    """One pinned connection and the blocks open on it, the outermost first."""

    def __init__(self, instance: Instance, pinned: Pinned) -> None:
        self.instance = instance
        #: names the running task or thread
        self.worker = instance.runtime.worker
        self.guard = Guard(instance.road.dialect)
        self.pin(pinned)
        self.pid = os.getpid()
        self.blocks: list[B] = []
        # Verbs run through an explicit tx, or under bind(): their callers chose this transaction.
        self.explicit_uses = 0
        # The connection's user, under a single key: setdefault() checks and takes it in one step that can't be
        # interrupted, and an interrupted user stays recorded.
        self._users: dict[None, Use] = {}

    def pin(self, pinned: Pinned) -> None:
        """Take *pinned*; another one takes its place if the first turns out to be dead at BEGIN."""
        self.pinned = pinned
        self.state: SessionState = pinned.state
        self.guard.state = self.state
        self.state.checkout.guard = self.guard.refuse_ending

    @property
    def is_closed(self) -> bool:
        """Whether the statement that was said to be the last was sent: nothing may follow it."""
        return self.guard.is_closed

    @is_closed.setter
    def is_closed(self, closed: bool) -> None:
        self.guard.is_closed = closed

    def seize(self, wait_seconds: float) -> bool:
        """Take the connection for good, after waiting for a statement that someone else runs on it.

        Ending the transaction while another statement's reply is being read would mix up the replies.
        """
        mine = Use(self)
        deadline: Deadline | None = None
        while (user := self._users.setdefault(None, mine)) is not mine:
            deadline = deadline or Deadline.after(wait_seconds)
            # Our own use was interrupted before it could be released; there is nothing to wait for.
            if user.worker == mine.worker or deadline.has_passed:
                return False
            self.instance.runtime.sleep(_LOOK_AGAIN_SECONDS)
        return True

    def doubt(self) -> None:
        """Close the connection: after an interruption the state of its protocol is unknown."""
        self.pinned.doubt()

    @property
    def connection(self) -> Connection:
        """SQLAlchemy's Connection, made when it is first asked for."""
        connection: Connection = self.pinned.connection
        return connection

    @property
    def finished(self) -> bool:
        return not self.blocks

    def used(self) -> Use:
        """Return a block that holds the connection for one statement.

        Raises:
            TransactionBusyError: if another task or thread holds it: only one may use it at a time.
            ForkError: in a forked child, whose copy of the connection belongs to the parent.
        """
        return Use(self)

    def refuse_use(self) -> NoReturn:
        """Raise because the connection is another's."""
        if self.pid != os.getpid():
            raise ForkError(
                "this transaction was opened before a fork and belongs to the parent process; open a new one here"
            )
        raise TransactionBusyError(
            "two tasks or threads used one transaction at the same moment; run them one after the other, or give "
            "each its own transaction()"
        )


class Use:
    """One statement's hold on the connection. An interruption of it closes the connection."""

    __slots__ = ("scope", "worker")

    def __init__(self, scope: Scope[Any]) -> None:
        self.scope = scope
        self.worker = scope.worker()

    def __enter__(self) -> None:
        scope = self.scope
        if scope.pid != os.getpid() or scope._users.setdefault(None, self) is not self:
            scope.refuse_use()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        scope = self.scope
        try:
            if error is not None and not isinstance(error, PrefiqDbError):
                scope.doubt()
        finally:
            users = scope._users
            if users.get(None) is self:
                del users[None]
