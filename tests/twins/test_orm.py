"""What leaves an ORM session or a connection of the engine: of both trees, without values, and counted for retries."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import pickle
import traceback
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import exc, orm
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm.exc import StaleDataError

from prefiq_db import ErrorKind, PrefiqDbError, RetryPolicy, errors, with_retry, with_retry_async
from prefiq_db.errors import (
    ConnectFailedError,
    ConnectionLostError,
    DataError,
    DeadlockError,
    ForeignKeyViolationError,
    NotNullViolationError,
    OutcomeUnknownError,
    PoolTimeoutError,
    ReadOnlyError,
    SchemaError,
    SerializationError,
    StatementRefusedError,
    TransactionAbortedError,
    UniqueViolationError,
    UsageError,
    as_prefiq_error,
)
from prefiq_db.translation.both import Both
from prefiq_db.types import UtcDateTime
from tests.conftest import Backend
from tests.twins.harness import Harness, drive, make_database
from tests.twins.support import in_engine_begin, kill_session, on_engine
from tests.twins.test_retries import QUICK, WAYS, Attempts, ReplyCutter, repeated, with_lost_reply

VALUE = "canaryvalue4711"
ONCE = RetryPolicy(attempts=1)


class Base(orm.DeclarativeBase):
    pass


class Owner(Base):
    __tablename__ = "owner"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(sa.String(40), unique=True)
    born: orm.Mapped[Any] = orm.mapped_column(UtcDateTime, nullable=True)
    pets: orm.Mapped[list[Pet]] = orm.relationship(back_populates="owner")


class Pet(Base):
    __tablename__ = "pet"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    owner_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("owner.id", name="fk_pet_owner"))
    owner: orm.Mapped[Owner] = orm.relationship(back_populates="pets")


class Page(Base):
    __tablename__ = "page"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    seen: orm.Mapped[int]
    version: orm.Mapped[int] = orm.mapped_column(default=1)
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - SQLAlchemy's own way to say it


@pytest.fixture
def made(db: Any, run: Callable[[Any], Any]) -> Any:
    """The database with two rows in each table."""
    run(filled(db))
    return db


async def filled(db: Any) -> None:
    await in_engine_begin(db, Base.metadata.create_all)
    async with db.session() as session:
        session.add_all([Owner(id=1, name="one"), Owner(id=2, name="two"), Page(id=1, seen=1), Page(id=2, seen=2)])
        await session.flush()
        session.add_all([Pet(id=1, owner_id=1), Pet(id=2, owner_id=2)])
        await session.commit()


async def numbers(db: Any) -> list[int]:
    return [row.seen for row in await db.fetch_all("select seen from page order by id")]


def assert_of_both(error: BaseException, ours: type[PrefiqDbError], theirs: type[exc.SQLAlchemyError]) -> None:
    """Check the classes, the name that people see, and that nothing shows a value: text, repr, chain, pickle, log."""
    assert isinstance(error, ours)
    assert isinstance(error, theirs)
    assert (type(error).__name__, type(error).__module__) == (ours.__name__, "prefiq_db.errors")
    assert (error.__cause__, error.__context__) == (None, None)
    pickled = pickle.dumps(error)
    shown = f"{error} {error!r} {error.args} {error.__dict__} {pickled.decode('latin-1')} {error.database}"
    assert VALUE not in shown + "".join(traceback.format_exception(error))
    again = pickle.loads(pickled)
    assert type(again) is type(error)
    assert (str(again), again.kind, again.code) == (str(error), error.kind, error.code)
    assert again.original is None
    assert isinstance(copy.copy(error), ours)


# --- what is raised ------------------------------------------------------------------------------


async def unique(session: Any) -> None:
    session.add(Owner(id=3, name="one"))
    await session.flush()


async def missing(session: Any) -> None:
    await session.execute(sa.insert(Owner).values(id=4, name=sa.null()))


async def orphan(session: Any) -> None:
    session.add(Pet(id=5, owner_id=4711))
    await session.flush()


async def no_table(session: Any) -> None:
    await session.execute(sa.text(f"select '{VALUE}' from nowhere where a = :a"), {"a": VALUE})


async def naive_time(session: Any) -> None:
    import datetime as dt

    await session.execute(sa.insert(Owner).values(id=6, name=VALUE, born=dt.datetime(2024, 5, 4)))


async def too_big(session: Any) -> None:
    await session.execute(sa.text("select :number + 1"), {"number": 10**40})


RAISED: dict[str, tuple[Callable[[Any], Awaitable[None]], type[PrefiqDbError], type[exc.SQLAlchemyError]]] = {
    "unique": (unique, UniqueViolationError, exc.IntegrityError),
    "not null": (missing, NotNullViolationError, exc.IntegrityError),
    "foreign key": (orphan, ForeignKeyViolationError, exc.IntegrityError),
    "no table": (no_table, SchemaError, exc.DBAPIError),
    "our own word in a bind": (naive_time, UsageError, exc.StatementError),
}


@pytest.mark.parametrize("case", RAISED)
async def test_an_error_of_a_session_is_of_both_trees(made: Any, case: str) -> None:
    """On its own, in a transaction, and on a connection of the engine: one class for both kinds of except."""
    provoke, ours, theirs = RAISED[case]

    async def alone() -> None:
        async with made.session() as session:
            await provoke(session)

    async def joined() -> None:
        async with made.transaction() as tx, tx.session() as session:
            await provoke(session)

    for way in (alone, joined):
        with pytest.raises(theirs) as caught:
            await way()
        assert_of_both(caught.value, ours, theirs)
        error: Any = caught.value
        assert error.database == "main" or ours is UsageError
        assert error.params is None
        assert f"{error}".startswith(error.args[0])
        if ours is not UsageError:
            assert error.original is not None
            assert type(error.original) is type(error.orig)
            assert VALUE not in f"{error.orig} {error.orig.args}"
        if case == "unique":
            assert "INSERT INTO owner" in error.statement
    assert made.stats().pool.checked_out == 0


async def test_the_originals_words_are_kept_apart(made: Any, backend: Backend) -> None:
    """``.orig`` is in SQLAlchemy's hands and says nothing; ``.original`` is the driver's own, for a debugger."""
    with pytest.raises(UniqueViolationError) as caught:
        async with made.session() as session:
            session.add_all([Owner(id=7, name=VALUE), Owner(id=8, name=VALUE)])
            await session.flush()
    assert_of_both(caught.value, UniqueViolationError, exc.IntegrityError)
    orig: Any = caught.value.orig  # type: ignore[attr-defined]
    if backend.name == "postgresql":
        assert orig.sqlstate == "23505"
        assert orig.diag.constraint_name == caught.value.constraint
    if backend.name == "mariadb":
        assert orig.args[0] == 1062
    if backend.name != "sqlite":
        assert VALUE in str(caught.value.original)


async def test_every_statement_of_a_connection_is_translated(made: Any, backend: Backend) -> None:
    """Text and Core on an engine's connection, and what Python itself refuses in a driver."""
    with pytest.raises(exc.DBAPIError) as caught:
        await on_engine(made, lambda connection: connection.execute(sa.text(f"selec '{VALUE}'")))
    assert isinstance(caught.value, errors.StatementSyntaxError)
    assert_of_both(caught.value, errors.StatementSyntaxError, exc.DBAPIError)
    if backend.name == "sqlite":
        with pytest.raises(DataError) as refused:
            async with made.session() as session:
                await too_big(session)
        assert_of_both(refused.value, DataError, exc.DataError)


