"""A copy of MariaDB's has all that the template has, and becomes that again after a test."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from prefiq_db.testing import DatabaseServer
from prefiq_db.testing.isolation.copying_mariadb import Template, _Schema

pytestmark = pytest.mark.mariadb

MADE = (
    "create sequence number start with 5",
    "create table parent (id integer primary key auto_increment, name varchar(20) collate utf8mb4_bin not null unique)",
    "create table child (id integer primary key auto_increment, parent integer references parent (id),"
    " qty integer, twice integer as (qty * 2) stored, note json, constraint positive check (qty >= 0))",
    "set sql_mode = 'NO_AUTO_VALUE_ON_ZERO'",
    "insert into child (id, qty) values (0, 4), (7, null)",
    "insert into parent (id, name) values (3, 'a'), (4, 'b')",
    "create function doubled(x integer) returns integer deterministic return x * 2",
    "create procedure quiet() begin declare continue handler for sqlexception begin end; select 1; select 2; end",
    "create view both_of_them as select parent.name, child.id from parent join child on child.parent = parent.id",
    "create table loud (id integer primary key, name varchar(20))",
    "insert into loud values (1, 'quiet')",
    "create trigger shout before insert on loud for each row set new.name = upper(new.name)",
)


class Copied:
    """A copy of the database *source*."""

    def __init__(self, server: DatabaseServer, source: str) -> None:
        self.server, self.source = server, source
        self.copy = server.create_database()
        self.template = Template(server.connect(source), source)
        self.template.copy_to(server.connect(self.copy))

    def state(self, database: str) -> Any:
        """Return the schema of a database, and all of its rows."""
        with closing(self.server.connect(database)) as connection, connection.cursor() as cursor:
            schema = _Schema.read(cursor)
            rows = {}
            for table in schema.tables:
                cursor.execute(f"select * from {table} order by id")
                rows[table] = cursor.fetchall()
            return schema, rows

    def change(self, *statements: str) -> None:
        for statement in statements:
            self.server.execute(statement, self.copy)

    def restored(self) -> bool:
        return self.template.restore(self.server.connect(self.copy))


@pytest.fixture(scope="module")
def source(mariadb_server: DatabaseServer) -> str:
    database = mariadb_server.create_database()
    with closing(mariadb_server.connect(database)) as connection, connection.cursor() as cursor:
        for statement in MADE:
            cursor.execute(statement)
    return database


@pytest.fixture
def copied(mariadb_server: DatabaseServer, source: str) -> Copied:
    return Copied(mariadb_server, source)


def test_a_copy_is_like_the_template(copied: Copied) -> None:
    schema, rows = copied.state(copied.source)
    assert copied.state(copied.copy) == (schema, rows)
    assert rows["child"][0][:4] == (0, None, 4, 8)
    assert schema.tables.keys() == {"parent", "child", "loud"}
    assert len(schema.others) == 7  # a view; two routines and a trigger, each with its mode


def test_what_a_test_does_to_rows_is_taken_back(copied: Copied) -> None:
    before = copied.state(copied.copy)
    copied.change(
        "insert into parent (name) values ('c')",
        "update child set parent = 3",
        "delete from child where id = 7",
        "select nextval(number)",
        "create table made (id integer)",
    )
    assert copied.restored()
    assert copied.state(copied.copy) == before
    assert copied.server.execute("select nextval(number)", copied.copy) == [(5,)]


@pytest.mark.parametrize(
    "change",
    [
        "alter table child add column more integer",
        "drop table child",
        "drop trigger shout",
        "create view another as select 1 as one",
        "insert into loud values (2, 'a')",  # to fill it again, the trigger would change what is filled
    ],
)
def test_what_cannot_be_taken_back_is_not_used_again(copied: Copied, change: str) -> None:
    copied.change(change)
    assert not copied.restored()
