"""Every error kind that a server can produce is provoked on it, and lands in the same class on every database.

``KINDS`` is the table: for each kind and database the ways to meet it there, or the reason why there is none.
``docs/errors.md`` shows it; ``python -m tests.integration.test_error_kinds`` prints the rows for it.
"""

from __future__ import annotations

import asyncio
import functools
import os
import pickle
import signal
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from select import select
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from prefiq_db.errors import ErrorKind, PrefiqDbError, error_type
from prefiq_db.testing import DatabaseServer
from prefiq_db.testing.processes import wait_until
from prefiq_db.translation.classify import Phase
from prefiq_db.translation.translate import translate
from tests.twins.support import let_the_picture_grow_old

pytestmark = pytest.mark.integration

K = ErrorKind
CANARY = "hunter2canary"
DATABASES = ("sqlite", "postgresql", "mariadb")
_DRIVERS = {"sqlite": "sqlite+pysqlite", "postgresql": "postgresql+psycopg", "mariadb": "mariadb+pymysql"}
_ASYNC_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg", "mariadb": "mariadb+asyncmy"}
_WAIT_SECONDS = 20.0


@dataclass(frozen=True)
class Met:
    """An error as a driver raised it, and what the border knows about it."""

    error: BaseException
    phase: Phase = "statement"
    cancelled_by_timeout: bool | None = None


@dataclass
class Bench:
    """One database to break things in: connections, a second thread, and the administrator.

    Attributes:
        dialect: its name.
        url: its URL for SQLAlchemy.
        server: the server it is on; ``None`` for SQLite.
        new_server: makes a server that may be stopped, killed and corrupted.
    """

    dialect: str
    url: sa.URL
    server: DatabaseServer | None
    new_server: Callable[..., DatabaseServer]
    stack: ExitStack = field(default_factory=ExitStack)

    def engine(self, **options: Any) -> sa.Engine:
        url = options.pop("url", self.url)
        engine = sa.create_engine(url, **{"poolclass": sa.NullPool, **options})
        self.stack.callback(engine.dispose)
        return engine

    def connect(self, **options: Any) -> sa.Connection:
        connection = self.engine(**options).connect()
        self.stack.callback(_drop, connection)
        return connection

    def run(self, *statements: str) -> None:
        with self.engine().begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def admin(self, sql: str) -> list[tuple[Any, ...]]:
        assert self.server is not None
        return self.server.execute(sql)

    def later(self, act: Callable[[], object]) -> Future[object]:
        """Run *act* in another thread; its error is in the future."""
        executor = ThreadPoolExecutor(1)
        self.stack.callback(executor.shutdown, wait=False)  # it ends when the lock that it waits for is given up
        return executor.submit(act)

    def on(self, server: DatabaseServer) -> Bench:
        """Return a bench on another server, in a database of its own."""
        url = sa.make_url(server.url(server.create_database())).set(drivername=_DRIVERS[self.dialect])
        return Bench(self.dialect, url, server, self.new_server, self.stack)

    def private(self, **settings: str) -> Bench:
        """Return a bench on a server that may be broken."""
        return self.on(self.new_server(settings=settings))


def _drop(connection: sa.Connection) -> None:
    """Close the socket: whatever was done to the connection, nobody tries to be polite to it."""
    if not connection.closed and not connection.invalidated:
        connection.invalidate()


Act = Callable[[Bench], Met]


@dataclass(frozen=True)
class Way:
    """One way to meet a kind.

    Attributes:
        what: what is done, in few words.
        code: the code that the server must answer with; ``None`` where it gives none; one of several where it depends
            on whether the write or the read finds the line broken.
        act: does it.
    """

    what: str
    code: str | int | tuple[int, ...] | None
    act: Act


