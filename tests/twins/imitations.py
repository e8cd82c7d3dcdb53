"""Triggers that speak like the server: any text, under any code, with a value in a name's place."""

from __future__ import annotations

from typing import Any

from tests.conftest import Backend

_IN_SQLITE = ("raise(abort, 'no such table: {0}')", "raise(fail, 'UNIQUE constraint failed: {0}.{0}')")
# SQLSTATE, the text with a % for the value, and what else is said.
_IN_POSTGRESQL = (
    ("42P01", 'relation "%" does not exist', ""),
    ("42703", 'column "%" does not exist', ""),
    ("23505", "duplicate %", ", constraint = new.sku, table = new.sku, column = new.sku"),
    ("2BP01", "cannot drop table % because other objects depend on it", ", hint = new.sku"),
)
_IN_MARIADB = (
    ("42S02", 1146, "Table 'shop.%' doesn't exist"),
    ("42S22", 1054, "Unknown column '%' in 'SELECT'"),
    ("23000", 1062, "Duplicate entry '1' for key '%'"),
    ("23000", 1048, "Column '%' cannot be null"),
    ("23000", 4025, "CONSTRAINT `%` failed for `a`.`%`"),
    ("HY000", 1005, "Can't create table `a`.`%` (errno: 150 %)"),
)


def how_many(backend: Backend) -> int:
    """Return how many imitations there are."""
    return len({"sqlite": _IN_SQLITE, "postgresql": _IN_POSTGRESQL, "mariadb": _IN_MARIADB}[backend.name])


async def imitate(db: Any, backend: Backend, table: str, number: int, *, constant: str = "") -> None:
    """Let every insert into *table* fail in the server's words, with the value of its column ``sku`` as the name.

    SQLite's RAISE takes a constant only: *constant*.
    """
    head = f"before insert on {table} for each row"
    if backend.name == "sqlite":
        await db.execute("drop trigger if exists told")
        body = _IN_SQLITE[number].format(constant)
        await db.execute(f"create trigger told before insert on {table} begin select {body}; end")
        return
    assert backend.server is not None
    # As the administrator: a verb would take the body for several statements.
    database = str(db.engine.url.database)
    if backend.name == "postgresql":
        code, text, more = _IN_POSTGRESQL[number]
        values = ", new.sku" * text.count("%")
        body = f"begin raise exception '{text}'{values} using errcode = '{code}'{more}; end"
        backend.server.execute(
            f"create or replace function told() returns trigger language plpgsql as $$ {body} $$", database
        )
        backend.server.execute(f"create or replace trigger told {head} execute function told()", database)
    else:
        state, errno, text = _IN_MARIADB[number]
        quoted = text.replace("'", "''")
        body = f"declare m varchar(200) default replace('{quoted}', '%', new.sku);"
        body += f" signal sqlstate '{state}' set mysql_errno = {errno}, message_text = m;"
        backend.server.execute(f"create or replace trigger told {head} begin {body} end", database)