_FAILS_AT_THE_THIRD_ROW = {
    "sqlite": "with t(n) as (values (1), (2), (-9223372036854775808)) select abs(n) from t",
    "postgresql": "select 1 / (3 - n) from generate_series(1, 5) as t(n)",
    "mariadb": "select (select b.seq from seq_1_to_2 b where b.seq < a.seq) from seq_1_to_5 a",
}


async def test_a_row_that_fails_while_it_is_read(made: Any, backend: Backend) -> None:
    """The statement went well; its third row doesn't, and that error leaves the result as one of both trees."""
    with pytest.raises(exc.DBAPIError) as caught:
        async with made.session() as session:
            await streamed(session, sa.text(_FAILS_AT_THE_THIRD_ROW[backend.name]))
    assert_of_both(caught.value, DataError, exc.DBAPIError)
    assert made.stats().pool.checked_out == 0


async def test_a_flush_by_the_way_says_so(made: Any) -> None:
    """SQLAlchemy adds a detail to an error of a flush that a query began; it stands in front of our words."""
    with pytest.raises(UniqueViolationError, match=r"(?s)autoflush.*unique constraint.*INSERT INTO owner") as caught:
        async with made.session() as session:
            session.add(Owner(id=3, name="one"))
            await session.execute(sa.select(Owner))
    assert_of_both(caught.value, UniqueViolationError, exc.IntegrityError)