def raised(act: Callable[[], object]) -> BaseException:
    """Return what *act* raises."""
    try:
        act()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until the server shows *condition*."""
    assert wait_until(condition, timeout_seconds=_WAIT_SECONDS)


# --- ways to fail --------------------------------------------------------------------------------


def statement(failing: str, *setup: str) -> Act:
    """Prepare the database with *setup*, then run one statement that fails."""

    def act(bench: Bench) -> Met:
        if setup:
            bench.run(*setup)
        connection = bench.connect()
        if bench.dialect == "sqlite":
            connection.exec_driver_sql("pragma foreign_keys = on")
        return Met(raised(lambda: connection.exec_driver_sql(failing)))

    return act


def session(failing: str, *before: str) -> Act:
    """Run *before* and then the statement that fails, all on one connection and in its transaction."""

    def act(bench: Bench) -> Met:
        connection = bench.connect()
        for sql in before:
            connection.exec_driver_sql(sql)
        return Met(raised(lambda: connection.exec_driver_sql(failing)))

    return act


def connecting(**changes: Any) -> Act:
    """Connect with a URL that differs in *changes*."""

    def act(bench: Bench) -> Met:
        return Met(raised(lambda: bench.connect(url=bench.url.set(**changes))), "connect")

    return act


def closed_port(bench: Bench) -> Met:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can get it
        return connecting(host="127.0.0.1", port=unused.getsockname()[1])(bench)


def missing_folder(bench: Bench) -> Met:
    return connecting(database=str(Path(bench.url.database or "").parent / "missing" / "app.db"))(bench)


def user(bench: Bench, *statements: str) -> sa.URL:
    """Make a user without rights, run *statements* (``{user}`` stands for it), and return a URL to log in with."""
    name = f"u_{(bench.url.database or '')[-12:]}"
    account = {"postgresql": name, "mariadb": f"'{name}'@'%'"}[bench.dialect]
    make = {"postgresql": "create role {} login password 'pw'", "mariadb": "create user {} identified by 'pw'"}
    drop = {"postgresql": "drop owned by {0} cascade; drop role {0}", "mariadb": "drop user {}"}
    bench.admin(make[bench.dialect].format(account))

    def remove() -> None:
        for sql in drop[bench.dialect].format(account).split(";"):
            assert bench.server is not None
            if bench.server.running:
                bench.server.execute(sql, bench.url.database)

    bench.stack.callback(remove)
    for sql in statements:
        assert bench.server is not None
        bench.server.execute(sql.format(user=account), bench.url.database)
    return bench.url.set(username=name, password="pw")


def as_user(failing: str, *statements: str, setup: tuple[str, ...] = ()) -> Act:
    """Run one statement as somebody without rights."""

    def act(bench: Bench) -> Met:
        bench.run(*setup)
        url = user(bench, *statements)
        connection = bench.connect(url=url)
        return Met(raised(lambda: connection.exec_driver_sql(failing)))

    return act


def connecting_as_user(*statements: str, keep: int = 0) -> Act:
    """Connect as somebody without rights, *keep* times with success."""

    def act(bench: Bench) -> Met:
        url = user(bench, *statements)
        for _ in range(keep):
            bench.connect(url=url)
        return Met(raised(lambda: bench.connect(url=url)), "connect")

    return act


def wrong_password(bench: Bench) -> Met:
    url = user(bench).set(password=CANARY)
    return Met(raised(lambda: bench.connect(url=url)), "connect")


def deadlock(bench: Bench) -> Met:
    bench.run("create table t (id int primary key, n int)", "insert into t values (1, 0), (2, 0)")
    connections = [bench.connect(), bench.connect()]
    for own, connection in enumerate(connections, start=1):
        if bench.dialect == "postgresql":
            connection.exec_driver_sql("set deadlock_timeout = '20ms'")
        connection.exec_driver_sql(f"update t set n = 1 where id = {own}")

    def cross(index: int) -> BaseException | None:
        other = 2 - index
        try:
            connections[index].exec_driver_sql(f"update t set n = 2 where id = {other}")
        except sa.exc.DBAPIError as error:
            return error
        finally:
            connections[index].rollback()  # lets the survivor go on
        return None

    ends = [bench.later(functools.partial(cross, index)) for index in range(2)]
    errors = [error for end in ends if isinstance(error := end.result(_WAIT_SECONDS), BaseException)]
    assert len(errors) == 1
    return Met(errors[0])


def two_sessions(
    before: tuple[str, ...], disturb: str, failing: str, *options: str, isolation: str | None = None
) -> Act:
    """Begin and run *before*; let another session commit or hold *disturb*; then run what fails."""

    def act(bench: Bench) -> Met:
        bench.run("create table t (id int primary key, n int)", "insert into t values (1, 0)")
        first, second = bench.connect(), bench.connect()
        for sql in options:
            first.exec_driver_sql(sql)
        first.commit()
        if isolation:
            first = first.execution_options(isolation_level=isolation)
        for sql in before:
            first.exec_driver_sql(sql).close()
        second.exec_driver_sql(disturb)
        second.commit()
        return Met(raised(lambda: first.exec_driver_sql(failing)))

    return act


def locked(failing: str, *options: str) -> Act:
    """Run a statement that needs a row which another session has locked."""

    def act(bench: Bench) -> Met:
        bench.run("create table t (id int primary key, n int)", "insert into t values (1, 0)")
        holder, waiter = bench.connect(), bench.connect()
        if bench.dialect == "sqlite":
            holder.exec_driver_sql("begin immediate")
        holder.exec_driver_sql("update t set n = 1 where id = 1")
        for sql in options:
            waiter.exec_driver_sql(sql)
        return Met(raised(lambda: waiter.exec_driver_sql(failing)))

    return act


_IS_WAITING = {
    "postgresql": "select 1 from pg_stat_activity where pid = {} and wait_event_type = 'Lock'",
    "mariadb": (
        "select 1 from information_schema.processlist p left join information_schema.innodb_trx t"
        " on t.trx_mysql_thread_id = p.id"
        " where p.id = {} and (t.trx_state = 'LOCK WAIT' or p.state = 'Waiting for backup lock')"
    ),
}
_SESSION = {"postgresql": "select pg_backend_pid()", "mariadb": "select connection_id()"}


def until_waiting(bench: Bench, session: int) -> None:
    """Wait until *session* waits for a lock."""

    def is_waiting() -> bool:
        let_the_picture_grow_old(bench.dialect)
        return bool(bench.admin(_IS_WAITING[bench.dialect].format(session)))

    eventually(is_waiting)


def while_waiting(
    stop: str, *, failing: str = "update t set n = 2 where id = 1", by_timeout: bool | None = None
) -> Act:
    """Let a session wait for a row's lock, and stop it from outside with *stop* (``{}`` is its number)."""

    def act(bench: Bench) -> Met:
        bench.run("create table t (id int primary key, n int)", "insert into t values (1, 0)")
        holder, waiter = bench.connect(), bench.connect()
        holder.exec_driver_sql("update t set n = 1 where id = 1")
        number = waiter.exec_driver_sql(_SESSION[bench.dialect]).scalar()
        end = bench.later(lambda: raised(lambda: waiter.exec_driver_sql(failing)))
        until_waiting(bench, number)
        bench.admin(stop.format(number))
        error = end.result(_WAIT_SECONDS)
        assert isinstance(error, BaseException)
        return Met(error, cancelled_by_timeout=by_timeout)

    return act


def until_closed(connection: sa.Connection) -> None:
    """Wait until the server has closed the connection from its side: its socket becomes readable."""
    driver: Any = connection.connection.dbapi_connection
    readable, _, _ = select([getattr(driver, "_sock", None) or driver.fileno()], [], [], _WAIT_SECONDS)
    assert readable


def idle(limit: str, *, begin: bool) -> Act:
    """Leave a session, or a transaction, alone for longer than the server allows."""

    def act(bench: Bench) -> Met:
        bench.run("create table t (id int)")
        connection = bench.connect()
        connection.exec_driver_sql(limit)
        connection.commit()
        if begin:
            connection.exec_driver_sql("insert into t values (1)")
        until_closed(connection)
        return Met(raised(lambda: connection.exec_driver_sql("select 1")))

    return act


