"""BEGIN that travels with the first statement, COMMIT with the last, and COMMIT whose reply is read later.

They save round trips and change no promise: what fails, fails as it did, and nothing is lost or done twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from prefiq_db.errors import (
    ClosedError,
    DataError,
    ErrorClass,
    ErrorKind,
    IntegrityError,
    NestingError,
    NotCommittedError,
    OutcomeUnknownError,
    PrefiqDbError,
    ResultsLostError,
    SchemaError,
    UsageError,
)
from prefiq_db.testing.faults import COMMIT, CutReply, CutRequest, Delay, DeliverLate, Fault, FaultProxy, Message
from prefiq_db.testing.wire import WireCounter
from tests.conftest import Backend
from tests.twins.harness import make_database
from tests.twins.support import session_id, upgrade_schema
from tests.twins.test_exactly_once import ADD_TEN, FAULTS, POLICY, WAYS, applied, repeated

READ = "select quantity from stock where id = 1"

on_servers = pytest.mark.parametrize(
    "backend",
    [pytest.param("postgresql", marks=pytest.mark.postgresql), pytest.param("mariadb", marks=pytest.mark.mariadb)],
    indirect=True,
)
on_postgresql = pytest.mark.parametrize(
    "backend", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True
)


@pytest.fixture
def stock(backend: Backend, db: Any, run: Callable[[Any], Any]) -> Any:
    upgrade_schema(backend)
    run(db.execute("create table stock (id integer primary key, quantity integer not null)"))
    run(db.execute("insert into stock (id, quantity) values (1, 0)"))
    return db


@pytest.fixture
def distant(stock: Any, backend: Backend, world: str, proxy: FaultProxy, run: Callable[[Any], Any]) -> Iterator[Any]:
    """The same database, through the proxy."""
    db = make_database(world, proxy.url(backend.url), ssl_mode="disable", pool_size=2, retry=POLICY)
    run(db.open())
    yield db
    checked_out = db.stats().pool.checked_out
    run(db.close())
    assert not checked_out


def begins(message: Message) -> bool:
    return not message.is_claim and message.sql.startswith(("BEGIN", "START TRANSACTION"))


def adds(message: Message) -> bool:
    return "update stock" in message.sql


async def warm(db: Any) -> None:
    """Show *db* that there is a table for tokens: from then on a token travels."""
    async with db.transaction(exactly_once=True) as tx:
        await tx.fetch_value("select 1")


# --- BEGIN with the first statement --------------------------------------------------------------


@on_servers
@pytest.mark.parametrize("exactly_once", [False, True])
@pytest.mark.parametrize("fault", [CutRequest(), CutReply(), CutReply(zombie_seconds=30)], ids=repr)
async def test_begin_on_a_dead_connection_is_repeated(
    distant: Any, stock: Any, proxy: FaultProxy, fault: Fault, exactly_once: bool
) -> None:
    """Nothing else was sent, so the block begins again on another connection, with its first statement."""
    await warm(distant)
    async with stock.transaction() as tx:  # the old session may keep its locks: let it lock another row
        await tx.execute("insert into stock (id, quantity) values (2, 0)")
    with proxy.fault(fault, on=begins, times=1) as plan:
        async with distant.transaction(exactly_once=exactly_once) as tx:
            await tx.execute("select quantity from stock")
            await tx.execute(ADD_TEN)
    assert plan.hits == 1
    assert tx.outcome == "committed"
    assert await applied(stock) == 1
    if exactly_once:
        assert await distant.resolve_outcome(tx.token) == "committed"


@on_servers
@pytest.mark.parametrize("fault", [CutRequest(), CutReply()], ids=repr)
async def test_the_first_statement_is_repeated_with_begin(
    distant: Any, stock: Any, proxy: FaultProxy, fault: Fault
) -> None:
    """A write too: without a COMMIT nothing of it stayed. A token that the caller has read stays the same."""
    await warm(distant)
    with proxy.fault(fault, on=adds, times=1) as plan:
        async with distant.transaction(exactly_once=True) as tx:
            token = tx.token
            assert (await tx.execute(ADD_TEN)).rowcount == 1
    assert plan.hits == 1
    assert tx.token == token
    assert await distant.resolve_outcome(token) == "committed"
    assert await applied(stock) == 1


@on_servers
async def test_control_a_second_statement_is_not_repeated(distant: Any, stock: Any, proxy: FaultProxy) -> None:
    """What came before it is undone with the connection, and only the caller knows what that was."""
    with proxy.fault(CutRequest(), on=adds, times=1), pytest.raises(PrefiqDbError) as failure:
        async with distant.transaction() as tx:
            await tx.fetch_value(READ)
            await tx.execute(ADD_TEN)
    assert failure.value.classification.connection_lost
    assert tx.outcome == "not committed"
    assert await applied(stock) == 0


@on_postgresql
async def test_control_a_function_is_not_called_twice(distant: Any, stock: Any, proxy: FaultProxy) -> None:
    """What it does outside the transaction isn't undone with it."""
    await stock.execute("create sequence calls")
    call = "select nextval('calls')"
    with proxy.fault(CutReply(), on=lambda message: message.sql == call, times=1), pytest.raises(PrefiqDbError):
        async with distant.transaction() as tx:
            await tx.fetch_value(call)
    assert tx.outcome == "not committed"
    assert await stock.fetch_value(call) == 2


