"""Two tenants of each database, for the tests of ``schema`` and ``database``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa

from tests.conftest import Backend
from tests.twins.harness import make_database
from tests.twins.support import upgrade_schema

CREATE_ITEM = "create table item (sku varchar(20) primary key, qty integer not null)"
ADD = "insert into item (sku, qty) values (:sku, :qty)"
SKUS = "select sku from item order by sku"
ITEM = sa.Table(
    "item",
    sa.MetaData(),
    sa.Column("sku", sa.String(20), primary_key=True),
    sa.Column("qty", sa.Integer, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Tenants:
    """Two tenants of a database. All three have an empty table ``item``.

    Attributes:
        kind: the override that chooses one: ``schema`` or ``database``.
        names: of both.
        is_namespace: they are schemas of one database, so they share its connections and its tokens.
    """

    backend: Backend
    kind: str
    names: tuple[str, str]
    is_namespace: bool

    def over(self, number: int) -> dict[str, Any]:
        """Return the overrides that choose one."""
        return {self.kind: self.names[number]}

    def url(self, number: int) -> str:
        """Return the URL of a tenant's own database."""
        assert not self.is_namespace
        name = self.names[number]
        if self.backend.server is not None:
            return self.backend.server.url(name)
        return f"sqlite:///{Path(self.backend.url.removeprefix('sqlite:///')).with_name(name)}.db"

    async def rows(self, db: Any, number: int | None) -> list[str]:
        """Return what is stored for a tenant, or in the database of the settings."""
        view = db if number is None else db.using(**self.over(number))
        return [sku for (sku,) in await view.fetch_all(SKUS)]


@contextmanager
def two_tenants(backend: Backend, kind: str, free: dict[str, list[str]]) -> Iterator[Tenants]:
    """Yield two tenants of *backend*; *free* are databases that may be used."""
    server = backend.server
    if server is None:
        tenants = Tenants(backend, kind, ("acme", "globex"), is_namespace=False)
        yield _migrated(tenants)
    elif backend.name == "postgresql" and kind == "schema":
        database = urlsplit(backend.url).path.removeprefix("/")
        for name in ("acme", "globex"):
            server.execute(f"create schema {name}", database)
            server.execute(CREATE_ITEM.replace("item", f"{name}.item"), database)
        yield Tenants(backend, kind, ("acme", "globex"), is_namespace=True)
        for name in ("acme", "globex"):
            server.execute(f"drop schema {name} cascade", database)
    else:
        names = [free[backend.name].pop() if free[backend.name] else server.create_database() for _ in range(2)]
        yield _migrated(Tenants(backend, kind, (names[0], names[1]), is_namespace=False))
        for name in names:
            server.empty_database(name)
            free[backend.name].append(name)


def _migrated(tenants: Tenants) -> Tenants:
    from prefiq_db import Database

    for number in range(2):
        own = replace(tenants.backend, url=tenants.url(number))
        upgrade_schema(own)
        with Database(own.url, pool_size=1) as db:
            db.execute(CREATE_ITEM)
    return tenants


async def prepare_main(backend: Backend, db: Any) -> None:
    """Make the tables of the database of the settings."""
    upgrade_schema(backend)
    await db.execute(CREATE_ITEM)


__all__ = ["ADD", "ITEM", "SKUS", "Tenants", "make_database", "prepare_main", "two_tenants"]