def killed_server(bench: Bench) -> Met:
    bench = bench.private()
    connection = bench.connect()
    connection.exec_driver_sql("select 1").close()
    assert bench.server is not None
    bench.server.kill()
    return Met(raised(lambda: connection.exec_driver_sql("select 1")))


def stopped_server(bench: Bench) -> Met:
    bench = bench.private()
    connection = bench.connect()
    connection.exec_driver_sql("select 1").close()
    assert bench.server is not None
    bench.server.stop()
    return Met(raised(lambda: connection.exec_driver_sql("select 1")))


def closed_connection(bench: Bench) -> Met:
    connection = bench.connect()
    driver: Any = connection.connection.dbapi_connection
    driver.close()
    return Met(raised(lambda: connection.exec_driver_sql("select 1")))


def shutting_down(bench: Bench) -> Met:
    """A smart shutdown waits for the open session, and lets nobody in meanwhile."""
    bench = bench.private()
    assert bench.server is not None
    bench.connect()
    os.kill(bench.server.pid, signal.SIGTERM)

    def refused() -> BaseException | None:
        try:
            bench.connect().close()
        except sa.exc.DBAPIError as error:
            return error
        return None

    eventually(lambda: refused() is not None)
    error = refused()
    assert error is not None
    return Met(error, "connect")


_GALERA = next(
    (path for path in ("/usr/lib/galera/libgalera_smm.so", "/usr/lib/libgalera_smm.so") if Path(path).exists()), None
)


def cut_off_node(phase: Phase) -> Act:
    """Make a Galera node of one, and let it refuse queries as a node without its cluster does."""

    def act(bench: Bench) -> Met:
        if _GALERA is None:
            pytest.skip("no Galera library: apt-get install galera-4")
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            second.bind(("127.0.0.1", 0))
            ports = first.getsockname()[1], second.getsockname()[1]
        bench = bench.private(
            wsrep_on="ON",
            wsrep_provider=_GALERA,
            wsrep_cluster_address="gcomm://",
            wsrep_provider_options=f"gmcast.listen_addr=tcp://127.0.0.1:{ports[0]};ist.recv_addr=127.0.0.1:{ports[1]}",
            binlog_format="ROW",
        )
        bench.run("create table t (id int primary key)")
        connection = bench.connect()
        connection.exec_driver_sql("insert into t values (1)")
        bench.admin("set global wsrep_reject_queries = all")
        if phase == "commit":
            return Met(raised(connection.commit), "commit")
        return Met(raised(lambda: connection.exec_driver_sql("select * from t")))

    return act


def full_server(bench: Bench) -> Met:
    bench = bench.private(max_connections="10")
    url = user(bench, *(["grant all on *.* to {user}"] if bench.dialect == "mariadb" else []))
    if bench.dialect == "mariadb":
        bench.admin(f"revoke super, connection admin on *.* from '{url.username}'@'%'")

    def fill() -> None:
        for _ in range(12):
            bench.connect(url=url)

    error = raised(fill)
    bench.stack.close()  # before the user is dropped, by the administrator, who needs a place
    return Met(error, "connect")


def dying_at_commit(bench: Bench) -> Met:
    """COMMIT has reached the server and waits there; then the session is ended."""
    if bench.dialect == "mariadb":
        bench = bench.private()  # a global lock
    bench.run(*_COMMIT_WAITS[bench.dialect])
    holder, victim = bench.connect(), bench.connect()
    number = victim.exec_driver_sql(_SESSION[bench.dialect]).scalar()
    victim.exec_driver_sql("insert into t values (1)")
    holder.exec_driver_sql(_COMMIT_BLOCKER[bench.dialect])
    end = bench.later(lambda: raised(victim.commit))
    until_waiting(bench, number)
    bench.admin(_END_SESSION[bench.dialect].format(number))
    error = end.result(_WAIT_SECONDS)
    assert isinstance(error, BaseException)
    return Met(error, "commit")


_COMMIT_WAITS = {
    "postgresql": (
        "create table t (id int)",
        "create function wait() returns trigger language plpgsql as"
        " $$ begin perform pg_advisory_xact_lock(42); return null; end $$",
        "create constraint trigger wait after insert on t deferrable initially deferred"
        " for each row execute function wait()",
    ),
    "mariadb": ("create table t (id int)",),
}
_COMMIT_BLOCKER = {"postgresql": "select pg_advisory_xact_lock(42)", "mariadb": "flush tables with read lock"}
_END_SESSION = {"postgresql": "select pg_terminate_backend({})", "mariadb": "kill {}"}


def deferred_at_commit(bench: Bench) -> Met:
    bench.run(
        "create table parent (id integer primary key)",
        "create table child (id integer references parent (id) deferrable initially deferred)",
    )
    connection = bench.connect()
    if bench.dialect == "sqlite":
        connection.exec_driver_sql("pragma foreign_keys = on")
        connection.exec_driver_sql("begin")
    connection.exec_driver_sql("insert into child values (1)")
    return Met(raised(connection.commit), "commit")


def full_pool(bench: Bench) -> Met:
    engine = bench.engine(poolclass=sa.QueuePool, pool_size=1, max_overflow=0, pool_timeout=0.01)
    with engine.connect():
        return Met(raised(engine.connect))


def interrupted(by_timeout: bool | None) -> Act:
    """Stop SQLite from its progress handler, as a timer would."""

    def act(bench: Bench) -> Met:
        connection = bench.connect()
        driver: Any = connection.connection.dbapi_connection
        driver.set_progress_handler(lambda: 1, 1)
        error = raised(lambda: connection.exec_driver_sql("select 1"))
        driver.set_progress_handler(None, 1)
        return Met(error, cancelled_by_timeout=by_timeout)

    return act


def not_authorised(bench: Bench) -> Met:
    connection = bench.connect()
    driver: Any = connection.connection.dbapi_connection
    driver.set_authorizer(lambda *_: sqlite3.SQLITE_DENY)
    error = raised(lambda: connection.exec_driver_sql("select 1"))
    driver.set_authorizer(None)
    return Met(error)


