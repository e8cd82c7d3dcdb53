"""One view of a database: the overrides of ``using()``, and the checks that every call makes first."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol, Self

from prefiq_db.bridge import Runtime
from prefiq_db.call import NO_OVERRIDES, Overrides
from prefiq_db.config import RetryPolicy
from prefiq_db.errors import ClosedError, EventLoopError, UsageError
from prefiq_db.events import AttemptFailed
from prefiq_db.hooks.registry import Hooks
from prefiq_db.insight.statistics import StatementStatistics
from prefiq_db.overrides import NO_SCOPES, OverrideScope, check_overrides, overrides_in_scope, scopes_here
from prefiq_db.retry import Retrier
from prefiq_db.retry_budget import RetryBudget
from prefiq_db.settings import DatabaseSettings
from prefiq_db.silence import hush


class Observing(Protocol):
    """What counts the retries of a database."""

    @property
    def statistics(self) -> StatementStatistics: ...


class Shared(Protocol):
    """The part of an instance that a view uses, whatever kind of database it is."""

    closed: bool

    @property
    def origin(self) -> Any:
        """The instance itself, or the one that a tenant's belongs to: overrides are kept for it."""

    @property
    def observer(self) -> Observing: ...

    @property
    def retry_budget(self) -> RetryBudget: ...


class View:
    """A view of a database: the instance that all views share, and this view's own overrides."""

    settings: DatabaseSettings
    name: str
    runtime: Runtime
    instance: Shared
    hooks: Hooks
    view: Overrides

    def check_world(self) -> None:
        try:
            self.runtime.check()
        except RuntimeError:
            pass
        else:
            return
        raise EventLoopError(
            f"database {self.name} belongs to the event loop it was opened in; its connections can't move to another "
            "one: close() it there, or make an AsyncDatabase per loop",
            database=self.name,
        )

    def check_usable(self) -> None:
        if self.instance.closed:
            raise ClosedError(f"database {self.name} is closed; open() it again or make a new one", database=self.name)
        self.check_world()

    def admit(self) -> Overrides:
        """Return the overrides in force, or raise if the database is closed or belongs to another event loop."""
        if self.instance.closed or self.runtime.is_async:
            self.check_usable()
        return self.view if scopes_here() is NO_SCOPES else self.overrides()

    # --- overrides -------------------------------------------------------------------------------

    def using(self, given: Mapping[str, Any]) -> Self:
        """Return the same database with other defaults."""
        other = copy.copy(self)
        other.view = self.checked(given).over(self.view)
        return other

    def override(self, given: Mapping[str, Any], *, inherit: bool = True) -> OverrideScope:
        if not isinstance(inherit, bool):
            raise UsageError("override inherit: expected True or False")
        return OverrideScope(self.instance.origin, self.checked(given), inherit=inherit)

    def checked(self, given: Mapping[str, Any]) -> Overrides:
        """Return the overrides *given*, validated for this kind of database."""
        return check_overrides(given)

    def overrides(self) -> Overrides:
        if scopes_here() is NO_SCOPES:
            return self.view
        here = overrides_in_scope(self.instance.origin)
        return self.view if here is NO_OVERRIDES else self.view.over(here)

    def schema_of(self, given: Overrides) -> str | None:
        """Return the namespace that *given* choose; ``None``: the session's own."""
        return None

    # --- retries ---------------------------------------------------------------------------------

    def policy(self, given: Overrides, retry: RetryPolicy | None = None) -> RetryPolicy:
        policy = retry or given.retry or self.settings.retry
        if given.timeout is not None and given.timeout < policy.total_seconds:
            policy = replace(policy, total_seconds=given.timeout)
        return policy

    def retrier(
        self, given: Overrides, repeatable: Callable[[BaseException], bool], retry: RetryPolicy | None = None
    ) -> Retrier:
        return Retrier(
            self.policy(given, retry),
            self.runtime.sleep,
            repeatable,
            database=self.name,
            on_retry=self.note_retry,
            budget=self.instance.retry_budget,
        )

    def note_retry(self, event: AttemptFailed) -> None:
        self.instance.observer.statistics.note_retry(event.kind)
        self.hooks.emit(replace(event, database=self.name))

    # --- silence ---------------------------------------------------------------------------------

    def hush(self, error: BaseException) -> None:
        """Remove the verb's arguments from the frames that *error* passed through; see :mod:`prefiq_db.silence`.

        The caller deletes its own variables. Does nothing where masking is off, in development.
        """
        if self.settings.masked:
            hush(error)