@on_postgresql
async def test_control_a_write_that_calls_a_function_is_not_sent_twice(
    distant: Any, stock: Any, proxy: FaultProxy
) -> None:
    """Nor by a statement that writes."""
    await stock.execute("create sequence calls")
    await stock.execute("create function my_fn() returns bigint language sql volatile as 'select nextval(''calls'')'")
    call = "update stock set quantity = my_fn() where id = 1"
    with proxy.fault(CutReply(), on=lambda message: message.sql == call, times=1), pytest.raises(PrefiqDbError):
        async with distant.transaction() as tx:
            await tx.execute(call)
    assert tx.outcome == "not committed"
    assert await stock.fetch_value("select nextval('calls')") == 2


@on_postgresql
@pytest.mark.parametrize("who", ["before_cursor_execute", "do_execute", "default"])
async def test_who_else_uses_the_cursor_is_in_the_transaction(stock: Any, world: str, who: str) -> None:
    """Listeners, also those of the block's own connection, and functions that make a default: BEGIN goes ahead."""

    def add_ten(cursor: Any) -> None:
        cursor.execute(ADD_TEN)

    def instead(cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
        cursor.execute(statement, parameters)
        return True

    def before(conn: Any, cursor: Any, *rest: Any) -> None:
        add_ten(cursor)

    def default(context: Any) -> int:
        add_ten(context.cursor)
        return 1

    engine = stock.engine.sync_engine if world == "async" else stock.engine
    table = sa.Table(
        "stock", sa.MetaData(), sa.Column("id", sa.Integer), sa.Column("quantity", sa.Integer, default=default)
    )
    statement: Any = table.insert().values(id=2) if who == "default" else ADD_TEN
    if who == "do_execute":
        sa.event.listen(engine, who, instead)
    try:
        with pytest.raises(KeyError):
            async with stock.transaction(isolation="SERIALIZABLE") as tx:
                if who == "before_cursor_execute":
                    pinned = tx.connection
                    sa.event.listen(pinned.sync_connection if world == "async" else pinned, who, before)
                await tx.execute(statement)
                assert await tx.fetch_value("show transaction_isolation") == "serializable"
                raise KeyError
    finally:
        if who == "do_execute":
            sa.event.remove(engine, who, instead)
    assert await applied(stock) == 0


@on_servers
async def test_a_refused_first_statement_leaves_the_token_to_the_end(stock: Any) -> None:
    """The block is committed, and so says its token."""
    async with stock.transaction(exactly_once=True) as tx:
        await tx.fetch_value("select 1")  # the table of tokens is known from now on
    async with stock.transaction(exactly_once=True) as tx:
        with pytest.raises(PrefiqDbError):
            await tx.execute("update stock set quantity = :value", {"value": object()})
    assert tx.outcome == "committed"
    assert await stock.resolve_outcome(tx.token) == "committed"


@on_postgresql
async def test_an_odd_text_has_the_error_of_before(stock: Any, world: str) -> None:
    """The server explains ``$1`` as in a statement of its own; too many values leave the block usable."""
    with pytest.raises(PrefiqDbError) as failure:
        async with stock.transaction() as tx:
            await tx.execute("select $1")
    assert failure.value.code == "42P02"
    assert not failure.value.is_transient
    if world == "async":
        return  # so long a text takes seconds, once is enough
    values = {f"a{number}": 1 for number in range(65_536)}
    many = f"select 1 where {' or '.join(f'1 = :{name}' for name in values)}"
    async with stock.transaction() as tx:
        with pytest.raises(PrefiqDbError):
            await tx.fetch_all(many, values)
        await tx.execute(ADD_TEN)
    assert await applied(stock) == 1


@on_postgresql
async def test_a_failing_first_statement_is_its_own_error(stock: Any) -> None:
    """As if BEGIN had gone ahead: the error is the statement's, and the transaction can't go on."""
    with pytest.raises(SchemaError, match="no_such_table"):
        async with stock.transaction() as tx:
            await tx.execute("update no_such_table set x = 1")
    with pytest.raises(PrefiqDbError, match="can't go on"):
        async with stock.transaction() as tx:
            with pytest.raises(SchemaError, match="no_such_table"):
                await tx.execute("update no_such_table set x = 1")
            await tx.execute(ADD_TEN)
    assert tx.outcome == "not committed"
    # A savepoint undoes a failure in it, also if it came first.
    async with stock.transaction() as tx:
        with pytest.raises(SchemaError):
            async with tx.transaction() as inner:
                await inner.execute("update no_such_table set x = 1")
        await tx.execute(ADD_TEN)
    assert await applied(stock) == 1
    assert stock.stats().pool.checked_out == 0


@on_servers
@pytest.mark.parametrize("value", [object(), "a\0b"], ids=["object", "text with NUL"])
async def test_a_value_that_the_driver_refuses_leaves_begin_to_the_next(
    stock: Any, value: object, backend: Backend
) -> None:
    """Nothing was sent, neither BEGIN nor the statement."""
    if backend.name == "mariadb" and isinstance(value, str):
        value = "\ud800"  # MariaDB takes NUL, and no driver can encode this
    async with stock.transaction() as tx:
        with pytest.raises((UsageError, DataError)):
            await tx.execute("update stock set quantity = length(:value)", {"value": value})
        await tx.execute(ADD_TEN)
        await tx.execute(ADD_TEN)
    assert await applied(stock) == 2


@on_servers
@pytest.mark.parametrize("first", ["savepoint", "session", "many", "driver"])
async def test_whatever_comes_first_is_in_the_transaction(stock: Any, world: str, first: str) -> None:
    """BEGIN goes ahead of what it can't travel with: an error that leaves the block undoes it."""
    with pytest.raises(KeyError):
        async with stock.transaction() as tx:
            if first == "savepoint":
                async with tx.transaction() as inner:
                    await inner.execute(ADD_TEN)
            elif first == "session":
                async with tx.session() as session:
                    await session.execute(sa.text(ADD_TEN))
                    await session.commit()
            elif first == "many":
                await tx.execute_many("update stock set quantity = :quantity where id = 1", [{"quantity": 10}])
            elif world == "async":
                await tx.connection.run_sync(_add_ten_below)
            else:
                _add_ten_below(tx.connection)
            assert await tx.fetch_value(READ) == 10
            raise KeyError
    assert await applied(stock) == 0


def _add_ten_below(connection: sa.Connection) -> None:
    cursor = connection.connection.cursor()
    cursor.execute(ADD_TEN)
    cursor.close()


@on_servers
async def test_an_empty_block_sends_nothing_unless_it_has_a_token(stock: Any, backend: Backend, world: str) -> None:
    """What exactly_once says of the outcome must stay true, also of a transaction that did nothing."""
    assert backend.server is not None
    with WireCounter(backend.server.host, backend.server.port) as wire:
        db = make_database(world, wire.url(backend.url), ssl_mode="disable", pool_size=1, max_overflow=0)
        await warm(db)
        with wire.count() as count:
            async with db.transaction():
                pass
            with pytest.raises(KeyError):
                async with db.transaction():
                    raise KeyError
        async with db.transaction(exactly_once=True) as tx:
            pass
        await db.close()
    assert count.round_trips == 0
    assert await stock.resolve_outcome(tx.token) == "committed"


# --- COMMIT whose reply is read later -------------------------------------------------------------


async def read_only(db: Any) -> None:
    async with db.transaction(read_only=True) as tx:
        assert await tx.fetch_value(READ) is not None


@on_servers
@pytest.mark.parametrize("fault", [CutRequest(), CutReply(), CutReply(after_bytes=3)], ids=repr)
async def test_a_lost_end_of_a_reading_transaction_is_nobodys_error(
    distant: Any, stock: Any, proxy: FaultProxy, fault: Fault
) -> None:
    """The pool sees that the connection is dead and opens another one: even a write meets no error."""
    for _ in range(3):
        with proxy.fault(fault, on=COMMIT, times=1) as plan:
            await read_only(distant)
            plan.wait()
            proxy.wait()
            assert (await distant.execute(ADD_TEN)).rowcount == 1
    assert await applied(stock) == 3


@on_postgresql
async def test_a_session_killed_after_a_reading_transaction_is_replaced(stock: Any, backend: Backend) -> None:
    victim = await session_id(stock, backend)
    await read_only(stock)
    assert backend.server is not None
    backend.server.execute(f"select pg_terminate_backend({victim}, 5000)")  # waits until it has ended
    assert (await stock.execute(ADD_TEN)).rowcount == 1
    assert await applied(stock) == 1


@on_servers
async def test_anybody_may_use_the_connection_next(stock: Any, world: str) -> None:
    """A session, a statement for many rows, a savepoint, the engine's connections: each reads the reply first."""
    for _ in range(3):
        await read_only(stock)
        async with stock.session() as session:
            assert (await session.execute(sa.text(READ))).scalar() is not None
        await read_only(stock)
        await stock.execute_many("update stock set quantity = :quantity where id = 1", [{"quantity": 10}])
        await read_only(stock)
        async with stock.transaction() as tx, tx.transaction() as inner:
            assert await inner.fetch_value(READ) == 10
        await read_only(stock)
        await stock.using(timeout=2.5).fetch_value(READ)
        await read_only(stock)
        assert await stock.ping() > 0
        await read_only(stock)
        with pytest.raises(SchemaError):
            await stock.execute("update no_such_table set x = 1")
        await read_only(stock)
        if world == "sync":
            raw = stock.engine.raw_connection()
            cursor = raw.cursor()
            cursor.execute(ADD_TEN)
            raw.rollback()
            raw.close()
    assert await applied(stock) == 1
    assert stock.stats().pool.checked_out == 0


@on_postgresql
async def test_a_pipeline_of_the_drivers_comes_after_it(stock: Any, backend: Backend, world: str) -> None:
    """psycopg enters pipeline mode only once the reply is read."""
    db = make_database(world, backend.url, ssl_mode="disable", pool_size=1, max_overflow=0)
    async with db.transaction() as tx:
        connection = tx.connection.sync_connection if world == "async" else tx.connection
        driver = connection._dbapi_connection.driver_connection
    for _ in range(3):
        await read_only(db)
        if world == "async":
            async with driver.pipeline():
                cursor = await driver.execute(READ)
            assert await cursor.fetchone() == (0,)
        else:
            with driver.pipeline():
                cursor = driver.execute(READ)
            assert cursor.fetchone() == (0,)
    assert await db.fetch_value(READ) == 0
    await db.close()


@on_postgresql
async def test_control_a_transaction_that_may_leave_something_waits(distant: Any, proxy: FaultProxy) -> None:
    """A read-only transaction may notify others, and then its COMMIT matters."""
    with proxy.fault(CutReply(), on=COMMIT, times=1), pytest.raises(OutcomeUnknownError):
        async with distant.transaction(read_only=True) as tx:
            await tx.fetch_value("select pg_notify('stock', 'changed')")


# --- COMMIT with the last statement ---------------------------------------------------------------


async def test_the_last_statement_ends_the_transaction(stock: Any) -> None:
    """Nothing may follow it; the functions of on_commit run at the block's end."""
    done: list[str] = []
    async with stock.transaction() as tx:
        tx.on_commit(lambda: done.append("committed"))
        await tx.fetch_value(READ)
        result = await tx.execute(ADD_TEN, last=True)
        assert result.rowcount == 1
        with pytest.raises(ClosedError):
            await tx.execute(ADD_TEN)
        with pytest.raises(ClosedError):
            await stock.fetch_value(READ)
        with pytest.raises(ClosedError):
            async with tx.transaction():
                pytest.fail("the transaction has ended")
        assert done == []
    assert (tx.outcome, done) == ("committed", ["committed"])
    assert await applied(stock) == 1
    async with stock.transaction() as tx:  # the first may be the last, and it may return rows
        rows = (await tx.execute(READ, last=True)).rows
    assert [tuple(row) for row in rows] == [(10,)]


async def test_last_takes_several_rows_in_one_values(stock: Any) -> None:
    """The columns of the second row, which SQLAlchemy makes for their defaults, aren't quite columns."""
    table = sa.Table(
        "stock",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("quantity", sa.Integer, default=4),
    )
    async with stock.transaction() as tx:
        await tx.execute(sa.insert(table).values([{"id": 5}, {"id": 6}]), last=True)
    rows = await stock.fetch_all("select quantity from stock where id > 4")
    assert [tuple(row) for row in rows] == [(4,), (4,)]


async def test_last_needs_a_transaction_of_its_own(stock: Any) -> None:
    with pytest.raises(UsageError, match="last"):
        await stock.execute(ADD_TEN, last=True)
    async with stock.transaction() as tx:
        async with tx.transaction() as inner:
            for each in (inner, tx, stock):
                with pytest.raises(NestingError, match="last"):
                    await each.execute(ADD_TEN, last=True)
        await stock.execute(ADD_TEN, last=True)  # the database's own verb, in the transaction
    assert await applied(stock) == 1


@on_servers
async def test_a_session_in_it_comes_to_its_end_first(stock: Any) -> None:
    async with stock.transaction() as tx:
        async with tx.session() as session:
            await session.execute(sa.text(ADD_TEN))
            with pytest.raises(NestingError, match="last"):
                await tx.execute(ADD_TEN, last=True)
            await session.commit()
        session = tx.session()
        await tx.execute(ADD_TEN, last=True)
        with pytest.raises(PrefiqDbError):
            await session.execute(sa.text(ADD_TEN))
        await session.close()
    assert await applied(stock) == 2


async def test_a_failing_last_statement_commits_nothing(stock: Any) -> None:
    """The error is the same as without, and so is the outcome."""
    for exactly_once in (False, True):
        with pytest.raises(IntegrityError) as failure:
            async with stock.transaction(exactly_once=exactly_once) as tx:
                await tx.execute(ADD_TEN)
                await tx.execute("insert into stock (id, quantity) values (1, 0)", last=True)
        assert failure.value.kind is ErrorKind.UNIQUE
        assert tx.outcome == "not committed"
    assert await applied(stock) == 0


class _Unreadable(sa.types.TypeDecorator[int]):
    impl = sa.Integer
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Any) -> int:
        raise ValueError("unreadable")


