"""A mistake in SQL can be read: it says what is wrong, names the name, and never takes a value for one."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import sqlalchemy as sa

from prefiq_db import PrefiqDbError
from prefiq_db.errors import DatabaseError, ErrorKind, SubKind
from prefiq_db.translation.statement_names import Written
from tests.conftest import Backend
from tests.twins.imitations import how_many, imitate

VALUE = "hunter2canary"
_ITEM = "create table item (id integer primary key, sku varchar(20) not null, qty integer)"
_OTHER = "create table other (id integer primary key)"

# Kind of mistake, the statement, and what is named.
_MISTAKES: list[tuple[SubKind, str, str]] = [
    (SubKind.MISSING, "select * from nowhere", "table nowhere"),
    (SubKind.MISSING, "insert into nowhere (id) values (1)", "table nowhere"),
    (SubKind.MISSING, "select nothing_here from item", "column nothing_here"),
    (SubKind.MISSING, "select i.nothing_here from item i", "column nothing_here"),
    (SubKind.MISSING, "update item set nothing_here = 1", "column nothing_here"),
    (SubKind.MISSING, "insert into item (id, nothing_here) values (1, 2)", "column nothing_here"),
    (SubKind.MISSING, "select no_function(1)", "function no_function"),
    (SubKind.AMBIGUOUS, "select id from item, other", "column id"),
    (SubKind.DUPLICATE, "create table item (id integer)", "table item"),
    (SubKind.DUPLICATE, "create index ix_item on item (sku)", "index ix_item"),
    (SubKind.DUPLICATE, "alter table item add column sku integer", "column sku"),
    (SubKind.MISSING, "drop table nowhere", "table nowhere"),
    (SubKind.MISSING, "alter table item drop column nothing_here", "column nothing_here"),
]
_SAYS = {
    SubKind.MISSING: "missing",
    SubKind.DUPLICATE: "there already",
    SubKind.AMBIGUOUS: "ambiguous",
    SubKind.DEPENDENT: "depend on",
    SubKind.WRONG_TYPE: "wrong type",
}
_WRONG_TYPE = {
    "sqlite": ("insert into strict_item values ('a')", "column n"),
    "postgresql": ("insert into item (id, sku, qty) values (1, 'a', now())", "column qty"),
    "mariadb": (f"insert into item (id, sku, qty) values (1, 'a', '{VALUE}')", "column qty"),
}


async def _prepared(db: Any) -> None:
    for sql in (_ITEM, _OTHER, "create index ix_item on item (sku)"):
        await db.execute(sql)


def _shown(error: PrefiqDbError) -> str:
    return f"{error} {error!r} {error.__dict__} {pickle.dumps(error).decode('latin-1')}"


async def _refused(db: Any, sql: Any, params: Any = None) -> DatabaseError:
    with pytest.raises(DatabaseError) as caught:
        await db.execute(sql, params)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    return caught.value


async def test_each_mistake_says_what_it_is_and_names_the_name(db: Any, backend: Backend) -> None:
    """Table missing, table there already, column missing, function missing, ambiguous name, wrong type."""
    await _prepared(db)
    for sub_kind, sql, named in _MISTAKES:
        error = await _refused(db, sql)
        assert (error.kind, error.sub_kind) == (ErrorKind.SCHEMA, sub_kind), sql
        assert _SAYS[sub_kind] in str(error), sql
        assert f"{named}," in str(error), (sql, str(error))
        noun, _, name = named.partition(" ")
        assert getattr(error, noun, name) == name, sql
        migrated = (
            sub_kind is SubKind.MISSING and noun in ("table", "column") and sql.split()[0] not in ("drop", "alter")
        )
        assert ("are all migrations applied?" in str(error)) is migrated, sql
    if backend.name == "sqlite":
        await db.execute("create table strict_item (n integer) strict")
    sql, named = _WRONG_TYPE[backend.name]
    error = await _refused(db, sql)
    assert (error.kind, error.sub_kind) == (ErrorKind.DATA, SubKind.WRONG_TYPE)
    assert "wrong type" in str(error)
    assert named in str(error)
    assert VALUE not in str(error)


async def test_core_lists_and_sessions_say_it_too(db: Any, backend: Backend) -> None:
    """The names come out of the compiled statement, whoever sends it."""
    nowhere = sa.table("nowhere", sa.column("id", sa.Integer))
    said = [await _refused(db, sa.select(nowhere.c.id)), await _refused(db, sa.insert(nowhere), {"id": 1})]
    with pytest.raises(DatabaseError) as caught:
        await db.execute_many(sa.insert(nowhere), [{"id": 1}, {"id": 2}])
    said.append(caught.value)
    with pytest.raises(DatabaseError) as caught:
        async with db.session() as session:
            await session.execute(sa.select(nowhere.c.id))
    said.append(caught.value)
    for error in said:
        assert (error.sub_kind, error.table) == (SubKind.MISSING, "nowhere")
        assert "table nowhere" in str(error)


async def test_a_forgotten_quote_shows_no_value(db: Any, backend: Backend) -> None:
    """A value in the text without its quotes is a name to the server, and stays hidden; the advice says what it is."""
    await _prepared(db)
    texts = [
        f"select * from item where sku = {VALUE}",
        f"insert into item values (1, {VALUE}, 1)",
        f"update item set sku = {VALUE}",
        f"select * from item where sku in ('a', {VALUE})",
        f"select lower({VALUE})",
    ]
    if backend.name == "postgresql":  # elsewhere double quotes make a string
        texts += [f'select * from item where sku = "{VALUE}"', f'select concat(sku, "{VALUE}") from item']
    for sql in texts:
        error = await _refused(db, sql)
        assert (error.kind, error.sub_kind, error.column) == (ErrorKind.SCHEMA, SubKind.MISSING, None)
        assert VALUE not in _shown(error)
        assert "forgotten" in str(error)


async def test_who_imitates_the_servers_words_gets_no_name_shown(make_db: Any, backend: Backend) -> None:
    """RAISE and SIGNAL write any text, with any code; what they put in a name's place is a value."""
    db = make_db()
    await _prepared(db)
    for number in range(how_many(backend)):
        await imitate(db, backend, "item", number, constant=VALUE)
        bound = await _refused(db, "insert into item values (:id, :sku, 1)", {"id": 1, "sku": VALUE})
        literal = await _refused(db, f"insert into item values (1, '{VALUE}', 1)")
        for error in (bound, literal):
            assert VALUE in str(error.original)  # it was imitated indeed
            assert VALUE not in _shown(error), number
            assert (error.table, error.column, error.constraint) == (None, None, None)