async def test_a_commit_that_is_refused(made: Any, backend: Backend) -> None:
    """A constraint that is looked at in COMMIT: its error leaves session.commit() as any other does."""
    if backend.name == "mariadb":
        pytest.skip("MariaDB has no deferred constraints")
    if backend.name == "postgresql":
        await made.execute("alter table pet alter constraint fk_pet_owner deferrable initially deferred")
    async with made.session() as session:
        if backend.name == "sqlite":
            await session.execute(sa.text("pragma defer_foreign_keys = on"))
        session.add(Pet(id=9, owner_id=4711))
        with pytest.raises(exc.IntegrityError) as caught:
            await session.commit()
    assert_of_both(caught.value, ForeignKeyViolationError, exc.IntegrityError)
    assert await made.fetch_value("select count(*) from pet") == 2


async def test_a_chain_made_by_hand_stays(made: Any) -> None:
    """The driver's exception is out of sight; what the caller raises from, or handles, is his own business."""
    with pytest.raises(UniqueViolationError) as chained:
        try:
            async with made.session() as session:
                await unique(session)
        except UniqueViolationError as error:
            raise error from LookupError("said by hand")
    assert isinstance(chained.value.__cause__, LookupError)
    chained.value.__cause__ = None
    chained.value.__context__ = LookupError("set by hand")
    assert isinstance(chained.value.__context__, LookupError)


async def test_no_connection_for_a_session(make_db: Any, backend: Backend, world: str) -> None:
    """An exhausted pool and a server that is away: of both trees, too."""
    db = make_db(pool_size=1, max_overflow=0, pool_timeout_seconds=0.05)
    async with db.transaction():
        with pytest.raises(exc.TimeoutError) as caught:
            async with make_outside(db) as session:
                await session.execute(sa.text("select 1"))
    assert_of_both(caught.value, PoolTimeoutError, exc.TimeoutError)
    assert "who has them" in str(caught.value)
    if backend.server is None:
        return
    gone = make_database(world, sa.make_url(backend.url).set(port=1).render_as_string(hide_password=False))
    with pytest.raises(exc.OperationalError) as failed:
        async with gone.session() as session:
            await session.execute(sa.text("select 1"))
    assert_of_both(failed.value, ConnectFailedError, exc.OperationalError)
    await gone.close()


def make_outside(db: Any) -> Any:
    """Return a session on the pool although a transaction is open here, as another library would make it."""
    from sqlalchemy.ext.asyncio import AsyncSession

    from tests.twins.harness import SyncSessionFacade

    core = getattr(db, "_wrapped", db)._core
    if core.runtime.is_async:
        return AsyncSession(db._base.instance.async_engine)
    return SyncSessionFacade(orm.Session(core.instance.engine))


