"""Overrides of settings for one view or one scope: ``using()`` and ``override()``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Final, Protocol, TypedDict

from prefiq_db.bridge import Runtime
from prefiq_db.call import NO_OVERRIDES, Overrides
from prefiq_db.config import RetryPolicy
from prefiq_db.errors import UnsupportedError, UsageError
from prefiq_db.execution.comments import comment
from prefiq_db.leaving import surely
from prefiq_db.marks import check_mark_text, enter_scope, leave_scope
from prefiq_db.tags import Tags
from prefiq_db.tenants import check_tenant_name
from prefiq_db.transaction import check_timeout

#: What no SQL database has, and why.
SQL_LACKS: Final[Mapping[str, str]] = MappingProxyType({})


class OverrideOptions(TypedDict, total=False):
    """The arguments of ``using`` and ``override``, for type checkers; see :class:`~prefiq_db.call.Overrides`."""

    timeout: float | None
    retry: RetryPolicy | None
    read_only: bool | None
    idempotent: bool | None
    tags: Mapping[str, str] | None
    schema: str | None
    database: str | None
    replica: bool | None
    after: str | None


def check_overrides(
    given: Mapping[str, Any],
    *,
    lacks: Mapping[str, str] = SQL_LACKS,
    check_database: Callable[[str, Any], None] = check_tenant_name,
) -> Overrides:
    """Return the overrides given as keywords, validated.

    Args:
        lacks: those that this kind of database doesn't have, and why.
        check_database: raises for what can't be the name of another database of this kind.

    Raises:
        UnsupportedError: for one that this kind of database doesn't have.
        UsageError: for an unknown one, or a value of the wrong type.
    """
    known = [field.name for field in fields(Overrides) if field.name not in lacks]
    for name in given:
        if name in lacks:
            raise UnsupportedError(f"override {name}: {lacks[name]}; supported are {', '.join(known)}")
        if name not in known:
            raise UsageError(f"override {name}: unknown; expected some of {', '.join(known)}")
    check_timeout(given.get("timeout"))
    if not isinstance(given.get("retry"), (RetryPolicy, type(None))):
        raise UsageError("override retry: expected a RetryPolicy; RetryPolicy(attempts=1) means no retry")
    for name in ("read_only", "idempotent", "replica"):
        if not isinstance(given.get(name), (bool, type(None))):
            raise UsageError(f"override {name}: expected True or False")
    for name, check in (("schema", check_tenant_name), ("database", check_database)):
        check(name, given.get(name))
    check_mark_text(given.get("after"))
    tags = given.get("tags")
    if tags is not None and not (
        isinstance(tags, Mapping) and all(isinstance(part, str) for item in tags.items() for part in item)
    ):
        raise UsageError("override tags: expected a mapping of words to words")
    if tags is None:
        return Overrides(**given)
    if tags:
        comment("-", tags)  # checks here, before any statement, that the tags can be sent
    return Overrides(**{**given, "tags": Tags(tags)})  # a copy: the caller may change theirs


class LiveOverrides(Protocol):
    """Overrides that may change while their scope is open, in every copy of the context: those of a request."""

    def now(self) -> Overrides:
        """Return them as of now."""


class Keyed(Protocol):
    """What scopes are kept for: a database."""

    @property
    def runtime(self) -> Runtime: ...


@dataclass(frozen=True, slots=True)
class _Held:
    """One scope that is in force here.

    Attributes:
        own: what it says itself.
        overrides: that, and what the scopes around it say; with *live* overrides only those inside of them.
        below: what the scopes around *live* overrides say, which weighs less than they do.
        worker: the only task or thread that it applies to; ``None``: whatever is started in it inherits it, too.
        is_shared: neither it nor any around it has a *worker*.
    """

    scope: OverrideScope
    own: Overrides
    overrides: Overrides
    outer: _Held | None
    live: LiveOverrides | None
    below: Overrides = NO_OVERRIDES
    worker: object = None
    is_shared: bool = True


NO_SCOPES: Final[Mapping[object, _Held | None]] = MappingProxyType({})
_scoped: ContextVar[Mapping[object, _Held | None]] = ContextVar("prefiq_db_overrides", default=NO_SCOPES)
#: returns ``NO_SCOPES`` where no overrides are in force, of whichever database
scopes_here: Final = _scoped.get


def overrides_in_scope(key: Keyed) -> Overrides:
    """Return the overrides in force here for the database *key*, including inherited ones.

    A task, or a thread with a copy of the context, that was started inside a scope keeps the scope's overrides even
    after the scope was left: ``read_only`` must not end silently.
    """
    held = _scoped.get().get(key)
    if held is not None and not held.is_shared:
        held = _as_seen_by(key.runtime.worker(), held)
    if held is None:
        return NO_OVERRIDES
    if held.live is None:
        return held.overrides
    live = held.live.now()
    if held.below is not NO_OVERRIDES:
        live = live.over(held.below)
    return live if held.overrides is NO_OVERRIDES else held.overrides.over(live)


class OverrideScope:
    """``with db.override(timeout=2):`` or ``async with``: applies to the code inside, and to tasks started there."""

    _watch: object = None

    def __init__(
        self, key: Keyed, overrides: Overrides, live: LiveOverrides | None = None, *, inherit: bool = True
    ) -> None:
        self._key = key
        self._inherit = inherit
        self._overrides = overrides
        self._live = live

    def __enter__(self) -> None:
        enter_scope(self)
        held = _scoped.get()
        worker = None if self._inherit else self._key.runtime.worker()
        _scoped.set({**held, self._key: _on_top(self, self._overrides, held.get(self._key), self._live, worker)})

    @surely
    def __exit__(self, *exc: object) -> None:
        self._finish()
        self._watch = None

    @property
    def _is_begun(self) -> bool:
        mine = _scoped.get().get(self._key)
        return mine is not None and mine.scope is self

    def _finish(self) -> None:
        # The previous state is kept in the context, not in this object: many tasks may be in the same scope at once.
        # Use set(), not reset(token): a generator may be finished in another context, which never entered the scope.
        leave_scope(self)
        held = _scoped.get()
        mine = _without(held.get(self._key), self)
        others = {key: each for key, each in held.items() if key is not self._key and each is not None}
        _scoped.set({**others, self._key: mine} if mine is not None else others or NO_SCOPES)

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *exc: object) -> None:
        self.__exit__(*exc)


def _on_top(
    scope: OverrideScope, own: Overrides, outer: _Held | None, live: LiveOverrides | None, worker: object
) -> _Held:
    if outer is None:
        return _Held(scope, own, own, None, live, worker=worker, is_shared=worker is None)
    is_shared = outer.is_shared and worker is None
    if live is None:
        return _Held(scope, own, own.over(outer.overrides), outer, outer.live, outer.below, worker, is_shared)
    # Of two requests, one inside the other, the inner one counts.
    return _Held(scope, own, own, outer, live, outer.overrides.over(outer.below), worker, is_shared)


def _as_seen_by(worker: object, held: _Held | None) -> _Held | None:
    """Return *held* without the scopes that apply to other tasks and threads than *worker*."""
    if held is None or held.is_shared:
        return held
    outer = _as_seen_by(worker, held.outer)
    if held.worker not in (None, worker):
        return outer
    return _on_top(held.scope, held.own, outer, held.scope._live, held.worker)


def _without(held: _Held | None, scope: OverrideScope) -> _Held | None:
    """Return *held* without the innermost entry of *scope*, at any depth: a generator may end only when collected."""
    if held is None or held.scope is scope:
        return None if held is None else held.outer
    outer = _without(held.outer, scope)
    return held if outer is held.outer else _on_top(held.scope, held.own, outer, held.scope._live, held.worker)