def read_only_server(bench: Bench) -> Met:
    bench = bench.private()
    bench.run("create table t (id int)")
    url = user(bench, "grant insert on t to {user}")
    bench.admin("set global read_only = 1")
    connection = bench.connect(url=url)
    error = raised(lambda: connection.exec_driver_sql("insert into t values (1)"))
    bench.admin("set global read_only = 0")
    return Met(error)


def after_a_failure(bench: Bench) -> Met:
    connection = bench.connect()
    raised(lambda: connection.exec_driver_sql("select * from nowhere"))
    return Met(raised(lambda: connection.exec_driver_sql("select 1")))


def damaged_file(bench: Bench) -> Met:
    Path(bench.url.database or "").write_bytes(b"this is no database, but it is long enough to be read as one" * 20)
    return Met(raised(lambda: bench.connect().exec_driver_sql("select * from sqlite_master")))


def damaged_table(bench: Bench) -> Met:
    """Write junk over a table's file while the server is down, or has it closed."""
    bench = bench.private()
    server = bench.server
    assert server is not None
    if bench.dialect == "postgresql":
        bench.run("create table t (id int)", "insert into t values (1)")
        (path,) = server.execute(
            "select current_setting('data_directory') || '/' || pg_relation_filepath('t')", bench.url.database
        )[0]
        server.stop()
        Path(path).write_bytes(b"\xff" * 8192)
        server.start()
    else:
        bench.run("create table t (id int) engine = myisam", "insert into t values (1)", "flush tables")
        (folder,) = server.execute("select @@datadir")[0]
        (Path(folder) / str(bench.url.database) / "t.MYI").write_bytes(b"\xff" * 1024)
    connection = bench.connect()
    return Met(raised(lambda: connection.exec_driver_sql("select * from t").fetchall()))


_PARENT = "create table parent (id integer primary key)"
_CHILD = (
    "create table child (id integer primary key, parent_id integer,"
    " constraint fk_parent foreign key (parent_id) references parent (id))"
)
_FAMILY = (_PARENT, _CHILD, "insert into parent values (1)", "insert into child values (1, 1)")
_ITEM = (
    "create table item (id integer primary key, sku varchar(10) not null, qty integer not null,"
    " constraint uq_sku unique (sku), constraint ck_qty check (qty >= 0))"
)
_ROW = "insert into item values (1, 'a', 1)"
_TRIGGER = "create trigger refuse before insert on item "
_SIGNAL = {
    "sqlite": f"{_TRIGGER} begin select raise(abort, '{CANARY}'); end",
    "postgresql": f"{_TRIGGER} for each row execute function refuse()",
    "mariadb": f"{_TRIGGER} for each row signal sqlstate '45000' set message_text = '{CANARY}'",
}
_REFUSE = (
    "create function refuse() returns trigger language plpgsql as $$ begin raise exception 'hunter2canary'; end $$"
)


def same(what: str, failing: str, *setup: str, **codes: str | int) -> dict[str, list[Way] | str]:
    """The same SQL on every database."""
    return {name: [Way(what, code, statement(failing, *setup))] for name, code in codes.items()}


def more(cells: dict[str, list[Way] | str], **further: list[Way]) -> dict[str, list[Way] | str]:
    """Return *cells* with further ways added."""
    merged = dict(cells)
    for name, ways in further.items():
        known = merged.get(name, [])
        assert isinstance(known, list)
        merged[name] = [*known, *ways]
    return merged


_REVOKE_CONNECT = "do $$ begin execute format('revoke connect on database %I from public', current_database()); end $$"
_BROKEN = (2013, 2006)
_NO_SERVER = "there is no server: the library works on the file itself"

