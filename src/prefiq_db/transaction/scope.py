"""One pinned connection, the blocks open on it, and who may use it.

``with db.transaction()`` makes the transaction ambient for the task or thread that opened it. Others that inherit the
context get :class:`TransactionOwnershipError` instead of a silent second connection. An explicit ``tx`` may be handed
to another task or thread, one at a time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection

from prefiq_db.errors import ClosedError, ForkError, PrefiqDbError, TransactionBusyError, TransactionOwnershipError
from prefiq_db.execution.facts import facts_sent
from prefiq_db.execution.refusals import commit_refused, hidden_refused, refuse_everywhere
from prefiq_db.instance import Instance
from prefiq_db.leaving import surely

if TYPE_CHECKING:
    from prefiq_db.transaction.block import Block

HAND_OVER: Final = (
    "adopt it there with `with tx.bind():` or use the verbs of `tx`; for a time limit use asyncio.timeout(), which "
    "stays in the task, instead of asyncio.wait_for()"
)

# How often to look whether the connection is free; nobody can wake us who doesn't know that we wait.
_LOOK_AGAIN_SECONDS: Final = 0.005


class Scope:
    """One pinned connection and the blocks open on it."""

    def __init__(self, instance: Instance, connection: Connection) -> None:
        self.instance = instance
        self.connection = connection
        self.pid = os.getpid()
        self.blocks: list[Block] = []
        # Verbs that came through an explicit tx, or under bind(): somebody meant this transaction by name.
        self.explicit_uses = 0
        # Who uses the connection, under the one key there is: to look and to take it is one step, which nothing
        # interrupts, and whoever was interrupted is still known.
        self._users: dict[None, _Use] = {}

    def refuse_ending(self, statement: str, context: Any) -> None:
        """Raise if *statement* would end the transaction by itself, be it a verb's, a session's or a connection's.

        What stays on the connection after COMMIT costs it: the next user gets another one.
        """
        dialect = self.instance.road.dialect
        facts = facts_sent(context, statement, dialect.label)
        refuse_everywhere(facts)
        if facts.commits:
            raise commit_refused(dialect.label, facts.commits)
        if facts.hidden:
            raise hidden_refused(dialect.label)
        if facts.lingers:
            self.instance.road.state(self.connection).checkout.tainted = True

    def seize(self, within_seconds: float) -> bool:
        """Hold the connection for good: wait until a statement that somebody else runs on it has ended.

        Ending the transaction on a connection that is being read would mix up the replies.
        """
        deadline = time.monotonic() + within_seconds
        mine = _Use(self)
        while (user := self._users.setdefault(None, mine)) is not mine:
            # What we hold ourselves was interrupted before it could be let go; there is nothing to wait for.
            if user.worker == mine.worker or time.monotonic() >= deadline:
                return False
            self.instance.runtime.sleep(_LOOK_AGAIN_SECONDS)
        return True

    def doubt(self) -> None:
        """Close the connection: after an interruption nobody knows how far a conversation on it came."""
        if not self.connection.closed and not self.connection.invalidated:
            self.connection.invalidate()

    @property
    def finished(self) -> bool:
        return not self.blocks

    def used(self) -> _Use:
        """Return a block that holds the connection for one statement.

        Raises:
            TransactionBusyError: if another task or thread holds it: a connection speaks for one at a time.
            ForkError: in a forked child, whose copy of the connection belongs to the parent.
        """
        return _Use(self)

    def take(self, use: _Use) -> None:
        """Note that *use* has the connection, or raise."""
        if self.pid != os.getpid():
            raise ForkError(
                "this transaction was opened before a fork and belongs to the parent process; open a new one here"
            )
        if self._users.setdefault(None, use) is not use:
            raise TransactionBusyError(
                "two tasks or threads used one transaction at the same moment; run them one after the other, or give "
                "each its own transaction()"
            )

    def let_go(self, use: _Use) -> None:
        """Note that *use* has ended."""
        if self._users.get(None) is use:
            del self._users[None]


class _Use:
    """One statement's hold on the connection. What interrupts it leaves the connection in doubt."""

    __slots__ = ("scope", "worker")

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.worker = scope.instance.runtime.worker()

    def __enter__(self) -> None:
        self.scope.take(self)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            if error is not None and not isinstance(error, PrefiqDbError):
                self.scope.doubt()
        finally:
            self.scope.let_go(self)


@dataclass(frozen=True, slots=True)
class _Held:
    scope: Scope
    worker: object
    bound: bool


_NOTHING: Mapping[object, _Held] = MappingProxyType({})
_ambient: ContextVar[Mapping[object, _Held]] = ContextVar("prefiq_db_transactions", default=_NOTHING)


def ambient(instance: Instance) -> Scope | None:
    """Return the transaction that verbs of the database itself belong to here, if any.

    Raises:
        TransactionOwnershipError: if it was inherited by a task or thread that did not open it.
    """
    held = _ambient.get().get(instance)
    if held is None:
        return None
    mine = held.worker == instance.runtime.worker()
    if held.scope.finished:
        if mine and held.bound:
            raise ClosedError(
                "the transaction that was adopted here with tx.bind() has ended; leave the block to work outside of it"
            )
        return None
    if not mine:
        raise TransactionOwnershipError(
            f"a transaction on database {instance.name} is open in the task or thread that started this one, and "
            f"this one did not open it; {HAND_OVER}",
            database=instance.name,
        )
    if held.bound:
        held.scope.explicit_uses += 1
    return held.scope


def enter(scope: Scope) -> None:
    """Make *scope* ambient here."""
    _set(scope.instance, _Held(scope, scope.instance.runtime.worker(), bound=False))


def leave(scope: Scope) -> bool:
    """End *scope*'s being ambient here; return whether it was."""
    held = _ambient.get().get(scope.instance)
    if held is None or held.scope is not scope:
        return False
    _set(scope.instance, None)
    return True


class Binding:
    """``with tx.bind():`` makes a transaction ambient for the task or thread that runs the block."""

    _watch: object = None

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._before: _Held | None = None
        self._held: _Held | None = None

    def __enter__(self) -> None:
        scope, key = self._scope, self._scope.instance
        self._before = _ambient.get().get(key)
        self._held = _Held(scope, scope.instance.runtime.worker(), bound=True)
        scope.explicit_uses += 1
        _set(key, self._held)

    @surely
    def __exit__(self, *exc: object) -> None:
        self._finish()
        self._watch = None

    @property
    def _is_begun(self) -> bool:
        return self._held is not None

    def _finish(self) -> None:
        key = self._scope.instance
        if _ambient.get().get(key) is self._held:
            _set(key, self._before)


def _set(key: object, held: _Held | None) -> None:
    # set, never reset(token): that raises in another context, and generators are finished in other contexts
    others = {other: value for other, value in _ambient.get().items() if other is not key}
    _ambient.set(others if held is None else {**others, key: held})
