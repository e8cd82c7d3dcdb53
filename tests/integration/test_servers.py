"""Private servers: they start, they die in every way, and nothing of them stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from prefiq_db.errors import UnsupportedError, UsageError
from prefiq_db.testing import DatabaseServer, MariaDbServer, PostgresServer
from prefiq_db.testing.processes import process_tree, wait_until
from tests import interpreters
from tests.conftest import Backend


@pytest.fixture(params=[pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("postgresql", "mariadb")])
def new_server(request: pytest.FixtureRequest) -> Callable[..., DatabaseServer]:
    make: Callable[..., DatabaseServer] = request.getfixturevalue(f"new_{request.param}_server")
    return make


@pytest.fixture(params=[pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("postgresql", "mariadb")])
def server(request: pytest.FixtureRequest) -> DatabaseServer:
    shared: DatabaseServer = request.getfixturevalue(f"{request.param}_server")
    return shared


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_server_tells_what_it_is(server: DatabaseServer) -> None:
    assert server.running
    assert server.version[0].isdigit()
    assert server.url("ledger").startswith(f"{server.name}://")
    assert server.url("ledger").endswith("/ledger")
    assert f":{server.port}/" in server.url()


def test_a_repr_does_not_tell_the_password(server: DatabaseServer) -> None:
    password = server.url().split("@")[0].rpartition(":")[2]
    assert password
    assert password not in repr(server)


def test_databases_are_made_emptied_and_dropped(server: DatabaseServer) -> None:
    database = server.create_database()
    server.execute("create table item (id integer primary key)", database)
    with pytest.raises(Exception, match="already exists"):
        server.execute("create table item (id integer primary key)", database)
    server.empty_database(database)
    server.execute("create table item (id integer primary key)", database)
    server.drop_database(database)
    with pytest.raises(Exception, match=r"does not exist|Unknown database"):
        server.execute("select 1", database)


def test_a_database_with_an_open_transaction_can_be_emptied_and_dropped(server: DatabaseServer) -> None:
    database = server.create_database()
    server.execute("create table item (id integer primary key)", database)
    for end in (server.empty_database, server.drop_database):
        connection = server.connect(database)
        try:
            cursor = connection.cursor()
            cursor.execute("create table if not exists item (id integer primary key)")
            cursor.execute("begin")
            cursor.execute("insert into item values (1)")
            end(database)
        finally:
            connection.close()


@pytest.mark.parametrize("name", ["postgres", "mysql", "prefiq_test_", "production", 'prefiq_test_1"; drop table x'])
def test_other_peoples_databases_are_never_dropped(server: DatabaseServer, name: str) -> None:
    with pytest.raises(UsageError):
        server.drop_database(name)
    with pytest.raises(UsageError):
        server.empty_database(name)


@pytest.mark.parametrize("durable", [False, True])
def test_a_killed_server_comes_back_on_its_port_with_what_it_confirmed(
    new_server: Callable[..., DatabaseServer], durable: bool
) -> None:
    server = new_server(durable=durable)
    database = server.create_database()
    server.execute("create table item (id integer)", database)
    tree, port = process_tree(server.pid), server.port
    for number in range(20):
        server.execute(f"insert into item values ({number})", database)
    server.kill()
    assert not server.running
    assert not [pid for pid in tree if is_alive(pid)]
    server.start()
    assert server.port == port
    assert server.execute("select count(*) from item", database) == [(20,)]
    server.restart()
    assert server.execute("select count(*) from item", database) == [(20,)]


def test_a_frozen_server_is_silent_until_it_is_thawed(new_server: Callable[..., DatabaseServer]) -> None:
    server = new_server()
    server.freeze()
    assert server.running
    states = {Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in process_tree(server.pid)}
    assert states - {"Z"} == {"T"}  # a session that ended just before may still be a zombie
    server.thaw()
    assert server.execute("select 1") == [(1,)]
    server.freeze()
    folder = server._folder
    server.close()
    assert not folder.exists()


def test_a_closed_server_leaves_nothing(new_server: Callable[..., DatabaseServer]) -> None:
    server = new_server()
    tree, folder = process_tree(server.pid), server._folder
    server.close()
    assert not server.running
    assert not folder.exists()
    assert not [pid for pid in tree if is_alive(pid)]
    with pytest.raises(UsageError, match="was closed"):
        server.kill()
    server.close()  # once more does nothing
    assert server.start().execute("select 1") == [(1,)]  # a new one, empty


def test_durable_settings_are_the_servers_own(new_server: Callable[..., DatabaseServer]) -> None:
    names, durable, fast = {
        "postgresql": (
            ("fsync", "synchronous_commit", "full_page_writes"),
            ("on", "on", "on"),
            ("off", "on", "on"),
        ),
        "mariadb": (
            ("innodb_flush_log_at_trx_commit", "innodb_doublewrite", "innodb_flush_method"),
            ("1", "ON", "O_DIRECT"),
            ("2", "ON", "nosync"),
        ),
    }[(kept := new_server(durable=True)).name]

    def guarantees(server: DatabaseServer) -> tuple[str, ...]:
        question = "show {}" if server.name == "postgresql" else "show global variables like '{}'"
        return tuple(str(server.execute(question.format(name))[0][-1]) for name in names)

    assert guarantees(kept) == durable
    assert guarantees(new_server()) == fast


def test_settings_by_name_win(new_server: Callable[..., DatabaseServer]) -> None:
    server = new_server(settings={"max_connections": "33"})
    question = "show max_connections" if server.name == "postgresql" else "select @@max_connections"
    assert str(server.execute(question)[0][0]) == "33"


def test_a_bad_setting_shows_the_servers_own_words(new_server: Callable[..., DatabaseServer]) -> None:
    with pytest.raises(Exception, match=r"no_such_setting|no-such-setting"):
        new_server(settings={"no_such_setting": "1"})


@pytest.mark.postgresql
def test_tls_of_postgresql_can_be_verified(new_postgresql_server: Callable[..., PostgresServer]) -> None:
    import psycopg

    server = new_postgresql_server(tls=True)
    assert server.certificate is not None
    url = f"{server.url()}?sslmode=verify-full&sslrootcert={server.certificate.certificate}"
    with psycopg.connect(url) as connection:
        assert connection.pgconn.ssl_in_use


@pytest.mark.mariadb
def test_tls_of_mariadb_can_be_verified(new_mariadb_server: Callable[..., MariaDbServer]) -> None:
    import ssl

    import pymysql

    server = new_mariadb_server(tls=True)
    assert server.certificate is not None
    context = ssl.create_default_context(cafile=str(server.certificate.certificate))
    user, password = server.url().removeprefix("mariadb://").split("@")[0].split(":")
    with (
        pymysql.connect(host=server.host, port=server.port, user=user, password=password, ssl=context) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("show status like 'ssl_version'")
        assert cursor.fetchone() == ("Ssl_version", "TLSv1.3")


_KINDS = {"postgresql": "PostgresServer", "mariadb": "MariaDbServer"}
_PROGRAM = """
    import os, sys, threading
    from prefiq_db.testing import MariaDbServer, PostgresServer, templates
    from prefiq_db.testing.processes import process_tree

    server = {kind}()
    starter = threading.Thread(target=server.start)  # a server must not die with the thread that started it
    starter.start()
    starter.join()
    assert server.execute("select 1") == [(1,)]
    (template,) = templates._made.values()
    print(*process_tree(server.pid), server._folder, template.parent, flush=True)
    {end}
