"""Every verb, with every kind of statement: the same words and the same answers on three databases in two worlds."""

from __future__ import annotations

import dataclasses
from typing import Any

import pydantic
import pytest
import sqlalchemy as sa
from sqlalchemy import text

from prefiq_db import RetryPolicy
from prefiq_db.errors import (
    ErrorKind,
    MappingError,
    NotNullViolationError,
    PrefiqDbError,
    SchemaError,
    StatementRefusedError,
    StatementSyntaxError,
    UniqueViolationError,
    UsageError,
)
from tests.conftest import Backend
from tests.twins.support import COUNT_STOCK, CREATE_STOCK, INSERT_STOCK, assert_silent

metadata = sa.MetaData()
items = sa.Table(
    "items",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("sku", sa.String(40), nullable=False, unique=True),
    sa.Column("quantity", sa.Integer, nullable=False, default=1),
)


@dataclasses.dataclass(frozen=True)
class Item:
    sku: str
    quantity: int


class ItemModel(pydantic.BaseModel):
    sku: str
    quantity: int


@pytest.fixture
def stock(db: Any, world: str, loop_runner: Any) -> Any:
    """The database with a table and three rows."""
    from tests.twins.harness import drive

    async def fill() -> None:
        await db.execute(sa.schema.CreateTable(items))
        rows = [{"sku": f"A{number}", "quantity": number} for number in (1, 2, 3)]
        await db.execute_many("insert into items (sku, quantity) values (:sku, :quantity)", rows)

    (loop_runner.run if world == "async" else drive)(fill())
    return db


# --- statements ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "select sku, quantity from items where quantity > :least order by sku",
        text("select sku, quantity from items where quantity > :least order by sku"),
        sa.select(items.c.sku, items.c.quantity).where(items.c.quantity > sa.bindparam("least")).order_by(items.c.sku),
    ],
    ids=["string", "text", "core"],
)
async def test_text_and_core_answer_alike(stock: Any, statement: Any) -> None:
    """A string, text() and a Core select give the same rows, by name and by place."""
    rows = await stock.fetch_all(statement, {"least": 1})
    assert rows == [("A2", 2), ("A3", 3)]
    assert [row.sku for row in rows] == ["A2", "A3"]
    assert (await stock.fetch_one(statement, {"least": 2})).quantity == 3
    assert await stock.fetch_value(statement, {"least": 2}) == "A3"


async def test_nothing_found_is_none_or_empty(stock: Any) -> None:
    """Without a row, fetch_all gives an empty list, fetch_one and fetch_value None."""
    statement = sa.select(items).where(items.c.sku == "none")
    assert await stock.fetch_all(statement) == []
    assert await stock.fetch_one(statement) is None
    assert await stock.fetch_value(statement) is None
    assert await stock.fetch_all(statement, into=dict) == []
    assert await stock.fetch_one(statement, into=dict) is None
    assert await stock.fetch_value(statement, into=int) is None


@pytest.mark.parametrize("verb", ["fetch_all", "fetch_one", "fetch_value"])
async def test_a_fetch_of_a_statement_without_rows_runs_it(stock: Any, verb: str) -> None:
    """A fetch verb on an UPDATE does the UPDATE and gives nothing."""
    found = await getattr(stock, verb)("update items set quantity = 9 where sku = :sku", {"sku": "A1"})
    assert found == ([] if verb == "fetch_all" else None)
    assert await stock.fetch_value("select quantity from items where sku = 'A1'") == 9


async def test_core_dml_and_constructs(stock: Any) -> None:
    """insert(), update(), delete(), union and a CTE run as they are."""
    await stock.execute(sa.insert(items).values(sku="B1"))
    assert (await stock.execute(sa.update(items).where(items.c.sku == "B1").values(quantity=5))).rowcount == 1
    union = sa.union_all(sa.select(items.c.sku), sa.select(items.c.sku))
    assert len(await stock.fetch_all(union)) == 8
    few = sa.select(items.c.sku, items.c.quantity).where(items.c.quantity < 3).cte("few")
    assert await stock.fetch_value(sa.select(sa.func.sum(few.c.quantity))) == 3
    assert (await stock.execute(sa.delete(items))).rowcount == 4