@on_servers
async def test_rows_that_cannot_be_read_are_no_failed_transaction(stock: Any) -> None:
    """COMMIT has succeeded when they are read: the error says that it is committed."""
    table = sa.Table("stock", sa.MetaData(), sa.Column("id", sa.Integer), sa.Column("quantity", _Unreadable))
    adding = table.insert().values(id=2, quantity=3).returning(table.c.quantity)
    runs = 0

    async def body(tx: Any) -> None:
        nonlocal runs
        runs += 1
        await tx.execute(adding, last=True)

    with pytest.raises(ResultsLostError, match="is committed") as failure:
        await stock.run_in_transaction(body)
    assert (runs, failure.value.is_transient) == (1, False)
    assert await stock.fetch_value("select quantity from stock where id = 2") == 3


@on_postgresql
async def test_last_where_sqlalchemy_asks_a_sequence_first(stock: Any) -> None:
    await stock.execute("create sequence numbers")
    table = sa.Table(
        "stock",
        sa.MetaData(),
        sa.Column("id", sa.Integer, sa.Sequence("numbers", start=5), primary_key=True),
        sa.Column("quantity", sa.Integer),
        implicit_returning=False,
    )
    await stock.execute("select setval('numbers', 5)")
    async with stock.transaction() as tx:
        await tx.execute(table.insert().values(quantity=4), last=True)
        assert tx.outcome == "committed"
    assert await stock.fetch_value("select quantity from stock where id = 6") == 4