"""


@pytest.mark.parametrize(
    ("end", "number"),
    [
        pytest.param("sys.stdin.read()", signal.SIGKILL, id="killed"),
        pytest.param("sys.stdin.read()", signal.SIGTERM, id="terminated"),
        pytest.param("server.freeze(); sys.stdin.read()", signal.SIGKILL, id="killed-while-frozen"),
        pytest.param("os._exit(0)", None, id="exit-without-cleanup"),
        pytest.param("sys.exit(0)", None, id="exit"),
    ],
)
def test_a_server_dies_with_its_program_however_that_ends(
    server: DatabaseServer, end: str, number: signal.Signals | None
) -> None:
    program = textwrap.dedent(_PROGRAM).format(kind=_KINDS[server.name], end=end)
    if not server.is_private:
        pytest.skip("needs local programs")
    with interpreters.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        *pids, folder, template = process.stdout.readline().decode().split()
        assert Path(template).is_dir()
        if number is not None:
            assert is_alive(int(pids[0]))
            process.send_signal(number)
        process.wait(timeout=60)
    assert wait_until(lambda: not any(is_alive(int(pid)) for pid in pids), timeout_seconds=10)
    assert wait_until(lambda: not Path(folder).exists() and not Path(template).exists(), timeout_seconds=10)


def test_a_new_server_has_nothing_of_another_one(new_server: Callable[..., DatabaseServer]) -> None:
    """Its data is a copy of what the first one of this process was before it started."""
    first = new_server()
    database = first.create_database()
    second = new_server()
    assert (database,) in first.execute(_LIST_DATABASES[first.name])
    assert (database,) not in second.execute(_LIST_DATABASES[first.name])


def test_an_existing_server_is_used_by_url_and_left_as_it_was(server: DatabaseServer) -> None:
    before = set(server.execute(_LIST_DATABASES[server.name]))
    with type(server)(url=server.url()) as existing:
        assert existing.source == "url"
        assert existing.version == server.version
        database = existing.create_database()
        assert existing.execute("select 1", database) == [(1,)]
        with pytest.raises(UsageError, match="isn't ours"):
            existing.kill()
    assert set(server.execute(_LIST_DATABASES[server.name])) == before
    assert server.running


_LIST_DATABASES = {"postgresql": "select datname from pg_database", "mariadb": "show databases"}


def test_a_url_in_the_environment_comes_first(server: DatabaseServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(server.kind.url_variable, server.url())
    found = type(server).locate()
    assert found.source == "url"
    assert found.port == server.port


def test_a_backend_is_empty_and_reachable(backend: Backend) -> None:
    if backend.server is None:
        assert backend.url.startswith("sqlite:///")
        return
    database = backend.url.rpartition("/")[2]
    backend.server.execute("create table left_behind (id integer)", database)


test_the_next_backend_is_empty_too = test_a_backend_is_empty_and_reachable


# --- sessions ------------------------------------------------------------------------------------


def test_sessions_and_their_transactions_are_counted(server: DatabaseServer) -> None:
    database = server.create_database()
    server.execute("create table item (id integer)", database)
    assert wait_until(lambda: server.sessions(database) == [], timeout_seconds=10)  # the one of execute() has ended
    assert server.open_transactions(database) == 0
    connection = server.connect(database)
    try:
        assert len(server.sessions(database)) == 1
        assert server.open_transactions(database) == 0
        cursor = connection.cursor()
        cursor.execute("begin")
        cursor.execute("insert into item values (1)")
        assert server.open_transactions(database) == 1
        cursor.execute("rollback")
        assert server.open_transactions(database) == 0
    finally:
        connection.close()
    assert wait_until(lambda: server.sessions(database) == [], timeout_seconds=10)
    server.drop_database(database)


def test_a_killed_session_loses_its_transaction_and_nothing_else(new_server: Callable[..., DatabaseServer]) -> None:
    server = new_server(durable=True)
    database = server.create_database()
    server.execute("create table item (id integer)", database)
    server.execute("insert into item values (1)", database)
    connection = server.connect(database)
    cursor = connection.cursor()
    cursor.execute("begin")
    cursor.execute("insert into item values (2)")
    (session,) = server.sessions(database)
    server.kill_session(session)
    with pytest.raises(Exception, match=r"(?i)lost|closed|server"):
        cursor.execute("commit")
    connection.close()
    server.wait_until_ready()
    assert wait_until(lambda: server.sessions(database) == [], timeout_seconds=10)
    assert server.execute("select id from item", database) == [(1,)]
    server.kill_session(session)  # it is gone


def test_one_session_of_postgresql_can_be_frozen(new_postgresql_server: Callable[..., PostgresServer]) -> None:
    server = new_postgresql_server()
    database = server.create_database()
    with server.connect(database) as connection:
        (session,) = server.sessions(database)
        server.freeze_session(session)
        connection.pgconn.send_query(b"select 1")
        assert server.execute("select 1") == [(1,)], "the others live"
        assert Path(f"/proc/{session}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        server.thaw_session(session)
        assert connection.pgconn.get_result() is not None
        assert connection.pgconn.get_result() is None
    with pytest.raises(UsageError, match="isn't ours"):
        PostgresServer(url=server.url()).kill_session(session)


def test_one_session_of_mariadb_cannot_be_frozen(mariadb_server: MariaDbServer) -> None:
    with pytest.raises(UnsupportedError, match="threads"):
        mariadb_server.freeze_session(1)
