"""The tenants of a database: which schema or database the overrides in force choose, and what may be called there."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Self

from prefiq_db.call import Overrides
from prefiq_db.core.transactions import Transactions
from prefiq_db.errors import UsageError
from prefiq_db.execution.direct import DirectRoad
from prefiq_db.execution.target_tables import TargetTables
from prefiq_db.instance import Instance
from prefiq_db.tenants import beside
from prefiq_db.transaction import Block, Scope, ambient, is_adopted, of_another_tenant


class TenantView(Transactions):
    """A view of an SQL database, whose overrides may choose a tenant."""

    instance: Instance
    road: DirectRoad
    has_namespaces: bool

    def checked(self, given: Mapping[str, Any]) -> Overrides:
        """Return the overrides *given*, validated for this kind of database; look for tenants from now on."""
        checked = super().checked(given)
        if self.database_of(checked) is not None:
            beside(self.instance.target, "checked")  # in memory there is no place for one
            self.instance.origin.has_tenants = True
        return checked

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
