"""One view of a database: the overrides of ``using()``, and the checks that every call makes first."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Self

from prefiq_db.bridge import Runtime
from prefiq_db.call import NO_OVERRIDES, Overrides
from prefiq_db.config import RetryPolicy
from prefiq_db.errors import ClosedError, EventLoopError, UsageError
from prefiq_db.events import AttemptFailed
from prefiq_db.execution.direct import DirectRoad
from prefiq_db.execution.target_tables import TargetTables
from prefiq_db.hooks.registry import Hooks
from prefiq_db.instance import Instance
from prefiq_db.overrides import OverrideScope, check_overrides, overrides_in_scope
from prefiq_db.retry import Retrier
from prefiq_db.settings import DatabaseSettings
from prefiq_db.silence import hush
from prefiq_db.tenants import beside
from prefiq_db.transaction import Block, Scope, ambient, is_adopted, of_another_tenant


class View:
    """A view of a database: the instance that all views share, and this view's own overrides."""

    settings: DatabaseSettings
    name: str
    runtime: Runtime
    instance: Instance
    hooks: Hooks
    road: DirectRoad
    has_namespaces: bool
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
        here = overrides_in_scope(self.instance.origin)  # same as overrides(); inlined because every call runs it
        return self.view if here is NO_OVERRIDES else self.view.over(here)

    # --- overrides -------------------------------------------------------------------------------

    def using(self, given: Mapping[str, Any]) -> Self:
        """Return the same database with other defaults."""
        other = copy.copy(self)
        other.view = self._checked(given).over(self.view)
        return other

    def override(self, given: Mapping[str, Any], *, inherit: bool = True) -> OverrideScope:
        if not isinstance(inherit, bool):
            raise UsageError("override inherit: expected True or False")
        return OverrideScope(self.instance.origin, self._checked(given), inherit=inherit)

    def _checked(self, given: Mapping[str, Any]) -> Overrides:
        """Return the overrides *given*, validated for this kind of database; look for tenants from now on."""
        checked = check_overrides(given)
        if self.database_of(checked) is not None:
            beside(self.instance.target, "checked")  # in memory there is no place for one
            self.instance.origin.has_tenants = True
        return checked

    def overrides(self) -> Overrides:
        here = overrides_in_scope(self.instance.origin)
        return self.view if here is NO_OVERRIDES else self.view.over(here)

    # --- tenants ---------------------------------------------------------------------------------

    def schema_of(self, given: Overrides) -> str | None:
        """Return the namespace that *given* choose; ``None``: the session's own."""
        return given.schema if self.has_namespaces else None

    def database_of(self, given: Overrides) -> str | None:
        """Return the database that *given* choose; ``None``: the one of the settings.

        Raises:
            UsageError: there are two, because a schema is a database here.
        """
        if self.has_namespaces or given.schema is None:
            return given.database
        if given.database not in (None, given.schema):
            raise UsageError(
                "override schema and database: here a schema is a database, so they contradict each other; give one"
            )
        return given.schema

    def here(self) -> Self:
        """Return the same view of the tenant's database that the overrides in force choose; without any I/O."""
        name = self.database_of(self.overrides())
        if name == self.instance.tenant:
            return self
        if self.instance.origin.closed:
            self.check_usable()
        other = copy.copy(self)
        other.instance = instance = self.instance.origin if name is None else self.instance.origin.tenants.get(name)
        other.road = instance.road
        return other

    def ambient(self) -> Scope[Block] | None:
        """Return the transaction that the database's own verbs run in here, if any.

        Raises:
            NestingError: it is another tenant's.
            TransactionOwnershipError: this task or thread inherited it and did not open it.
        """
        scope = ambient(self.instance)
        if scope is not None and self.has_namespaces:
            self._check_schema(scope)
        return scope

    def _check_schema(self, scope: Scope[Block]) -> None:
        schema, own = self.overrides().schema, scope.blocks[0].options.schema
        if schema != own and not (schema is None and is_adopted(self.instance)):
            raise of_another_tenant(self.name)

    def tables(self, block: Block | None) -> TargetTables:
        """Return what is known of the tables that a call sees, in *block* or in the transaction that is open here."""
        if not self.has_namespaces:
            return self.instance.tables
        scope = self.ambient() if block is None else block.root.scope
        return self.instance.tables_in(
            self.schema_of(self.overrides()) if scope is None else scope.blocks[0].options.schema
        )

    def check_tenant(self, given: Overrides, block: Block) -> None:
        """Raise if *given* choose another tenant than that of *block*, whose ``tx`` the caller used."""
        schema = self.schema_of(given)
        if schema is not None and schema != block.root.options.schema:
            raise of_another_tenant(self.name)
        database = self.database_of(given)
        if database is not None and database != self.instance.tenant:
            raise of_another_tenant(self.name)

    def check_same_tenant(self, given: Overrides) -> None:
        """Raise if the overrides in force here choose another tenant than *given*, with which a call was prepared."""
        now = self.overrides()
        schema, database = self.schema_of(now), self.database_of(now)
        if schema not in (None, self.schema_of(given)) or database not in (None, self.instance.tenant):
            raise of_another_tenant(self.name)

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