@on_postgresql
@pytest.mark.parametrize("caught", [False, True])
async def test_a_commit_that_is_refused_is_told_by_the_last_statement(stock: Any, caught: bool) -> None:
    """A deferred constraint fails at COMMIT: everything is rolled back, and the block can't claim otherwise."""
    await stock.execute("alter table stock add unique (quantity) deferrable initially deferred")
    undone: list[str] = []
    with pytest.raises(PrefiqDbError) as failure:
        async with stock.transaction() as tx:
            tx.on_rollback(lambda: undone.append("undone"))
            with pytest.raises(IntegrityError) as refused:
                await tx.execute("insert into stock (id, quantity) values (2, 0)", last=True)
            assert refused.value.kind is ErrorKind.UNIQUE
            if not caught:
                raise refused.value
    assert isinstance(failure.value, IntegrityError) is not caught
    assert (tx.outcome, undone) == ("not committed", ["undone"])
    assert await stock.fetch_value("select count(*) from stock") == 1
    assert await stock.fetch_value(READ) == 0


@on_servers
@pytest.mark.parametrize("way", WAYS)
async def test_an_error_after_it_undoes_nothing_and_repeats_nothing(stock: Any, way: str) -> None:
    """The body's own error passes unchanged, even one that would run the body again."""
    again = PrefiqDbError("busy", classification=ErrorClass(ErrorKind.DEADLOCK, transient=True, retry_transaction=True))
    bodies: list[Any] = []

    async def body(tx: Any) -> None:
        bodies.append(tx)
        tx.on_commit(lambda: bodies.append("on_commit"))
        await tx.execute(ADD_TEN, last=True)
        raise again

    with pytest.raises(PrefiqDbError) as failure:
        await repeated(stock, way, body)
    assert failure.value is again
    assert bodies[1:] == ["on_commit"]
    assert bodies[0].outcome == "committed"
    assert await applied(stock) == 1