async def test_what_is_refused_in_a_session_is_of_both_trees(made: Any, backend: Backend) -> None:
    """Our own refusals inside a session: COMMIT as text, and a write in a read-only transaction."""
    with pytest.raises(exc.SQLAlchemyError) as caught:
        async with made.transaction() as tx, tx.session() as session:
            await session.execute(sa.text("commit"))
    assert_of_both(caught.value, StatementRefusedError, exc.InvalidRequestError)
    with pytest.raises(exc.DBAPIError) as refused:
        async with made.transaction(read_only=True) as tx, tx.session() as session:
            session.add(Owner(id=9, name="nine"))
            await session.flush()
    assert_of_both(refused.value, ReadOnlyError, exc.DBAPIError)
    assert not refused.value.is_transient  # type: ignore[attr-defined]


# --- after a failure -----------------------------------------------------------------------------


async def test_a_connection_whose_transaction_is_aborted(made: Any, make_db: Callable[..., Any]) -> None:
    """After a caught failure the next statement, a savepoint's end or COMMIT raises TransactionAbortedError of both."""
    rows = [{"id": 11, "name": "eleven"}, {"id": 12, "name": "one"}]
    insert = sa.text("insert into owner (id, name) values (:id, :name)")

    def work(connection: sa.Connection) -> list[BaseException]:
        found: list[BaseException] = []
        with connection.begin() as transaction:
            with pytest.raises(UniqueViolationError):
                connection.execute(insert, rows)
            for step in (lambda: connection.execute(sa.text("select 1")), transaction.commit):
                with pytest.raises(exc.SQLAlchemyError) as caught:
                    step()
                found.append(caught.value)
        return found

    db = make_db(pool_size=1)
    for error in await on_engine(db, work):
        assert_of_both(error, TransactionAbortedError, exc.InternalError)
        assert not error.is_transient  # type: ignore[attr-defined]
    await db.close()
    db = make_db(pool_size=1)
    async with db.session() as session:
        with pytest.raises(UniqueViolationError):
            await session.execute(insert, rows)
        with pytest.raises(exc.SQLAlchemyError) as at_end:
            await session.commit()
    assert_of_both(at_end.value, TransactionAbortedError, exc.InternalError)
    await db.close()
    with pytest.raises(TransactionAbortedError) as nested:
        async with made.transaction() as tx, tx.session() as session:
            with pytest.raises(UniqueViolationError):
                await session.execute(insert, rows)
            await session.commit()
    assert_of_both(nested.value, TransactionAbortedError, exc.InternalError)
    assert await made.fetch_value("select count(*) from owner") == 2


# --- retries -------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_a_deadlock_of_a_session_is_repeated(made: Any, harness: Harness, backend: Backend, way: str) -> None:
    """Two sessions that flush crosswise: one is the victim, its whole body runs again, both take effect once."""
    if backend.name == "sqlite":
        pytest.skip("SQLite lets one writer in at a time: it can't deadlock")
    attempts = made.hooks.add(Attempts())
    locked = [harness.event(), harness.event()]
    done = [harness.event(), harness.event()]
    calls = [0, 0]

    def body(mine: int) -> Callable[[Any], Awaitable[None]]:
        async def work(tx: Any) -> None:
            calls[mine] += 1
            if calls[mine] > 1:  # or the victim may lock its row again before the other one gets it
                await done[1 - mine].wait()
            if backend.name == "postgresql":
                await tx.execute("set local deadlock_timeout = '20ms'")
            async with tx.session() as session:
                await session.execute(sa.update(Page).where(Page.id == mine + 1).values(seen=Page.seen + 10))
                locked[mine].set()
                await locked[1 - mine].wait()
                page = await session.get(Page, 2 - mine, with_for_update=True)
                page.seen += 100
                await session.commit()

        return work

    async def worker(mine: int) -> None:
        await repeated(made, way, body(mine), retry=QUICK)
        done[mine].set()

    await harness.together(lambda: worker(0), lambda: worker(1))
    assert await numbers(made) == [111, 112]
    assert sum(calls) == 3
    assert [event.kind for event in attempts.failed] == [ErrorKind.DEADLOCK]
    assert made.stats().pool.checked_out == 0


