"""What would end a transaction unseen is refused by name: in blocks, in texts that become statements, in comments."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import sqlalchemy as sa

from prefiq_db.errors import StatementRefusedError
from prefiq_db.execution.statement_facts import facts_of_text
from tests.conftest import Backend
from tests.twins.support import COUNT_STOCK, CREATE_STOCK, INSERT_STOCK

_HIDDEN = {
    "mariadb": [
        "execute immediate 'commit'",
        "execute immediate 'drop table if exists nothing'",
        "execute immediate concat('com', 'mit')",
        "begin not atomic commit; end",
        "begin not atomic select 1; commit; start transaction; end",
        "begin not atomic if 1 then rollback; end if; end",
        "begin not atomic create table other (id integer); end",
        "if 1 then commit; end if",
        "#x\ncommit",
        "#x\ncreate table other (id integer)",
        "check table stock",
        "analyze table stock",
        "set password = 'x'",
        "/*!999999 ' */ commit -- '",
        "prepare s from 'commit'",
        "prepare s from @x",
        "execute s",
    ],
    "postgresql": [r"select E'\'' ; commit; --'", "select 1 /* /* */ */; commit", "select 1; commit"],
    "sqlite": ["commit", "select 1; commit"],
}


async def test_a_commit_that_hides_is_refused(db: Any, backend: Backend) -> None:
    """As text, in text() and in text().columns(), on the connection and in a session: nothing before it is kept."""
    await db.execute(CREATE_STOCK)
    for hidden in _HIDDEN[backend.name]:
        with pytest.raises(LookupError):
            async with db.transaction() as tx:
                await tx.execute(INSERT_STOCK, {"id": 1, "quantity": 1})
                for statement in (hidden, sa.text(hidden), sa.text(hidden).columns(sa.column("a", sa.Integer))):
                    with pytest.raises(StatementRefusedError):
                        await tx.execute(statement)
                    with pytest.raises(StatementRefusedError):
                        await db.fetch_all(statement)
                raise LookupError
        assert await db.fetch_value(COUNT_STOCK) == 0, hidden
        assert tx.outcome == "not committed"


async def test_a_session_in_a_transaction_refuses_it_too(db: Any, backend: Backend) -> None:
    """The guard looks at what is sent on the pinned connection, whoever sends it."""
    await db.execute(CREATE_STOCK)
    with pytest.raises(LookupError):
        async with db.transaction() as tx:
            await tx.execute(INSERT_STOCK, {"id": 1, "quantity": 1})
            async with db.session() as session:
                for hidden in _HIDDEN[backend.name]:
                    with pytest.raises(StatementRefusedError):
                        await session.execute(sa.text(hidden))
            raise LookupError
    assert await db.fetch_value(COUNT_STOCK) == 0


# SHUTDOWN is not tried.
_COMMITTING = [
    "create table other (id integer)",
    "alter table other add column b integer",
    "create index other_b on other (b)",
    "rename table other to third",
    "truncate table third",
    "drop table third",
    "drop table if exists third",
    "create or replace view v as select 1",
    "drop view v",
    "create procedure p() select 1",
    "drop procedure p",
    "create sequence s",
    "alter sequence s restart",
    "drop sequence s",
    "analyze table stock",
    "check table stock",
    "optimize table stock",
    "repair table stock",
    "flush status",
    "reset query cache",
    "grant select on stock to nobody_there",
    "revoke select on stock from nobody_there",
    "create user if not exists prefiq_other",
    "drop user prefiq_other",
    "set password for nobody_there = 'x'",
    "set default role none",
    "install soname 'nothing'",
    "uninstall soname 'nothing'",
    "lock tables stock write",
    "begin not atomic drop table if exists third; end",
]
_NOT_COMMITTING = [
    "create temporary table other (id integer)",
    "drop temporary table other",
    "select 1",
    "do 1",
    "show tables",
    "handler stock open",
    "analyze select 1",
    "checksum table stock",
    "set names utf8mb4",
    "begin not atomic select 1; end",
    "execute immediate 'select 1'",
    "insert into stock values (9, 9)",
]


@pytest.mark.parametrize("statement", [*_COMMITTING, *_NOT_COMMITTING])
def test_the_table_knows_what_the_server_does(statement: str, mariadb_server: Any) -> None:
    """MariaDB itself is asked: the transaction is over after each that the table calls committing, and no other."""
    import pymysql

    database = mariadb_server.create_database()
    url = sa.make_url(mariadb_server.url(database))
    connection = pymysql.connect(
        host=url.host or "", port=url.port or 0, user=url.username, password=url.password or "", database=database
    )
    try:
        cursor = connection.cursor()
        cursor.execute(CREATE_STOCK)
        cursor.execute("create table other (id integer, b integer)")
        for before in _PREPARE.get(statement.split()[1], ()):
            cursor.execute(before)
        cursor.execute("start transaction")
        cursor.execute("insert into stock values (1, 1)")
        with contextlib.suppress(pymysql.MySQLError):  # one that fails has committed all the same
            cursor.execute(statement)
        cursor.execute("unlock tables")
        cursor.execute("select @@in_transaction")
        row = cursor.fetchone()
        assert row is not None
        assert (row[0] == 0) is bool(facts_of_text(statement, "mariadb").commits)
    finally:
        connection.close()


_PREPARE = {
    "index": ["create or replace table other (id integer, b integer)"],
    "table": ["drop table if exists third", "create or replace table other (id integer)"],
    "view": ["create view v as select 1"],
    "procedure": [],
    "sequence": ["create or replace sequence s"],
}


async def test_a_prepared_statement_that_can_be_read_is_let_through(db: Any, backend: Backend) -> None:
    """A literal is judged like the statement in it."""
    if backend.name != "mariadb":
        pytest.skip("MariaDB's way")
    async with db.transaction() as tx:
        assert await tx.fetch_value("execute immediate 'select 7'") == 7
        assert await tx.fetch_value("begin not atomic declare n int default 8; select n; end") == 8
