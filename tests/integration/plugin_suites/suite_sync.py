"""Every verb in the sync world; each test begins with one row and leaves nothing behind."""

from __future__ import annotations

import threading

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase

from conftest import item
from prefiq_db import Database
from prefiq_db.config import RetryPolicy
from prefiq_db.errors import (
    DeadlockError,
    ForeignKeyViolationError,
    PoolTimeoutError,
    PrefiqDbError,
    ReadOnlyError,
    StatementRefusedError,
    TransactionOwnershipError,
    UniqueViolationError,
    UsageError,
)
from prefiq_db.reports import Outcome
from prefiq_db.testing import no_waits


class Base(DeclarativeBase):
    pass


class Item(Base):
    __table__ = item.to_metadata(Base.metadata)


def rows(db: Database) -> set[tuple[str, int]]:
    return {(row.sku, row.qty) for row in db.fetch_all("select sku, qty from item")}


def test_statements(db: Database) -> None:
    assert db.execute(item.insert().values(sku="a", qty=1)).rowcount == 1
    assert (
        db.execute_many("insert into item values (:sku, :qty)", [{"sku": "b", "qty": 2}, {"sku": "c", "qty": 3}]) == 2
    )
    assert db.fetch_one("select qty from item where sku = 'b'").qty == 2
    assert db.fetch_exactly_one("select qty from item where sku = 'c'").qty == 3
    assert db.fetch_value("select count(*) from item") == 4


def test_a_failed_statement_undoes_itself_alone(db: Database) -> None:
    db.execute("insert into item values ('a', 1)")
    for _ in range(2):
        with pytest.raises(UniqueViolationError):
            db.execute("insert into item values ('a', 1)")
    with pytest.raises(PrefiqDbError):
        db.fetch_all("select nothing from item")
    assert rows(db) == {("seed", 1), ("a", 1)}


def test_many_rows(db: Database) -> None:
    assert db.bulk_insert("item", ((f"b{n}", n) for n in range(50)), columns=["sku", "qty"]).row_count == 50
    given = [{"sku": "b1", "qty": 100}, {"sku": "new", "qty": 1}]
    upserted = db.upsert("item", given, key=["sku"], returning=["sku", "qty"])
    assert {(row.sku, row.qty) for row in upserted.rows} == {("b1", 100), ("new", 1)}
    with db.stream("select sku from item order by sku", batch_size=10) as stream:
        assert len(list(stream)) == 52
    with db.stream("select sku from item order by sku", batch_size=3) as stream:
        for _ in stream:
            break  # left early, and the connection lives on
    assert db.fetch_value("select count(*) from item") == 52


def test_batch(db: Database) -> None:
    results = db.batch(["insert into item values ('a', 1)", ("delete from item where sku = :sku", {"sku": "seed"})])
    assert [result.rowcount for result in results] == [1, 1]
    with pytest.raises(UniqueViolationError) as failure:
        db.batch(["insert into item values ('b', 1)", "insert into item values ('a', 1)"])
    assert failure.value.statement_index == 1
    db.batch(["insert into item values ('c', 1)"], exactly_once=True)
    assert rows(db) == {("a", 1), ("c", 1)}


def test_transactions_are_outermost(db: Database) -> None:
    told: list[str] = []
    with db.transaction(exactly_once=True, durable=True, isolation="SERIALIZABLE", timeout=20) as tx:
        tx.on_commit(lambda: told.append(f"committed, {db.fetch_value('select count(*) from item')} rows"))
        db.execute("insert into item values ('a', 1)")
        with pytest.raises(ZeroDivisionError), db.transaction() as inner:
            inner.on_rollback(lambda: told.append("undone"))
            inner.execute("insert into item values ('b', 1)")
            raise ZeroDivisionError
        token = tx.token
    assert tx.outcome is Outcome.COMMITTED
    assert told == ["undone", "committed, 2 rows"]
    assert db.resolve_outcome(token) is Outcome.COMMITTED
    with pytest.raises(ZeroDivisionError), db.transaction(exactly_once=True) as tx:
        tx.on_rollback(lambda: told.append("rolled back"))
        tx.execute("insert into item values ('c', 1)")
        token = tx.token
        raise ZeroDivisionError
    assert tx.outcome is Outcome.NOT_COMMITTED
    assert told[-1] == "rolled back"
    assert db.resolve_outcome(token) is Outcome.NOT_COMMITTED
    with db.transaction() as tx:
        tx.execute("delete from item")
        tx.rollback()
    with db.transaction() as tx:
        tx.execute("insert into item values ('last', 1)", last=True)
    assert rows(db) == {("seed", 1), ("a", 1), ("last", 1)}


