"""Who owns a transaction, and which one is ambient: the one that the database's own verbs run in.

``with db.transaction()`` makes the transaction ambient for the task or thread that opened it. Others that inherit the
context get :class:`TransactionOwnershipError` instead of a silent second connection. An explicit ``tx`` may be handed
to another task or thread; one may use it at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from prefiq_db.errors import ClosedError, TransactionOwnershipError
from prefiq_db.instance import Instance
from prefiq_db.leaving import surely
from prefiq_db.transaction.block import Block
from prefiq_db.transaction.requests import of_another_tenant, request_here
from prefiq_db.transaction.scope import Scope

HAND_OVER: Final = (
    "adopt it there with `with tx.bind():` or use the verbs of `tx`; for a time limit use asyncio.timeout(), which "
    "stays in the task, instead of asyncio.wait_for()"
)


@dataclass(slots=True, eq=False)  # made anew for each transaction, and never changed
class _Held:
    scope: Scope[Block]
    worker: object
    bound: bool


NO_TRANSACTIONS: Final[Mapping[Instance, _Held]] = MappingProxyType({})
_ambient: ContextVar[Mapping[Instance, _Held]] = ContextVar("prefiq_db_transactions", default=NO_TRANSACTIONS)
#: returns ``NO_TRANSACTIONS`` where none is ambient, of whichever database
transactions_here: Final = _ambient.get


def ambient(instance: Instance) -> Scope[Block] | None:
    """Return the transaction that the database's own verbs run in here, if any.

    Raises:
        TransactionOwnershipError: if this task or thread inherited it and did not open it.
    """
    held = _ambient.get().get(instance.origin)
    if held is None:
        request = request_here.get()
        return None if request is None else request.ambient(instance)
    mine = held.worker == instance.runtime.worker()
    if held.scope.finished:
        if mine and held.bound:
            raise ClosedError(
                "the transaction that was adopted here with tx.bind() has ended; leave the block to work outside of it"
            )
        return None
    if not mine:
        error = TransactionOwnershipError(
            f"a transaction on database {instance.name} is open in the task or thread that started this one, and "
            f"this one did not open it; {HAND_OVER}",
            database=instance.name,
        )
        request = request_here.get()
        raise error if request is None else request.note(error)
    if held.scope.instance is not instance:
        raise of_another_tenant(instance.name)
    if held.bound:
        held.scope.explicit_uses += 1
    return held.scope


def is_adopted(instance: Instance) -> bool:
    """Return whether the ambient transaction was adopted here with ``tx.bind()``."""
    held = _ambient.get().get(instance.origin)
    return held is not None and held.bound


def open_here(instance: Instance) -> Scope[Block] | None:
    """Return the transaction that is open here, whoever opened it; a request's own is open in all of its threads."""
    held = _ambient.get().get(instance.origin)
    if held is None:
        request = request_here.get()
        return None if request is None else request.own(instance)
    return None if held is None or held.scope.finished else held.scope


def enter(scope: Scope[Block]) -> None:
    """Make *scope* ambient here."""
    request = request_here.get()
    if request is not None:
        request.opened(scope)
    _set(scope.instance.origin, _Held(scope, scope.worker(), bound=False))


def leave(scope: Scope[Block]) -> bool:
    """Make *scope* no longer ambient here; return whether it was."""
    request = request_here.get()
    if request is not None and scope.finished:
        request.closed(scope)
    held = _ambient.get().get(scope.instance.origin)
    if held is None or held.scope is not scope:
        return False
    _set(scope.instance.origin, None)
    return True


def leave_alone(scope: Scope[Block]) -> bool:
    """Do what :func:`leave` does, if *scope* is all that is ambient here; return whether it was done."""
    now = _ambient.get()
    if len(now) != 1 or request_here.get() is not None:
        return False
    held = now.get(scope.instance.origin)
    if held is None or held.scope is not scope:
        return False
    _ambient.set(NO_TRANSACTIONS)
    return True


class Binding:
    """``with tx.bind():`` makes a transaction ambient for the task or thread that runs the block."""

    _watch: object = None

    def __init__(self, scope: Scope[Block]) -> None:
        self._scope = scope
        self._before: _Held | None = None
        self._held: _Held | None = None

    def __enter__(self) -> None:
        scope, instance = self._scope, self._scope.instance
        self._before = _ambient.get().get(instance.origin)
        self._held = _Held(scope, instance.runtime.worker(), bound=True)
        scope.explicit_uses += 1
        _set(instance.origin, self._held)

    @surely
    def __exit__(self, *exc: object) -> None:
        self._finish()
        self._watch = None

    @property
    def _is_begun(self) -> bool:
        return self._held is not None

    def _finish(self) -> None:
        origin = self._scope.instance.origin
        if _ambient.get().get(origin) is self._held:
            _set(origin, self._before)


def _set(origin: Instance, held: _Held | None) -> None:
    # set, never reset(token): that raises in another context, and generators are finished in other contexts
    now = _ambient.get()
    if now is NO_TRANSACTIONS:
        if held is not None:
            _ambient.set({origin: held})
    elif len(now) > (origin in now):
        others = {other: value for other, value in now.items() if other is not origin}
        _ambient.set(others if held is None else {**others, origin: held})
    else:
        _ambient.set(NO_TRANSACTIONS if held is None else {origin: held})