#: For each kind and database: ways to meet it there, or why there is none.
KINDS: dict[ErrorKind, dict[str, list[Way] | str]] = {
    K.UNIQUE: more(
        same(
            "a second row with the same unique key",
            f"insert into item values (2, '{CANARY[:9]}', 1)",
            _ITEM,
            f"insert into item values (1, '{CANARY[:9]}', 1)",
            sqlite=2067,
            postgresql="23505",
            mariadb=1062,
        ),
        sqlite=[Way("the same primary key", 1555, statement(_ROW, _ITEM, _ROW))],
        postgresql=[Way("the same primary key", "23505", statement(_ROW, _ITEM, _ROW))],
        mariadb=[Way("the same primary key", 1062, statement(_ROW, _ITEM, _ROW))],
    ),
    K.FOREIGN_KEY: more(
        same(
            "a child without a parent",
            "insert into child values (1, 99)",
            _PARENT,
            _CHILD,
            sqlite=787,
            postgresql="23503",
            mariadb=1452,
        ),
        sqlite=[
            Way(
                "a parent with a child",
                787,
                statement("delete from parent", *_FAMILY),
            ),
            Way("deferred until COMMIT", 787, deferred_at_commit),
        ],
        postgresql=[
            Way(
                "a parent with a child",
                "23503",
                statement("delete from parent", *_FAMILY),
            ),
            Way("deferred until COMMIT", "23503", deferred_at_commit),
        ],
        mariadb=[
            Way(
                "a parent with a child",
                1451,
                statement("delete from parent", *_FAMILY),
            )
        ],
    ),
    K.NOT_NULL: more(
        same("NULL", "insert into item values (1, null, 1)", _ITEM, sqlite=1299, postgresql="23502", mariadb=1048),
        mariadb=[Way("no value and no default", 1364, statement("insert into item (id, qty) values (1, 1)", _ITEM))],
    ),
    K.CHECK: same(
        "a negative quantity",
        "insert into item values (1, 'a', -1)",
        _ITEM,
        sqlite=275,
        postgresql="23514",
        mariadb=4025,
    ),
    K.EXCLUSION: {
        "sqlite": "SQLite has no exclusion constraints",
        "postgresql": [
            Way(
                "overlapping ranges",
                "23P01",
                statement(
                    "insert into booking values ('[2, 4)')",
                    "create table booking (during int4range, constraint no_two exclude using gist (during with &&))",
                    "insert into booking values ('[1, 3)')",
                ),
            )
        ],
        "mariadb": "MariaDB has no exclusion constraints (WITHOUT OVERLAPS is a unique key there: unique)",
    },
    K.INTEGRITY: {
        "sqlite": [Way("a trigger raises", 1811, statement(_ROW, _ITEM, _SIGNAL["sqlite"]))],
        "postgresql": [Way("a trigger raises", "P0001", statement(_ROW, _ITEM, _REFUSE, _SIGNAL["postgresql"]))],
        "mariadb": [Way("a trigger raises", 1644, statement(_ROW, _ITEM, _SIGNAL["mariadb"]))],
    },
    K.SERIALIZATION: {
        "sqlite": [
            Way(
                "a write on an old snapshot",
                517,
                two_sessions(
                    ("begin", "select * from t"),
                    "update t set n = 1",
                    "update t set n = 2",
                    "pragma journal_mode = wal",
                ),
            )
        ],
        "postgresql": [
            Way(
                f"a lost update, {isolation.lower()}",
                "40001",
                two_sessions(("select * from t",), "update t set n = 1", "update t set n = 2", isolation=isolation),
            )
            for isolation in ("REPEATABLE READ", "SERIALIZABLE")
        ],
        "mariadb": [
            Way(
                "a lost update with innodb_snapshot_isolation",
                1020,
                two_sessions(
                    ("select * from t",),
                    "update t set n = 1",
                    "update t set n = 2",
                    "set innodb_snapshot_isolation = on",
                ),
            )
        ],
    },
    K.DEADLOCK: {
        "sqlite": "there is one writer at a time, and the second is told so at once: lock_timeout or serialization",
        "postgresql": [Way("two rows in opposite order", "40P01", deadlock)],
        "mariadb": [Way("two rows in opposite order", 1213, deadlock)],
    },
    K.LOCK_TIMEOUT: {
        "sqlite": [Way("a second writer", 5, locked("begin immediate", "pragma busy_timeout = 1"))],
        "postgresql": [
            Way("lock_timeout", "55P03", locked("update t set n = 2", "set lock_timeout = '20ms'")),
            Way("NOWAIT", "55P03", locked("select * from t for update nowait")),
        ],
        "mariadb": [
            Way("innodb_lock_wait_timeout", 1205, locked("update t set n = 2", "set innodb_lock_wait_timeout = 1")),
            Way("NOWAIT", 1205, locked("select * from t for update nowait")),
        ],
    },
    K.STATEMENT_TIMEOUT: {
        "sqlite": [
            Way("interrupted by our timer", 9, interrupted(True)),
            Way("interrupted by nobody we know", 9, interrupted(None)),
        ],
        "postgresql": [
            Way("statement_timeout", "57014", session("select pg_sleep(60)", "set statement_timeout = '20ms'")),
            Way("a cancel of our timer", "57014", while_waiting("select pg_cancel_backend({})", by_timeout=True)),
        ],
        "mariadb": [
            Way("max_statement_time", 1969, locked("update t set n = 2", "set max_statement_time = 0.02")),
            Way("KILL QUERY by our timer", 1317, while_waiting("kill query {}", by_timeout=True)),
        ],
    },
    K.TRANSACTION_TIMEOUT: {
        "sqlite": "SQLite has no such limit",
        "postgresql": [
            Way(
                "idle_in_transaction_session_timeout",
                "25P03",
                idle("set idle_in_transaction_session_timeout = '20ms'", begin=True),
            )
        ],
        "mariadb": "idle_transaction_timeout closes the connection without a word: connection_lost",
    },
    K.CONNECT_FAILED: {
        "sqlite": [Way("a folder that isn't there", 14, missing_folder)],
        "postgresql": [Way("a port where nobody listens", None, closed_port)],
        "mariadb": [Way("a port where nobody listens", 2003, closed_port)],
    },
    K.CONNECTION_LOST: {
        "sqlite": [Way("a closed connection", None, closed_connection)],
        "postgresql": [
            Way("the server is killed", None, killed_server),
            Way("idle_session_timeout", "57P05", idle("set idle_session_timeout = '20ms'", begin=False)),
            Way("a closed connection", None, closed_connection),
        ],
        "mariadb": [
            Way("the server is killed", _BROKEN, killed_server),
            Way("the server is stopped", _BROKEN, stopped_server),
            Way("KILL", _BROKEN, while_waiting("kill {}")),
            Way("idle_transaction_timeout", _BROKEN, idle("set idle_transaction_timeout = 1", begin=True)),
            Way("a closed connection", None, closed_connection),
        ],
    },
    K.TOO_MANY_CONNECTIONS: {
        "sqlite": _NO_SERVER,
        "postgresql": [
            Way("max_connections", None, full_server),
            Way("the role's limit", None, connecting_as_user("alter role {user} connection limit 1", keep=1)),
        ],
        "mariadb": [
            Way("max_connections", 1040, full_server),
            Way(
                "the user's limit",
                1226,
                connecting_as_user("grant all on * to {user} with max_user_connections 1", keep=1),
            ),
        ],
    },
    K.POOL_TIMEOUT: {name: [Way("a second checkout from a pool of one", None, full_pool)] for name in DATABASES},
    K.READ_ONLY: {
        "sqlite": [Way("query_only", 8, session("create table t (id)", "pragma query_only = on"))],
        "postgresql": [
            Way("a read-only transaction", "25006", session("create table t (id int)", "set transaction read only"))
        ],
        "mariadb": [
            Way(
                "a read-only transaction",
                1792,
                session("insert into t values (2)", "create table t (id int)", "start transaction read only"),
            ),
            Way("a read-only server", 1290, read_only_server),
        ],
    },
    K.NOT_READY: {
        "sqlite": _NO_SERVER,
        "postgresql": [Way("connecting while it shuts down", None, shutting_down)],
        "mariadb": [
            Way("a Galera node that takes no queries", 1047, cut_off_node("statement")),
            Way("the same, at COMMIT", 1047, cut_off_node("commit")),
        ],
    },
    K.SERVER_SHUTDOWN: {
        "sqlite": _NO_SERVER,
        "postgresql": [
            Way("the server is stopped", "57P01", stopped_server),
            Way("pg_terminate_backend", "57P01", while_waiting("select pg_terminate_backend({})")),
        ],
        "mariadb": "MariaDB 10.11 closes the connection without a word, on KILL and on shutdown: connection_lost",
    },
    K.AUTHENTICATION: {
        "sqlite": _NO_SERVER,
        "postgresql": [
            Way("a wrong password", None, wrong_password),
            Way("a user that isn't there", None, connecting(username="nobody_here")),
        ],
        "mariadb": [
            Way("a wrong password", 1045, wrong_password),
            Way("a user that isn't there", 1045, connecting(username="nobody_here")),
        ],
    },
    K.PERMISSION: {
        "sqlite": [Way("the authorizer says no", 23, not_authorised)],
        "postgresql": [
            Way(
                "a table of somebody else's",
                "42501",
                as_user("select * from item", "grant usage on schema public to {user}", setup=(_ITEM,)),
            ),
            Way(
                "a database of somebody else's",
                None,
                connecting_as_user(_REVOKE_CONNECT),
            ),
        ],
        "mariadb": [
            Way(
                "a table of somebody else's",
                1142,
                as_user("select * from item", "grant create on * to {user}", setup=(_ITEM,)),
            ),
            Way("a database of somebody else's", 1044, connecting_as_user()),
        ],
    },
    K.SYNTAX: same("a typing error", f"selec '{CANARY}'", sqlite=1, postgresql="42601", mariadb=1064),
    K.SCHEMA: more(
        same("a table that isn't there", "select * from nowhere", sqlite=1, postgresql="42P01", mariadb=1146),
        **{
            name: [
                Way("a column that isn't there", codes[0], statement("select nothing_here from item", _ITEM)),
                Way("a table that is there already", codes[1], statement(_ITEM, _ITEM)),
                Way("a function that isn't there", codes[2], statement("select nothing_here(1)")),
                *(
                    [Way("a database that isn't there", codes[3], connecting(database="nowhere"))]
                    if len(codes) > 3
                    else []
                ),
            ]
            for name, codes in {
                "sqlite": (1, 1, 1),
                "postgresql": ("42703", "42P07", "42883", None),
                "mariadb": (1054, 1050, 1305, 1049),
            }.items()
        },
    ),
    K.DATA: {
        "sqlite": [
            Way(
                "a text as a rowid",
                20,
                statement(f"insert into t values ('{CANARY}')", "create table t (id integer primary key)"),
            ),
            Way(
                "a text in a STRICT table",
                3091,
                statement(f"insert into t values ('{CANARY}')", "create table t (n int) strict"),
            ),
            Way("a result longer than allowed", 18, statement("select zeroblob(2000000000)")),
            Way("broken JSON", 1, statement(f"select json_extract('{{{CANARY}', '$')")),
        ],
        "postgresql": [
            Way("a text as a number", "22P02", statement(f"insert into item values (1, 'a', '{CANARY}')", _ITEM)),
            Way("too long", "22001", statement("insert into item values (1, 'hunter2canary', 1)", _ITEM)),
            Way("out of range", "22003", statement("insert into item values (1, 'a', 99999999999)", _ITEM)),
            Way("division by zero", "22012", statement("select 1 / 0")),
            Way("broken JSON", "22P02", statement(f"select '{{{CANARY}'::json")),
        ],
        "mariadb": [
            Way("a text as a number", 1366, statement(f"insert into item values (1, 'a', '{CANARY}')", _ITEM)),
            Way("too long", 1406, statement("insert into item values (1, 'hunter2canary', 1)", _ITEM)),
            Way("out of range", 1264, statement("insert into item values (1, 'a', 99999999999)", _ITEM)),
            Way("division by zero", 1365, statement("insert into item values (1, 'a', 1 / 0)", _ITEM)),
            Way("out of range in an expression", 1690, statement("select 18446744073709551615 + 1")),
        ],
    },
    K.RESOURCE: {
        "sqlite": [
            Way(
                "max_page_count",
                13,
                session("create table more (id)", "create table t (id)", "pragma max_page_count = 1"),
            )
        ],
        "postgresql": [
            Way(
                "temp_file_limit",
                "53400",
                session(
                    "select count(*) from (select random() r from generate_series(1, 100000) order by r) s",
                    "set temp_file_limit = 64",
                    "set work_mem = 64",
                ),
            ),
            Way(
                "an index row that is too big",
                "54000",
                statement(
                    "insert into t select string_agg(md5(n::text), '') from generate_series(1, 1000) n",
                    "create table t (x text)",
                    "create index on t (x)",
                ),
            ),
        ],
        "mariadb": [
            Way(
                "a full MEMORY table",
                1114,
                session(
                    "insert into m select repeat('x', 200) from seq_1_to_1000",
                    "set max_heap_table_size = 16384",
                    "create table m (x char(200)) engine = memory",
                ),
            )
        ],
    },
    K.CANCELLED: {
        "sqlite": [Way("interrupted by somebody", 9, interrupted(False))],
        "postgresql": [
            Way("pg_cancel_backend", "57014", while_waiting("select pg_cancel_backend({})")),
            Way(
                "the same, and our timer did not run",
                "57014",
                while_waiting("select pg_cancel_backend({})", by_timeout=False),
            ),
        ],
        "mariadb": [Way("KILL QUERY", 1317, while_waiting("kill query {}"))],
    },
    K.UNSUPPORTED: {
        "sqlite": [Way("a module that isn't there", 1, statement("create virtual table v using nothing_here"))],
        "postgresql": [Way("FOR UPDATE of a UNION", "0A000", statement("select 1 union select 2 for update"))],
        "mariadb": [
            Way(
                "LIMIT in a subquery",
                1235,
                statement("select * from item where id in (select id from item limit 1)", _ITEM),
            )
        ],
    },
    K.USAGE: {
        "sqlite": [
            Way("a savepoint that isn't there", 1, session("rollback to nowhere", "begin")),
            Way("BEGIN within a transaction", 1, session("begin", "begin")),
        ],
        "postgresql": [
            Way("a savepoint that isn't there", "3B001", session("rollback to nowhere")),
            Way("a statement after a failed one", "25P02", after_a_failure),
        ],
        "mariadb": [
            Way("a savepoint that isn't there", 1305, session("rollback to nowhere")),
            Way(
                "an isolation level within a transaction",
                1568,
                session("set transaction isolation level serializable", "start transaction"),
            ),
        ],
    },
    K.OUTCOME_UNKNOWN: {
        "sqlite": "COMMIT is a call within the process: only a disk that fails just then (10) leaves it open",
        "postgresql": [Way("the session dies while COMMIT waits", "57P01", dying_at_commit)],
        "mariadb": [Way("the session dies while COMMIT waits", _BROKEN, dying_at_commit)],
    },
    K.INTERNAL: {
        "sqlite": [Way("a file that is no database", 26, damaged_file)],
        "postgresql": [Way("a damaged page", "XX001", damaged_table)],
        "mariadb": [Way("a damaged index file", 130, damaged_table)],
    },
    K.UNKNOWN: {
        "sqlite": "every result code is known, and SQLite's users can't raise others",
        "postgresql": [
            Way(
                "RAISE with a SQLSTATE of one's own",
                "ZZ123",
                statement("do $$ begin raise exception 'hunter2canary' using errcode = 'ZZ123'; end $$"),
            )
        ],
        "mariadb": [
            Way(
                "SIGNAL with a number of one's own",
                9999,
                statement(
                    f"begin not atomic signal sqlstate '45000' set mysql_errno = 9999, message_text = '{CANARY}'; end"
                ),
            )
        ],
    },
}