def test_a_read_only_transaction_refuses_to_write(db: Database) -> None:
    with pytest.raises(ReadOnlyError), db.transaction(read_only=True) as tx:
        assert tx.fetch_value("select count(*) from item") == 1
        tx.execute("insert into item values ('a', 1)")
    with db.transaction(read_only=True) as tx:
        tx.fetch_value("select 1")
    with pytest.raises(PrefiqDbError):
        db.using(read_only=True).execute("insert into item values ('a', 1)")
    db.execute("insert into item values ('b', 1)")  # the next one may write
    assert rows(db) == {("seed", 1), ("b", 1)}


def test_retries(db: Database) -> None:
    tries: list[int] = []

    def fails_twice(tx: object) -> int:
        db.execute("insert into item values (:sku, 1)", {"sku": f"t{len(tries)}"})
        tries.append(1)
        if len(tries) < 3:
            raise DeadlockError("deadlock", classification=_again())
        return len(tries)

    with no_waits():
        policy = RetryPolicy(wait_initial_seconds=1000, wait_max_seconds=1000, total_seconds=5000)
        assert db.run_in_transaction(fails_twice, retry=policy, exactly_once=True) == 3
    for attempt in db.attempts():
        with attempt as tx:
            tx.execute("insert into item values ('attempt', 1)")

    @db.transactional
    def decorated(tx: object) -> None:
        db.execute("insert into item values ('decorated', 1)")

    decorated()
    assert rows(db) == {("seed", 1), ("t2", 1), ("attempt", 1), ("decorated", 1)}


def _again() -> object:
    from prefiq_db import ErrorClass, ErrorKind

    return ErrorClass(ErrorKind.DEADLOCK, transient=True, retry_transaction=True)


def test_sqlalchemys_own_words(db: Database) -> None:
    with db.session() as session:
        session.add(Item(sku="a", qty=1))
        session.flush()
        with session.begin_nested():
            session.add(Item(sku="b", qty=1))
        session.commit()
        session.add(Item(sku="c", qty=1))
        session.rollback()
    with db.engine.begin() as connection:
        connection.execute(item.insert().values(sku="d", qty=1))
    with db.engine.connect() as connection:
        connection.execute(item.insert().values(sku="e", qty=1))  # closed without a commit
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(item.insert().values(sku="f", qty=1))
        with pytest.raises(sa.exc.IntegrityError):
            connection.execute(item.insert().values(sku="f", qty=1))
    assert rows(db) == {("seed", 1), ("a", 1), ("b", 1), ("d", 1), ("f", 1)}
    with pytest.raises(UsageError, match="db_committed"):
        db.engine.raw_connection()


def test_overrides_and_health(db: Database) -> None:
    db.using(timeout=3, tags={"who": "test"}).execute("insert into item values ('a', 1)")
    with db.override(timeout=2), db.transaction():
        db.execute("insert into item values ('b', 1)")
    assert db.test_connection()
    assert db.ping() >= 0
    assert db.health().healthy
    assert db.stats().pool.checked_out == 0
    assert rows(db) == {("seed", 1), ("a", 1), ("b", 1)}


