"""A history of revisions: its metadata, its version table, its options for Alembic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from prefiq_db.errors import UsageError
from prefiq_db.migrate.autogenerate import JOINED, OUR_PREFIX, autogenerate_options

#: Records prefiq_db's own revisions; a service's own Alembic keeps ``alembic_version``.
VERSION_TABLE: Final = "prefiq_alembic_version"


@dataclass(frozen=True, slots=True)
class History:
    """A history as its ``env.py`` describes it.

    Attributes:
        target_metadata: the MetaData of its tables, or a list of them, or ``None``.
        version_table, version_table_schema: the table that records its revisions.
        configure: further arguments of Alembic's ``context.configure``.
        database: the name of the database that has its tables; ``None``: the requested one.
    """

    target_metadata: Any
    version_table: str
    version_table_schema: str | None = None
    configure: Mapping[str, Any] = field(default_factory=dict)
    database: str | None = None

    def choose_database(self, asked: str | None) -> str:
        """Return the name of the database to migrate.

        Raises:
            UsageError: the requested database is not the one that has these tables.
        """
        if self.database is not None and asked not in (None, self.database):
            raise UsageError(
                f"database: expected {self.database}, for which the env.py of this history is (database= of run), and"
                f" {asked} was asked for: leave --database, --all or -x db= out, or take the history of {asked}"
            )
        return asked or self.database or "main"

    def make_configuration(self, dialect: sa.Dialect) -> dict[str, Any]:
        """Return the arguments of ``context.configure`` for this history."""
        ours = self.version_table == VERSION_TABLE
        further = self.configure.get("include_name")
        joined = {key: self.configure[key] for key in JOINED if self.configure.get(key) is not None}
        return {
            "render_as_batch": True,
            **autogenerate_options(ours=ours, **joined),
            **{key: value for key, value in self.configure.items() if key not in JOINED},
            "include_name": further if ours else _hide_ours(further),
            "target_metadata": self.target_metadata,
            "version_table": self.version_table,
            "version_table_schema": self.version_table_schema,
        }


def _hide_ours(further: Callable[..., bool] | None) -> Callable[..., bool]:
    """Hide prefiq_db's tables: autogenerate would drop tables that a service's metadata doesn't have."""

    def include_name(name: str | None, type_: str, parent_names: Any) -> bool:
        if type_ == "table" and name is not None and name.startswith(OUR_PREFIX):
            return False
        return further is None or further(name, type_, parent_names)

    return include_name