# --- the tests -----------------------------------------------------------------------------------

_WAYS = [
    pytest.param(kind, name, way, id=f"{kind}-{name}-{way.what.replace(' ', '_')}", marks=getattr(pytest.mark, name))
    for kind, cells in KINDS.items()
    for name, cell in cells.items()
    if not isinstance(cell, str)
    for way in cell
]


@pytest.fixture(scope="module")
def scratch() -> dict[str, str]:
    """One database per server, emptied after each test."""
    return {}


@pytest.fixture
def bench(request: pytest.FixtureRequest, scratch: dict[str, str], tmp_path: Path) -> Iterator[Bench]:
    """The database of the test's parameters."""
    name: str = request.getfixturevalue("name")
    if name == "sqlite":
        url = sa.URL.create(_DRIVERS[name], database=str(tmp_path / "test.db"))
        bench = Bench(name, url, None, lambda **_: pytest.fail("SQLite has no server"))
        with bench.stack:
            yield bench
        return
    server: DatabaseServer = request.getfixturevalue(f"{name}_server")
    database = scratch.setdefault(name, "") or server.create_database()
    scratch[name] = database
    url = sa.make_url(server.url(database)).set(drivername=_DRIVERS[name])
    bench = Bench(name, url, server, request.getfixturevalue(f"new_{name}_server"))
    with bench.stack:
        yield bench
    server.empty_database(database)