@on_servers
@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("first", [False, True])
async def test_exactly_once_with_last(
    distant: Any, stock: Any, proxy: FaultProxy, name: str, first: bool, backend: Backend
) -> None:
    """Whatever happens to the COMMIT that travels, the work is done once."""
    fault, bodies = FAULTS[name]
    if first and backend.name == "mariadb" and isinstance(fault, DeliverLate):
        bodies = 2  # one message has the token, too: when it comes late, its token is taken, and it does nothing
    calls: list[str] = []

    async def body(tx: Any) -> None:
        calls.append("body")
        tx.on_commit(lambda: calls.append("on_commit"))
        if not first:
            await tx.fetch_value(READ)
        await tx.execute(ADD_TEN, last=True)

    await warm(distant)
    with proxy.fault(fault, on=COMMIT, times=1) as plan:
        await distant.run_in_transaction(body, exactly_once=True)
    assert plan.hits == 1
    proxy.wait()
    assert await applied(stock) == 1
    assert (calls.count("body"), calls.count("on_commit")) == (bodies, 1)


@on_servers
@pytest.mark.parametrize("fault", [CutReply(), CutRequest(), DeliverLate(0.2)], ids=repr)
async def test_without_a_token_the_outcome_is_unknown(
    distant: Any, stock: Any, proxy: FaultProxy, fault: Fault
) -> None:
    """The control of the one above: nobody can tell, so nothing is repeated."""
    bodies: list[Any] = []

    async def body(tx: Any) -> None:
        bodies.append(tx)
        await tx.fetch_value(READ)
        await tx.execute(ADD_TEN, last=True)

    with proxy.fault(fault, on=COMMIT, times=1), pytest.raises(OutcomeUnknownError):
        await distant.run_in_transaction(body)
    proxy.wait()
    assert [tx.outcome for tx in bodies] == ["unknown"]
    assert await applied(stock) in (0, 1)