async def test_multi_line_sql_with_comments(stock: Any) -> None:
    """Line breaks, indentation and comments around a statement change nothing."""
    statement = """
        -- the ones we have
        select sku      /* its name */
          from items
         where quantity >= :least   -- not the few
         order by sku
         limit 1
    """
    assert await stock.fetch_value(statement, {"least": 2}) == "A2"


@pytest.mark.parametrize("params", [None, {"sku": "%"}], ids=["without params", "with params"])
async def test_percent_signs_and_colons_are_text(stock: Any, params: Any) -> None:
    """``%``, ``%s`` and colons that name no bind arrive as they are written."""
    statement = "select '100%', '%s %%', '12:30: ok', 'a::b', 7 % 4, '\\:sku'" + (", :sku" if params else "")
    found = await stock.fetch_one(statement, params)
    assert tuple(found)[:6] == ("100%", "%s %%", "12:30: ok", "a::b", 3, ":sku")
    assert await stock.fetch_value("select count(*) from items where sku like 'A%'") == 3


async def test_emoji_and_quoted_names(db: Any, backend: Backend) -> None:
    """Names that must be quoted and letters outside the basic plane travel both ways."""
    table = sa.Table("Order", sa.MetaData(), sa.Column("select", sa.String(20)), sa.Column("größe 🙂", sa.String(20)))
    if backend.name == "mariadb":  # its names stay in the basic plane
        table = sa.Table("Order", sa.MetaData(), sa.Column("select", sa.String(20)), sa.Column("größe", sa.String(20)))
    column = table.c[1]
    await db.execute(sa.schema.CreateTable(table))
    await db.execute(sa.insert(table).values({"select": "naïve 🦆", column.name: "日本 𝄞"}))
    assert await db.fetch_one(sa.select(table)) == ("naïve 🦆", "日本 𝄞")
    quote = "`" if backend.name == "mariadb" else '"'
    named = f"select {quote}{column.name}{quote} from {quote}Order{quote} where {quote}select{quote} = :duck"
    assert await db.fetch_value(named, {"duck": "naïve 🦆"}) == "日本 𝄞"
    assert await db.fetch_value("select '🦆'") == "🦆"


async def test_what_is_no_statement_is_refused_by_its_type(db: Any) -> None:
    """Something that is neither text nor Core raises UsageError and names the type, not the value."""
    for statement in (None, 5, b"select 1", object(), ["select 1"]):
        with pytest.raises(UsageError, match=f"statement: expected SQL text, .* not {type(statement).__name__}"):
            await db.execute(statement)


# --- into ----------------------------------------------------------------------------------------


async def test_rows_become_what_into_says(stock: Any) -> None:
    """A dataclass, a pydantic model, dict, a function of the row; for fetch_value a function of the value."""
    statement = "select sku, quantity from items order by sku"
    assert await stock.fetch_all(statement, into=Item) == [Item("A1", 1), Item("A2", 2), Item("A3", 3)]
    assert await stock.fetch_one(statement, into=ItemModel) == ItemModel(sku="A1", quantity=1)
    assert await stock.fetch_one(statement, into=dict) == {"sku": "A1", "quantity": 1}
    assert await stock.fetch_one(statement, into=lambda row: f"{row.sku}:{row.quantity}") == "A1:1"
    assert await stock.fetch_value("select quantity from items where sku = 'A3'", into=str) == "3"


async def test_a_row_that_does_not_fit_names_fields_and_no_value(stock: Any) -> None:
    """A missing or surplus column, or a value of the wrong kind, raises MappingError without the value."""
    with pytest.raises(MappingError, match=r"into=Item: .*no column for quantity") as missing:
        await stock.fetch_one("select sku from items where sku = 'A1'", into=Item)
    assert_silent(missing.value, "A1")
    with pytest.raises(MappingError, match="no field for colour"):
        await stock.fetch_all("select sku, quantity, 'planted' as colour from items", into=Item)
    with pytest.raises(MappingError, match=r"into=ItemModel: .*quantity: int_parsing") as wrong:
        await stock.fetch_one("select sku, 'planted' as quantity from items", into=ItemModel)
    assert_silent(wrong.value, "planted", "A1")
    with pytest.raises(UsageError, match="into: expected"):
        await stock.fetch_one("select 1", into=5)