@pytest.mark.parametrize("way", WAYS)
async def test_a_conflict_of_a_session_is_repeated(made: Any, backend: Backend, way: str) -> None:
    """40001 on PostgreSQL, 1020 on MariaDB: somebody changed what was read here; done after two attempts."""
    if backend.server is None:
        pytest.skip("SQLite's writers wait for their turn at BEGIN")
    if backend.name == "mariadb":
        backend.server.execute("set global innodb_snapshot_isolation = on")
    calls = []

    async def body(tx: Any) -> None:
        calls.append("call")
        async with tx.session() as session:
            page = (await session.execute(sa.select(Page).where(Page.id == 1))).scalar_one()
            if len(calls) == 1:
                backend.server.execute(
                    "update page set seen = seen + 100 where id = 1", database=sa.make_url(backend.url).database
                )
            page.seen += 10
            await session.commit()

    # Connections that were made before have the old setting.
    db = fresh(made, backend)
    try:
        await repeated(db, way, body, retry=QUICK, isolation="REPEATABLE READ")
    finally:
        if backend.name == "mariadb":
            backend.server.execute("set global innodb_snapshot_isolation = off")
        await db.close()
    assert calls == ["call", "call"]
    assert await numbers(made) == [111, 2]


def fresh(db: Any, backend: Backend) -> Any:
    return make_database("async" if getattr(db, "_wrapped", None) is None else "sync", backend.url)


async def test_control_sqlalchemys_class_alone_is_not_repeated(made: Any) -> None:
    """What a foreign engine raised, and what wraps one of ours, is nobody's promise: the body runs once."""
    calls = []

    async def foreign(tx: Any) -> None:
        calls.append("foreign")
        raise exc.OperationalError("update page", {}, Exception("deadlock detected"))

    async def wrapping(tx: Any) -> None:
        calls.append("wrapping")
        try:
            raise DeadlockError(
                "in the way", classification=errors.ErrorClass(ErrorKind.DEADLOCK, True, False, True, True)
            )
        except DeadlockError as error:
            raise LookupError("mine") from error

    with pytest.raises(exc.OperationalError):
        await made.run_in_transaction(foreign, retry=QUICK)
    with pytest.raises(LookupError):
        await made.run_in_transaction(wrapping, retry=QUICK)
    assert calls == ["foreign", "wrapping"]


STEPS = ["execute", "flush", "refresh", "commit", "stream"]


@pytest.mark.parametrize("step", STEPS)
async def test_a_lost_connection_of_a_session_is_repeated(made: Any, backend: Backend, world: str, step: str) -> None:
    """Wherever in the session it is noticed: the whole body runs again, once to effect."""
    if backend.server is None:
        pytest.skip("SQLite has no connection to lose")
    calls = []
    number = {"postgresql": "select pg_backend_pid()", "mariadb": "select connection_id()"}[backend.name]

    async def body(tx: Any) -> None:
        calls.append("call")
        async with tx.session() as session:
            page = await session.get(Page, 1)
            page.seen += 10
            await session.flush()
            mine = (await session.execute(sa.text(number))).scalar()
            if len(calls) == 1:
                kill_session(backend, int(mine))
            if step == "execute":
                await session.execute(sa.select(Page))
            if step == "refresh":
                await session.refresh(page)
            if step == "flush":
                page.seen += 0
                session.add(Page(id=3, seen=3))
                await session.flush()
            if step == "stream":
                assert len(await streamed(session, sa.select(Page))) == 2
            await session.commit()

    with warnings.catch_warnings():
        # SQLAlchemy leaves a cursor open whose connection is gone, and psycopg complains when it is collected.
        warnings.simplefilter("ignore", ResourceWarning)
        await made.run_in_transaction(body, retry=QUICK)
        gc.collect()
    assert calls == ["call", "call"]
    assert (await numbers(made))[:2] == [11, 2]
    assert made.stats().pool.checked_out == 0


async def streamed(session: Any, statement: Any) -> list[Any]:
    """Read by a server-side cursor, row by row, in either world."""
    if hasattr(session, "stream"):
        result = await session.stream(statement, execution_options={"yield_per": 1})
        return [row async for row in result]
    return (await session.execute(statement, execution_options={"yield_per": 1})).all()  # type: ignore[no-any-return]


