"""Names of tenants, where a tenant's database is, and which pools are kept."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefiq_db import Database, DatabaseSettings
from prefiq_db.errors import UnsupportedError, UsageError
from prefiq_db.tenants import beside, check_tenant_name

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}\Z")


@given(st.one_of(st.text(max_size=80), st.from_regex(r"[A-Za-z_]\w{0,70}"), st.integers(), st.binary(max_size=3)))
def test_only_identifiers_are_names(name: object) -> None:
    """Whatever it is, what is taken can stand in quotes in any SQL, and what is refused isn't repeated."""
    refusal = ""
    try:
        check_tenant_name("schema", name)
    except UsageError as error:
        refusal = str(error)
    if refusal:
        assert refusal.startswith("override schema: ")
        assert len(str(name)) < 12 or str(name) not in refusal
    else:
        assert isinstance(name, str)
        assert _PLAIN.match(name)


def test_a_tenants_file_is_beside_that_of_the_settings(tmp_path: Path) -> None:
    """With the same ending, in the same folder, whatever the working directory is."""
    for file, found in (("shop.db", "acme.db"), ("shop", "acme"), ("a.b/shop.sqlite3", "a.b/acme.sqlite3")):
        target = DatabaseSettings(url=f"sqlite:///{tmp_path / file}").target
        assert beside(target, "acme").database == str(tmp_path / found)


def test_a_tenants_database_is_on_the_same_servers() -> None:
    target = DatabaseSettings(url="postgresql://u:p@a:1,b:2/shop?keepalives=1").target
    tenant = beside(target, "acme")
    assert (tenant.database, tenant.hosts, tenant.user) == ("acme", target.hosts, "u")
    assert tenant.options == target.options


def test_a_database_in_memory_has_none_beside() -> None:
    with pytest.raises(UnsupportedError, match="in memory"):
        beside(DatabaseSettings(url="sqlite://").target, "acme")


def test_the_least_used_pools_give_way(tmp_path: Path) -> None:
    names = ("a", "b", "c", "d")
    for name in ("main", *names):
        with Database(f"sqlite:///{tmp_path / name}.db") as db:
            db.execute("create table item (sku text)")
    with Database(f"sqlite:///{tmp_path}/main.db", tenant_pools=2) as db:
        views = {name: db.using(database=name) for name in names}
        for name in ("a", "b", "a", "c"):
            views[name].execute("insert into item values ('x')")
        assert set(db.stats().tenant_pools) == {"a", "c"}
        with views["a"].transaction() as tx:
            tx.execute("insert into item values ('x')")
            assert views["a"].fetch_value("select count(*) from item") == 3
        assert [views[name].fetch_value("select count(*) from item") for name in names] == [3, 1, 1, 0]
        assert all(pool.idle == 1 for pool in db.stats().tenant_pools.values())
    assert db.stats().tenant_pools == {}