async def test_an_error_of_the_callers_own_function_passes_as_it_is(stock: Any) -> None:
    """What a function given to into= raises is the caller's, not a database error, and the connection is free."""
    with pytest.raises(ZeroDivisionError):
        await stock.fetch_all("select quantity from items", into=lambda row: 1 // 0)
    assert stock.stats().pool.checked_out == 0


# --- what a statement did ------------------------------------------------------------------------


async def test_an_update_counts_the_rows_it_matched(stock: Any) -> None:
    """rowcount is the number of rows matched, also when the new value is the old one."""
    assert (await stock.execute("update items set quantity = 2 where quantity <= 2")).rowcount == 2
    assert (await stock.execute("update items set quantity = 2 where sku = 'none'")).rowcount == 0
    assert (await stock.execute("delete from items")).rowcount == 3


async def test_a_core_insert_tells_the_new_key(stock: Any) -> None:
    """inserted_primary_key is there for a Core insert of one row, and None for everything else."""
    first = (await stock.execute(sa.insert(items).values(sku="N1"))).inserted_primary_key
    second = (await stock.execute(sa.insert(items), {"sku": "N2"})).inserted_primary_key
    assert first is not None
    assert second is not None
    assert second[0] == first[0] + 1
    assert await stock.fetch_value(sa.select(items.c.sku).where(items.c.id == second[0])) == "N2"
    assert (await stock.execute(sa.insert(items).values(id=77, sku="N3"))).inserted_primary_key == (77,)
    assert (await stock.execute("insert into items (sku, quantity) values ('N4', 1)")).inserted_primary_key is None
    assert (await stock.execute(sa.insert(items).values([{"sku": "N5"}, {"sku": "N6"}]))).inserted_primary_key is None
    copied = sa.insert(items).from_select(["sku", "quantity"], sa.select(sa.literal("N7"), sa.literal(1)))
    assert (await stock.execute(copied)).inserted_primary_key is None
    async with stock.transaction() as tx:
        inside = (await tx.execute(sa.insert(items).values(sku="N8"))).inserted_primary_key
    assert await stock.fetch_value(sa.select(items.c.sku).where(items.c.id == inside[0])) == "N8"


async def test_returning_gives_rows(stock: Any) -> None:
    """RETURNING through fetch_all and fetch_one does the write, committed, and gives the rows."""
    made = sa.insert(items).values(sku="R1", quantity=4).returning(items.c.sku, items.c.quantity)
    assert await stock.fetch_one(made) == ("R1", 4)
    assert await stock.fetch_all("delete from items where sku = 'R1' returning quantity") == [(4,)]
    assert await stock.fetch_value(sa.select(sa.func.count()).select_from(items)) == 3


# --- execute_many --------------------------------------------------------------------------------


async def test_many_rows_are_counted(db: Any) -> None:
    """execute_many returns how many rows it touched, for text and for Core, in and outside a transaction."""
    await db.execute(CREATE_STOCK)
    assert await db.execute_many(INSERT_STOCK, [{"id": n, "quantity": n} for n in range(5)]) == 5
    changes = [{"id": n, "quantity": 9} for n in (1, 2, 77)]
    assert await db.execute_many("update stock set quantity = :quantity where id = :id", iter(changes)) == 2
    async with db.transaction() as tx:
        assert await tx.execute_many(INSERT_STOCK, [{"id": 10, "quantity": 1}]) == 1
        assert await db.execute_many(INSERT_STOCK, [{"id": 11, "quantity": 1}, {"id": 12, "quantity": 1}]) == 2
    assert await db.fetch_value(COUNT_STOCK) == 8


async def test_no_rows_is_nothing_to_do(db: Any) -> None:
    """An empty list sends nothing and returns 0."""
    before = db.stats().statement_count
    assert await db.execute_many(INSERT_STOCK, []) == 0
    async with db.transaction() as tx:
        assert await tx.execute_many(INSERT_STOCK, iter(())) == 0
    assert db.stats().statement_count == before


@pytest.mark.parametrize("core", [False, True], ids=["text", "core"])
async def test_many_rows_are_all_or_nothing(db: Any, core: bool) -> None:
    """When a row in the middle fails, none of them is there."""
    await db.execute(CREATE_STOCK)
    table = sa.table("stock", sa.column("id", sa.Integer), sa.column("quantity", sa.Integer))
    statement = sa.insert(table) if core else INSERT_STOCK
    rows = [{"id": n, "quantity": 4711} for n in (1, 2, 3, 2, 5)]
    with pytest.raises(UniqueViolationError) as failure:
        await db.execute_many(statement, rows)
    assert_silent(failure.value, "4711")
    assert await db.fetch_value(COUNT_STOCK) == 0


@pytest.mark.parametrize("verb", ["update", "insert"])
async def test_half_a_batch_is_never_committed_by_who_swallows_its_error(db: Any, verb: str) -> None:
    """Inside a transaction, too: after a failed batch nothing of it can be committed, on any database."""
    await db.execute(CREATE_STOCK)
    await db.execute_many(INSERT_STOCK, [{"id": 1, "quantity": 1}, {"id": 2, "quantity": 1}])
    statement = INSERT_STOCK if verb == "insert" else "update stock set quantity = :quantity where id = :id"
    rows: list[dict[str, Any]] = [{"id": 7, "quantity": 7}, {"id": 1, "quantity": None}]
    rows[0]["id"] = 7 if verb == "insert" else 2
    with pytest.raises(PrefiqDbError) as refused:
        async with db.transaction() as tx:
            with pytest.raises(NotNullViolationError):
                await tx.execute_many(statement, rows)
            await tx.execute("update stock set quantity = 100 where id = 1")
    assert refused.value.kind is ErrorKind.USAGE
    assert await db.fetch_all("select id, quantity from stock order by id") == [(1, 1), (2, 1)]


async def test_half_a_batch_in_a_nested_block_costs_only_the_block(db: Any) -> None:
    """A failed batch in a nested block undoes the block; the outer one goes on."""
    await db.execute(CREATE_STOCK)
    async with db.transaction() as tx:
        await tx.execute(INSERT_STOCK, {"id": 1, "quantity": 1})
        with pytest.raises(UniqueViolationError):
            async with db.transaction():
                await db.execute_many(INSERT_STOCK, [{"id": 2, "quantity": 1}, {"id": 1, "quantity": 1}])
        await tx.execute(INSERT_STOCK, {"id": 3, "quantity": 1})
    assert await db.fetch_all("select id from stock order by id") == [(1,), (3,)]


async def test_wrong_rows_are_refused_by_place_and_type(db: Any) -> None:
    """What is no sequence of mappings raises UsageError with the place and the type, before anything is sent."""
    before = db.stats().statement_count
    for rows, message in (
        ({"id": 4711}, "rows: expected a sequence of mappings"),
        ("4711", "rows: expected a sequence of mappings"),
        ([{"id": 1}, (4711, 2)], r"rows\[1\]: expected a mapping .* not tuple"),
    ):
        with pytest.raises(UsageError, match=message) as failure:
            await db.execute_many(INSERT_STOCK, rows)
        assert_silent(failure.value, "4711")
        async with db.transaction() as tx:
            with pytest.raises(UsageError, match=message):
                await tx.execute_many(INSERT_STOCK, rows)
    assert db.stats().statement_count == before


# --- params --------------------------------------------------------------------------------------


async def test_wrong_params_are_refused_by_type(db: Any) -> None:
    """params that are no mapping raise UsageError with the type, never with what is in them."""
    for params in (("planted",), ["planted"], "planted", 4711, [{"sku": "planted"}]):
        with pytest.raises(UsageError, match=f"params: .* not {type(params).__name__}") as failure:
            await db.fetch_all("select :sku", params)
        assert_silent(failure.value, "planted", "4711")
        async with db.transaction() as tx:
            with pytest.raises(UsageError, match="params: "):
                await tx.execute("select :sku", params)


@pytest.mark.parametrize("inside", [False, True], ids=["one-shot", "transaction"])
async def test_a_missing_bind_is_named(stock: Any, inside: bool) -> None:
    """A bind without a value raises UsageError that names it, and quotes nothing of the others."""
    statement = "update items set sku = :sku where quantity = :quantity"
    before = stock.stats().statement_count
    with pytest.raises(UsageError, match="quantity") as failure:
        if inside:
            async with stock.transaction() as tx:
                await tx.execute(statement, {"sku": "planted"})
        else:
            await stock.execute(statement, {"sku": "planted"})
    assert_silent(failure.value, "planted")
    assert failure.value.kind is ErrorKind.USAGE
    assert stock.stats().statement_count == before


async def test_a_value_the_driver_cannot_take_is_a_typed_error(stock: Any) -> None:
    """A value that the driver doesn't take raises a typed error without it, and the connection stays good."""

    class Planted:
        def __repr__(self) -> str:
            return "planted"

        __str__ = __repr__

    with pytest.raises(PrefiqDbError) as failure:
        await stock.fetch_value("select sku from items where sku = :sku", {"sku": Planted()})
    assert_silent(failure.value, "planted")
    assert failure.value.kind in (ErrorKind.DATA, ErrorKind.USAGE)
    assert await stock.fetch_value("select count(*) from items") == 3


# --- errors --------------------------------------------------------------------------------------


async def test_the_same_mistake_is_the_same_class(stock: Any) -> None:
    """Unique, not null, unknown table and bad syntax are the same class on every database, without a value."""
    with pytest.raises(UniqueViolationError) as twice:
        await stock.execute("insert into items (sku, quantity) values (:sku, 1)", {"sku": "A1"})
    assert_silent(twice.value, "A1")
    assert twice.value.database == "main"
    with pytest.raises(NotNullViolationError):
        await stock.execute("insert into items (sku, quantity) values (null, 4711)")
    with pytest.raises(SchemaError):
        await stock.fetch_all("select planted from no_such_table")
    with pytest.raises(StatementSyntaxError):
        await stock.execute("selekt 'planted'")
    assert stock.stats().pool.checked_out == 0


async def test_a_statement_too_many_rows_later_still_works(stock: Any) -> None:
    """After a table changed its shape, a statement that was prepared on the connection gives the new shape."""
    for _ in range(7):  # psycopg prepares what it has seen five times
        assert len(await stock.fetch_one("select * from items")) == 3
    await stock.execute("alter table items add column colour varchar(10)")
    assert len(await stock.fetch_one("select * from items")) == 4


# --- refused -------------------------------------------------------------------------------------

_CONTROL = [
    "BEGIN",
    "begin immediate",
    "  /* quietly */ Commit",
    "-- quietly\nROLLBACK",
    "savepoint here",
    "release savepoint here",
    "ROLLBACK TO SAVEPOINT here",
    "START TRANSACTION",
    "end",
    "abort",
    "insert into items (sku, quantity) values ('x', 1); commit",
    "set autocommit = 1",
    "SET @@session.autocommit=1",
    "xa end 'x'",
    "prepare transaction 'x'",
]


# A comment to the others.
_CONTROL_OF_MARIADB = ["/*! commit */", "/*!50000 commit */", "#x\ncommit"]


async def test_transaction_control_as_text_is_refused_everywhere(stock: Any, backend: Backend) -> None:
    """BEGIN, COMMIT, ROLLBACK and SAVEPOINT as text are refused outside and inside a transaction, unsent."""
    before = stock.stats().statement_count
    control = [*_CONTROL, *_CONTROL_OF_MARIADB] if backend.name == "mariadb" else _CONTROL
    for statement in control:
        with pytest.raises(StatementRefusedError):
            await stock.execute(statement)
    async with stock.transaction() as tx:
        for statement in control:
            for executor in (tx, stock):
                with pytest.raises(StatementRefusedError):
                    await executor.execute(statement)
    assert stock.stats().statement_count == before
    assert await stock.fetch_value("select count(*) from items") == 3


_NO_TOMORROW: list[Any] = [
    "select * from items for update",
    "select * from items where sku = 'for' FOR  SHARE",
    "select * from items lock in share mode",
    sa.select(items).with_for_update(),
    sa.select(items).with_for_update(read=True),
    "set search_path to other",
    "SET SESSION sql_mode = ''",
    "set names latin1",
    "select pg_advisory_lock(1)",
    "select pg_try_advisory_lock_shared(1)",
    "select get_lock('x', 1)",
    "create temporary table t (id integer)",
    "CREATE TEMP TABLE t AS SELECT 1",
    "pragma foreign_keys = off",
    "use other",
    "attach 'other.db' as other",
    "lock tables items write",
    "lock table items",
    "declare c cursor for select 1",
    "listen channel",
    "prepare q as select 1",
]


async def test_what_has_no_tomorrow_is_refused_outside_a_transaction(stock: Any) -> None:
    """Locks, SET, temporary tables and the like need a connection of their own; a one-shot refuses them unsent."""
    before = stock.stats().statement_count
    for statement in _NO_TOMORROW:
        with pytest.raises(StatementRefusedError):
            await stock.execute(statement)
    assert stock.stats().statement_count == before


async def test_words_in_strings_and_names_are_not_taken_for_statements(stock: Any, backend: Backend) -> None:
    """``commit`` in a string, a column or a comment is nothing to refuse."""
    assert await stock.fetch_value("select 'commit; begin for update'") == "commit; begin for update"
    assert await stock.fetch_one("select 1 as x /* for update; commit */ -- savepoint") == (1,)
    assert (await stock.fetch_one("select sku as begin_with from items where sku = 'A1'")).begin_with == "A1"
    if backend.name == "mariadb":  # a compound statement is one statement
        await stock.execute(
            "begin not atomic declare n int; set n = 1; insert into items (sku, quantity) values ('B', n); end"
        )


async def test_locks_are_at_home_in_a_transaction(stock: Any, backend: Backend) -> None:
    """FOR UPDATE works inside transaction(), as text and Core, where the database has it."""
    if backend.name == "sqlite":
        pytest.skip("SQLite locks the whole file")
    async with stock.transaction() as tx:
        assert len(await tx.fetch_all("select * from items for update")) == 3
        assert len(await stock.fetch_all(sa.select(items).with_for_update())) == 3


# --- overrides -----------------------------------------------------------------------------------


async def test_replica_means_reading_where_there_are_none(db: Any) -> None:
    """A service changes its settings and not its code: without replicas the primary reads, and a write is refused."""
    await db.execute("create table item (id integer primary key)")
    reader = db.using(replica=True)
    assert await reader.fetch_value("select count(*) from item") == 0
    async with db.transaction(read_only=True, replica=True) as tx:
        assert await tx.fetch_value("select count(*) from item") == 0
    with pytest.raises(StatementRefusedError, match="replica"):
        await reader.execute("insert into item values (1)")
    mark = await db.mark()
    assert await db.using(replica=True, after=mark).fetch_value("select count(*) from item") == 0


async def test_wrong_overrides_are_refused(db: Any) -> None:
    """An unknown override, or one of the wrong type, is refused when it is given."""
    with pytest.raises(UsageError, match="override colour: unknown; expected some of timeout"):
        db.using(colour="red")
    for wrong in (
        {"timeout": 0},
        {"timeout": "1"},
        {"retry": 3},
        {"read_only": 1},
        {"idempotent": "yes"},
        {"replica": "x"},
    ):
        with pytest.raises(UsageError):
            db.using(**wrong)
    with pytest.raises(UsageError):
        db.override(timeout=-1)
    assert await db.using(timeout=1, retry=RetryPolicy(attempts=1), read_only=True).fetch_value("select 1") == 1