async def test_a_lazy_load_counts_too(backend: Backend) -> None:
    """Reading an attribute is a statement as well."""
    if backend.server is None:
        pytest.skip("SQLite has no connection to lose")
    from prefiq_db import Database

    number = {"postgresql": "select pg_backend_pid()", "mariadb": "select connection_id()"}[backend.name]
    with Database(backend.url, retry=QUICK) as db:
        Base.metadata.create_all(db.engine)
        with db.session() as session, session.begin():
            session.add(Owner(id=1, name="one", pets=[Pet(id=1)]))
        calls = []

        def body(tx: Any) -> int:
            calls.append("call")
            with tx.session() as session:
                owner = session.get(Owner, 1)
                if len(calls) == 1:
                    kill_session(backend, int(session.execute(sa.text(number)).scalar()))
                return len(owner.pets)

        assert db.run_in_transaction(body) == 1
        assert calls == ["call", "call"]


async def test_a_session_that_is_used_after_its_failure(made: Any, backend: Backend, harness: Harness) -> None:
    """PendingRollbackError stands for the error before it: the body runs again when that one lets it."""
    calls = []

    def body(first: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
        async def work(tx: Any) -> None:
            calls.append("call")
            async with tx.session() as session:
                if len(calls) == 1:
                    with pytest.raises(exc.DBAPIError):
                        await first(session)
                await session.execute(sa.update(Page).where(Page.id == 1).values(seen=Page.seen + 10))
                await session.commit()

        return work

    async def lost(session: Any) -> None:
        kill_session(backend, int((await session.execute(sa.text(number))).scalar()))
        session.add(Owner(id=3, name="three"))
        await session.flush()

    with pytest.raises(exc.PendingRollbackError) as caught:
        await made.run_in_transaction(body(unique), retry=QUICK)
    assert_of_both(caught.value, TransactionAbortedError, exc.PendingRollbackError)
    assert calls == ["call"]
    if backend.server is None:
        return
    number = {"postgresql": "select pg_backend_pid()", "mariadb": "select connection_id()"}[backend.name]
    for way in WAYS:
        calls.clear()
        await repeated(made, way, body(lost), retry=QUICK)
        assert calls == ["call", "call"]
    assert await numbers(made) == [1 + 10 * len(WAYS), 2]


@pytest.mark.parametrize("way", WAYS)
async def test_a_stale_version_is_a_conflict(made: Any, backend: Backend, way: str) -> None:
    """Optimistic locking: who comes second runs again; when that doesn't help, the error is of both trees."""
    if backend.name == "sqlite":
        pytest.skip("SQLite's writers wait for their turn at BEGIN: nobody can come between")
    calls = []

    def body(disturbed: int) -> Callable[[Any], Awaitable[None]]:
        async def work(tx: Any) -> None:
            calls.append("call")
            async with tx.session() as session:
                page = await session.get(Page, 1)
                if len(calls) <= disturbed:
                    backend.server.execute(  # type: ignore[union-attr]
                        "update page set version = version + 1, seen = seen + 100 where id = 1",
                        database=sa.make_url(backend.url).database,
                    )
                page.seen += 10
                await session.commit()

        return work

    await repeated(made, way, body(1), retry=QUICK)
    assert calls == ["call", "call"]
    assert await numbers(made) == [111, 2]
    calls.clear()
    with pytest.raises(StaleDataError) as caught:
        await repeated(made, way, body(9), retry=RetryPolicy(attempts=2, wait_initial_seconds=0.001))
    assert isinstance(caught.value, SerializationError)
    assert calls == ["call", "call"]


async def test_a_swallowed_deadlock_runs_again(made: Any, harness: Harness, backend: Backend) -> None:
    """Who catches the error and goes on gets TransactionAbortedError, which passes as the deadlock would have."""
    if backend.name == "sqlite":
        pytest.skip("SQLite lets one writer in at a time: it can't deadlock")
    attempts = made.hooks.add(Attempts())
    locked = [harness.event(), harness.event()]

    def body(mine: int) -> Callable[[Any], Awaitable[None]]:
        async def work(tx: Any) -> None:
            if backend.name == "postgresql":
                await tx.execute("set local deadlock_timeout = '20ms'")
            await tx.execute("update page set seen = seen + 10 where id = :id", {"id": mine + 1})
            locked[mine].set()
            await locked[1 - mine].wait()
            with contextlib.suppress(DeadlockError):
                await tx.execute("update page set seen = seen + 100 where id = :id", {"id": 2 - mine})
            await tx.fetch_value("select count(*) from page")

        return work

    await harness.together(
        lambda: made.run_in_transaction(body(0), retry=QUICK), lambda: made.run_in_transaction(body(1), retry=QUICK)
    )
    assert await numbers(made) == [111, 112]
    assert [event.kind for event in attempts.failed] == [ErrorKind.USAGE]


@pytest.mark.parametrize("backend", [pytest.param("sqlite", marks=pytest.mark.sqlite)], indirect=True)
async def test_a_busy_sqlite_is_a_conflict_that_passes(made: Any, world: str) -> None:
    """A session that reads, and then writes when somebody else has written: done after two attempts."""
    calls = []

    async def work() -> None:
        calls.append("call")
        async with made.session() as session:
            page = await session.get(Page, 1)
            if len(calls) == 1:
                await made.execute("update page set seen = seen + 100 where id = 1")
            page.seen += 10
            await session.commit()

    with pytest.raises(exc.OperationalError) as caught:
        await work()
    assert_of_both(caught.value, SerializationError, exc.OperationalError)
    calls.clear()
    if world == "async":
        await with_retry_async(policy=QUICK)(work)()
    else:
        with_retry(policy=QUICK)(lambda: drive(work()))()
    assert calls == ["call", "call"]
    assert await numbers(made) == [211, 2]


# --- unknown outcomes ----------------------------------------------------------------------------


async def test_a_lost_reply_to_a_sessions_commit_is_never_a_second_one(
    made: Any, backend: Backend, world: str, harness: Harness
) -> None:
    """COMMIT on its own connection: nobody knows, and with_retry doesn't guess; so in autocommit."""
    if backend.server is None:
        pytest.skip("SQLite has no reply to lose")
    calls = []
    with ReplyCutter(backend.server.host, backend.server.port) as cutter:
        db = make_database(world, cutter.url(backend.url), ssl_mode="disable", pool_size=1)
        await db.open()

        async def work() -> None:
            calls.append("call")
            async with db.session() as session:
                await session.execute(sa.update(Page).where(Page.id == 1).values(seen=Page.seen + 10))
                await session.commit()

        async def send() -> None:
            if world == "async":
                await with_retry_async(policy=QUICK)(work)()
            else:
                with_retry(policy=QUICK)(lambda: drive(work()))()

        failure = await with_lost_reply(cutter, harness, b"COMMIT", send)
        assert_of_both(failure, OutcomeUnknownError, exc.DBAPIError)
        assert calls == ["call"]
        assert await numbers(made) == [11, 2]
        cutter.swallowed = 0

        async def by_itself() -> None:
            await on_engine(
                db,
                lambda connection: connection.execute(sa.text("update page set seen = seen + 100 where id = 1")),
                isolation_level="AUTOCOMMIT",
            )

        failure = await with_lost_reply(cutter, harness, b"seen + 100", by_itself)
        assert_of_both(failure, OutcomeUnknownError, exc.DBAPIError)
        assert await numbers(made) == [111, 2]
        await db.close()


# --- errors met elsewhere ------------------------------------------------------------------------


@pytest.mark.parametrize("plain", ["sync", "async"])
async def test_an_error_of_a_foreign_engine_can_be_read(backend: Backend, plain: str) -> None:
    """as_prefiq_error: kind, code and names from an engine that is none of ours; it changes nothing of the error."""
    drivers = {
        "sqlite": {"sync": "sqlite", "async": "sqlite+aiosqlite"},
        "postgresql": {"sync": "postgresql+psycopg", "async": "postgresql+psycopg"},
        "mariadb": {"sync": "mariadb+pymysql", "async": "mariadb+asyncmy"},
    }
    url = sa.make_url(backend.url).set(drivername=drivers[backend.name][plain])
    error = await _provoked(url, plain)
    assert VALUE in str(error)
    before = (str(error), error.orig, error.__cause__, error.params)
    made = as_prefiq_error(error, database="foreign")
    assert isinstance(made, UniqueViolationError)
    assert made.database == "foreign"
    assert str(made.code) in ("23505", "1062", "2067")
    assert VALUE not in f"{made} {made!r} {made.__dict__}"
    assert (str(error), error.orig, error.__cause__, error.params) == before
    assert error.__traceback__ is not None
    assert isinstance(as_prefiq_error(error.orig), UniqueViolationError)  # type: ignore[arg-type]
    assert as_prefiq_error(made) is made


async def _provoked(url: sa.URL, plain: str) -> exc.IntegrityError:
    table = sa.Table("strange", sa.MetaData(), sa.Column("name", sa.String(40), unique=True))

    def work(connection: sa.Connection) -> None:
        table.create(connection)
        for _ in range(2):
            connection.execute(table.insert().values(name=VALUE))

    with pytest.raises(exc.IntegrityError) as caught:
        if plain == "sync":
            engine = sa.create_engine(url)
            try:
                with engine.begin() as connection:
                    work(connection)
            finally:
                engine.dispose()
        else:
            from sqlalchemy.ext.asyncio import create_async_engine

            strange: AsyncEngine = create_async_engine(url)
            try:
                async with strange.begin() as awaited:
                    await awaited.run_sync(work)
            finally:
                await strange.dispose()
    return caught.value


async def test_what_is_no_databases_error_passes() -> None:
    for error in (ValueError(VALUE), KeyboardInterrupt(), asyncio.CancelledError()):
        with pytest.raises(TypeError, match="let it pass"):
            as_prefiq_error(error)
    with pytest.raises(UsageError, match="dialect"):
        as_prefiq_error(exc.NoResultFound("none"), dialect="oracle")
    assert isinstance(as_prefiq_error(exc.NoResultFound("none")), UsageError)
    lost = as_prefiq_error(exc.OperationalError("x", {}, ConnectionResetError()), dialect="mariadb")
    assert isinstance(lost, ConnectionLostError)


async def test_what_a_signal_handler_raises_goes_through_a_session_unchanged(made: Any) -> None:
    """Neither the driver's nor ours: the very instance, for whoever waits for it."""

    class TimeLimitError(Exception):
        pass

    limit = TimeLimitError("over")

    def interrupted(*arguments: Any) -> None:
        raise limit

    core = getattr(made, "_wrapped", made)._core
    sa.event.listen(core.instance.engine, "before_cursor_execute", interrupted)
    try:
        with pytest.raises(TimeLimitError) as caught:
            async with made.session() as session:
                await session.execute(sa.select(Page))
    finally:
        sa.event.remove(core.instance.engine, "before_cursor_execute", interrupted)
    assert caught.value is limit
    assert not isinstance(caught.value, Both)
    assert str(caught.value) == "over"


# --- sessions that join --------------------------------------------------------------------------


async def test_what_a_joined_session_has_loaded_can_be_read_after_the_block(made: Any, world: str) -> None:
    """Its objects don't expire when it commits: there is no connection any more to load them from."""
    async with made.transaction() as tx, tx.session() as session:
        page = await session.get(Page, 1)
        page.seen += 10
        await session.commit()
    assert page.seen == 11
    async with made.transaction(), made.session() as session:
        page = await session.get(Page, 2)
        await session.commit()
    assert page.seen == 2
    async with made.transaction() as tx, tx.session(expire_on_commit=True) as session:
        page = await session.get(Page, 2)
        await session.commit()
        assert sa.inspect(page).expired_attributes