@pytest.mark.databases("sqlite", "postgresql")
def test_deferred_constraints_are_checked_at_the_commit(db: Database) -> None:
    with pytest.raises(ForeignKeyViolationError), db.transaction() as tx:
        tx.execute("insert into part values (1, 'nobody')")
        assert tx.fetch_value("select count(*) from part") == 1
    with pytest.raises(ForeignKeyViolationError):
        db.execute("insert into part values (2, 'nobody')")
    with db.transaction() as tx:  # still deferred
        tx.execute("insert into part values (3, 'late')")
        tx.execute("insert into item values ('late', 1)")
    assert db.fetch_value("select count(*) from part") == 1


@pytest.mark.databases("postgresql")
def test_what_a_transaction_sets_for_itself_ends_with_it(db: Database) -> None:
    names = ("lock_timeout", "statement_timeout", "search_path")
    ask = "select " + ", ".join(f"current_setting('{name}')" for name in names)
    before = tuple(db.fetch_one(ask))
    with db.transaction(timeout=3) as tx:
        tx.execute("set local lock_timeout = '123ms'")
        tx.execute("set local suite.tenant = 'a'")
        assert tx.fetch_value("select current_setting('lock_timeout')") == "123ms"
    assert tuple(db.fetch_one(ask)) == before
    assert db.fetch_value("select current_setting('suite.tenant', true)") == ""
    db.execute("create schema tenant")
    db.execute("create table tenant.item (sku varchar(20))")
    with db.override(schema="tenant"), db.transaction(exactly_once=True) as tx:
        tx.execute("insert into item values ('theirs')")
        token = tx.token
    assert tuple(db.fetch_one(ask)) == before
    assert db.fetch_value("select count(*) from tenant.item") == 1
    assert db.resolve_outcome(token) is Outcome.COMMITTED


def test_the_database_of_a_tenant_is_refused(db: Database) -> None:
    with pytest.raises(UsageError, match="db_committed"):
        db.using(database="other").fetch_value("select 1")


@pytest.mark.databases("sqlite", "postgresql")
def test_tables_that_a_test_makes_are_undone(db: Database) -> None:
    assert not sa.inspect(db.engine).has_table("made")
    db.execute("create table made (id integer)")
    db.execute("insert into made values (1)")


@pytest.mark.databases("mariadb")
def test_mariadb_would_commit_at_ddl(db: Database) -> None:
    for _ in range(2):
        with pytest.raises(StatementRefusedError, match="db_committed"):
            db.execute("create table made (id integer)")
    with pytest.raises(StatementRefusedError, match="db_committed"), db.engine.begin() as connection:
        connection.exec_driver_sql("alter table item add column other integer")
    with db.transaction() as tx:
        tx.execute("create temporary table passing (id integer)")
        tx.execute("drop temporary table passing")


def test_threads_take_turns(db: Database) -> None:
    failures: list[Exception] = []

    def sell(number: int) -> None:
        try:
            with db.transaction() as tx:
                tx.execute("insert into item values (:sku, 1)", {"sku": f"thread {number}"})
                tx.fetch_value("select count(*) from item")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=sell, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(rows(db)) == 9


def test_who_would_wait_for_himself_is_told(db: Database) -> None:
    with db.engine.connect(), pytest.raises(UsageError, match="db_committed"):
        db.execute("select 1")
    assert rows(db) == {("seed", 1)}


def test_a_connection_that_does_not_come_back(db: Database) -> None:
    seen: list[Exception] = []

    def wait() -> None:
        try:
            db.using(timeout=0.2).fetch_value("select 1")
        except PrefiqDbError as error:
            seen.append(error)

    with db.transaction() as tx:
        tx.execute("insert into item values ('a', 1)")
        thread = threading.Thread(target=wait)
        thread.start()
        thread.join()
    assert isinstance(seen[0], PoolTimeoutError | TransactionOwnershipError)
    assert "db_committed" in str(seen[0])


def test_asked_for_during_the_test(request: pytest.FixtureRequest) -> None:
    late: Database = request.getfixturevalue("db")
    late.execute("insert into item values ('a', 1)")


@pytest.mark.no_waits
@pytest.mark.max_statements(2)
@pytest.mark.no_n_plus_one
def test_markers(db: Database) -> None:
    rows(db)
    rows(db)