def assert_is_ours(error: PrefiqDbError, kind: ErrorKind, code: str | int | tuple[int, ...] | None) -> None:
    """The class of its kind, the server's code, no value anywhere, and nothing of the driver's in its chain."""
    assert error.kind == kind, repr(error.original)
    assert error.code in (code if isinstance(code, tuple) else (code,)), repr(error.original)
    assert type(error) is error_type(kind)
    for text in (str(error), repr(error), repr(vars(error)), repr(pickle.dumps(error))):
        assert CANARY[:9] not in text
    assert (error.__cause__, error.__context__) == (None, None)
    original = error.original
    assert original is not None
    assert (original.__traceback__, original.__cause__, original.__context__) == (None, None, None)


@pytest.mark.parametrize(("kind", "name", "way"), _WAYS)
def test_the_kind_is_provoked_and_recognised(kind: ErrorKind, name: str, way: Way, bench: Bench) -> None:
    """For real, on a real server."""
    met = way.act(bench)
    error = translate(
        met.error,
        dialect=name,
        phase=met.phase,
        database="main",
        cancelled_by_timeout=met.cancelled_by_timeout,
    )
    assert_is_ours(error, kind, way.code)
    assert error.database == "main"


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (
            K.UNIQUE,
            {
                "sqlite": (None, "item", "sku"),
                "postgresql": ("uq_sku", "item", None),
                "mariadb": ("uq_sku", None, None),
            },
        ),
        (
            K.FOREIGN_KEY,
            {
                "sqlite": (None, None, None),
                "postgresql": ("fk_parent", "child", None),
                "mariadb": ("fk_parent", "child", None),
            },
        ),
        (
            K.NOT_NULL,
            {"sqlite": (None, "item", "sku"), "postgresql": (None, "item", "sku"), "mariadb": (None, None, "sku")},
        ),
        (
            K.CHECK,
            {
                "sqlite": ("ck_qty", None, None),
                "postgresql": ("ck_qty", "item", None),
                "mariadb": ("ck_qty", "item", None),
            },
        ),
    ],
)
@pytest.mark.parametrize("name", [pytest.param(name, marks=getattr(pytest.mark, name)) for name in DATABASES])
def test_a_broken_constraint_is_named_as_far_as_the_server_names_it(
    kind: ErrorKind, names: dict[str, tuple[str | None, ...]], name: str, bench: Bench
) -> None:
    """What is None is not told by that database."""
    cell = KINDS[kind][name]
    assert not isinstance(cell, str)
    error = translate(cell[0].act(bench).error, dialect=name)
    assert (error.constraint, error.table, error.column) == names[name]