@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)
async def test_what_is_dropped_is_called_by_the_servers_own_nouns(db: Any, backend: Backend) -> None:
    """Whoever raises an error of his own could write any word there."""
    await _prepared(db)
    assert backend.server is not None
    text = "concat('Can''t DROP ', new.sku, ' `x`; check that it exists')"
    body = f"declare m varchar(200) default {text}; signal sqlstate '42000' set mysql_errno = 1091, message_text = m;"
    database = str(db.engine.url.database)
    backend.server.execute(f"create trigger told before insert on item for each row begin {body} end", database)
    error = await _refused(db, "insert into item values (1, :sku, 1)", {"sku": "MARIA CALLAS"})
    assert "MARIA CALLAS" in str(error.original)
    assert "callas" not in _shown(error).lower()


@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)
async def test_control_a_text_that_is_believed_shows_the_value(
    db: Any, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a look at the statement, SIGNAL in the server's words makes a value a table's name."""
    await _prepared(db)
    monkeypatch.setattr(Written, "says", lambda self, name: True)
    await imitate(db, backend, "item", 0)
    error = await _refused(db, "insert into item values (:id, :sku, 1)", {"id": 1, "sku": VALUE})
    assert error.table == VALUE
    assert VALUE in str(error)


async def test_two_statements_in_one_text_are_one_clear_refusal(db: Any, backend: Backend) -> None:
    """The same words on every database."""
    with pytest.raises(PrefiqDbError) as caught:
        await db.fetch_all("select 1; select 2")
    assert "several statements in one text: send one statement per call" in str(caught.value)