@on_servers
async def test_a_block_hears_that_it_never_committed(distant: Any, stock: Any, proxy: FaultProxy) -> None:
    """Also a block that swallows the error: leaving it without one means committed."""
    await warm(distant)
    for swallows in (False, True):
        with proxy.fault(CutRequest(), on=COMMIT, times=1), pytest.raises(NotCommittedError):
            async with distant.transaction(exactly_once=True) as tx:
                try:
                    await tx.execute(ADD_TEN, last=True)
                except NotCommittedError:
                    if not swallows:
                        raise
        assert tx.outcome == "not committed"
    assert await applied(stock) == 0


@on_servers
@pytest.mark.parametrize("world", [pytest.param("async", marks=getattr(pytest.mark, "async"))])
async def test_a_cancellation_waits_for_the_commit_that_travels(distant: Any, stock: Any, proxy: FaultProxy) -> None:
    """As for any COMMIT: the cancellation is raised afterwards, and the outcome is known."""
    seen: list[Any] = []

    async def work() -> None:
        async with distant.transaction() as tx:
            seen.append(tx)
            await tx.fetch_value(READ)
            await tx.execute(ADD_TEN, last=True)

    with proxy.fault(Delay(reply_seconds=0.3), on=COMMIT, times=1) as plan:
        task = asyncio.create_task(work())
        await asyncio.to_thread(plan.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert seen[0].outcome == "committed"
    assert await applied(stock) == 1