_ASYNC = [
    (K.UNIQUE, f"insert into item values (2, '{CANARY[:9]}', 1)"),
    (K.NOT_NULL, "insert into item values (2, null, 1)"),
    (K.CHECK, "insert into item values (2, 'b', -1)"),
    (K.SYNTAX, "selec 1"),
    (K.SCHEMA, "select * from nowhere"),
]


@pytest.mark.parametrize("name", [pytest.param(name, marks=getattr(pytest.mark, name)) for name in DATABASES])
def test_the_async_drivers_say_the_same(name: str, bench: Bench) -> None:
    """psycopg, asyncmy and aiosqlite: statements, a failed connect, and a connection closed under us."""
    bench.run(_ITEM, f"insert into item values (1, '{CANARY[:9]}', 1)")
    url = bench.url.set(drivername=_ASYNC_DRIVERS[name])
    nowhere = (
        {"database": str(Path(url.database or "").parent / "missing" / "app.db")} if name == "sqlite" else {"port": 1}
    )

    async def go() -> list[tuple[ErrorKind, BaseException, Phase]]:
        met: list[tuple[ErrorKind, BaseException, Phase]] = []
        engine = create_async_engine(url, poolclass=sa.NullPool)
        for kind, sql in _ASYNC:
            async with engine.connect() as connection:
                try:
                    await connection.exec_driver_sql(sql)
                except Exception as error:
                    met.append((kind, error, "statement"))
        lost = create_async_engine(url.set(**nowhere), poolclass=sa.NullPool)
        try:
            await lost.connect()
        except Exception as error:
            met.append((K.CONNECT_FAILED, error, "connect"))
        await engine.dispose()
        await lost.dispose()
        # aiosqlite's thread tells the loop about a file that it could not open, so the loop must outlive it.
        for thread in threading.enumerate():
            if "_connection_worker_thread" in thread.name:
                await asyncio.to_thread(thread.join, _WAIT_SECONDS)
        return met

    met = asyncio.run(go())
    assert [kind for kind, *_ in met] == [*(kind for kind, _ in _ASYNC), K.CONNECT_FAILED]
    for kind, error, phase in met:
        translated = translate(error, dialect=name, phase=phase)
        assert_is_ours(translated, kind, translated.code)
        assert (translated.code is None) is (kind is K.CONNECT_FAILED and name == "postgresql")


@pytest.mark.postgresql
def test_a_prepared_plan_that_grew_old_may_be_sent_again(postgresql_server: DatabaseServer) -> None:
    """PostgreSQL refuses it under the code of unsupported features, before doing anything."""
    database = postgresql_server.create_database()
    url = sa.make_url(postgresql_server.url(database)).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args={"prepare_threshold": 0})
    postgresql_server.execute("create table t (id int)", database)
    with engine.connect() as connection:
        connection.exec_driver_sql("select * from t").close()
        connection.commit()
        postgresql_server.execute("alter table t add column n int", database)
        error = translate(raised(lambda: connection.exec_driver_sql("select * from t")), dialect="postgresql")
    engine.dispose()
    postgresql_server.drop_database(database)
    assert (error.kind, error.code) == (K.SCHEMA, "0A000")
    assert error.classification.retry_statement
    assert error.classification.retry_transaction


@pytest.mark.mariadb
def test_a_duplicate_that_speaks_of_keys_gives_no_false_name(mariadb_server: DatabaseServer) -> None:
    """The server writes the value before the key's name, and the value may say anything."""
    database = mariadb_server.create_database()
    url = sa.make_url(mariadb_server.url(database)).set(drivername="mariadb+pymysql")
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql("create table t (v varchar(200), constraint uq_v unique (v))")
        insert = sa.text("insert into t values (:v)")
        for value in (
            "x' for key 'secret",
            "x' for key 'secret'",
            "' for key 'secret\n" * 10,
            "é' for key 'secret" * 11,
        ):
            connection.execute(insert, {"v": value})
            error = translate(
                raised(functools.partial(connection.execute, insert, {"v": value})),
                dialect="mariadb",
            )
            assert error.constraint == "uq_v"
            assert "secret" not in str(error)
        connection.rollback()
    engine.dispose()
    mariadb_server.drop_database(database)


# --- the table -----------------------------------------------------------------------------------


def test_every_kind_is_in_the_table() -> None:
    """With all three databases, and with a written reason wherever there is no way."""
    assert list(KINDS) == [kind for kind in ErrorKind if kind is not K.NOT_FOUND]  # never a server's
    for kind, cells in KINDS.items():
        assert sorted(cells) == sorted(DATABASES), kind
        for cell in cells.values():
            assert len(cell) > 10 if isinstance(cell, str) else cell, kind


def table() -> str:
    """Return the table as ``docs/errors.md`` shows it."""
    lines = ["| kind | class | SQLite | PostgreSQL | MariaDB |", "|---|---|---|---|---|"]
    for kind, cells in KINDS.items():
        shown = [_cell(cells[name]) for name in DATABASES]
        lines.append(f"| [`{kind}`](#{kind}) | `{error_type(kind).__name__}` | {' | '.join(shown)} |")
    return "\n".join(lines)


def _cell(cell: list[Way] | str) -> str:
    if isinstance(cell, str):
        return f"– {cell}"
    return "; ".join(f"{way.what}: {_code(way.code)}" for way in cell)


def _code(code: str | int | tuple[int, ...] | None) -> str:
    if isinstance(code, tuple):
        return " or ".join(str(one) for one in code)
    return "no code" if code is None else str(code)


_DOCS = Path(__file__).parents[2] / "docs" / "errors.md"


def test_the_documentation_shows_this_table() -> None:
    """Print it anew with ``python -m tests.integration.test_error_kinds``."""
    assert table() in _DOCS.read_text()


def test_every_kind_has_its_entry_in_the_documentation() -> None:
    """A heading of its own, so that a link leads there."""
    headings = {line.removeprefix("### ") for line in _DOCS.read_text().splitlines() if line.startswith("### ")}
    assert {f"`{kind}`" for kind in ErrorKind} <= headings


if __name__ == "__main__":
    print(table())
