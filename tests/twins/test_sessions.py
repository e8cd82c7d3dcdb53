"""How a session is set up: limits, time zone, SQL mode, TLS, and what stays away behind a transaction pooler."""

from __future__ import annotations

import contextlib
import datetime as dt
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, text

from prefiq_db import ErrorKind, RetryPolicy
from prefiq_db.connectors import postgresql_connector as postgresql
from prefiq_db.errors import AuthenticationError, ConnectFailedError, DataError, LockTimeoutError, PrefiqDbError
from prefiq_db.testing import DatabaseServer, MariaDbServer, PgBouncer, PostgresServer
from tests.clusters import find
from tests.conftest import Backend
from tests.twins.harness import Harness, drive, make_database
from tests.twins.support import on_engine


def _on(*names: str) -> pytest.MarkDecorator:
    params = [pytest.param(name, marks=getattr(pytest.mark, name)) for name in names]
    return pytest.mark.parametrize("backend", params, indirect=True)


@_on("postgresql")
async def test_a_postgresql_session_is_in_utc_with_limits_and_a_name(make_db: Any) -> None:
    """Time zone, both timeouts and application_name are set without a round trip of their own."""
    db = make_db(statement_timeout_seconds=7, lock_timeout_seconds=3, application_name="ledger")
    shown = {
        name: await db.fetch_value("select current_setting(:name)", {"name": name})
        for name in ("timezone", "statement_timeout", "lock_timeout", "application_name")
    }
    assert shown == {
        "timezone": "UTC",
        "statement_timeout": "7s",
        "lock_timeout": "3s",
        "application_name": "ledger",
    }


@_on("mariadb")
async def test_a_mariadb_session_is_strict_in_utc_and_in_utf8(make_db: Any) -> None:
    """Strict SQL mode, UTC, utf8mb4 and all timeouts, the same with both drivers."""
    db = make_db(statement_timeout_seconds=7, lock_timeout_seconds=3)
    row = await db.fetch_one(
        "select @@time_zone as zone, @@character_set_client as charset, @@max_statement_time as statement,"
        " @@innodb_lock_wait_timeout as row_lock, @@lock_wait_timeout as table_lock, @@sql_mode as mode",
        into=dict,
    )
    mode = set(row.pop("mode").split(","))
    assert row == {"zone": "+00:00", "charset": "utf8mb4", "statement": 7, "row_lock": 3, "table_lock": 3}
    assert mode >= {"STRICT_ALL_TABLES", "ERROR_FOR_DIVISION_BY_ZERO", "NO_ZERO_DATE", "NO_ENGINE_SUBSTITUTION"}
    await db.execute("create table item (word varchar(3))")
    with pytest.raises(DataError):
        await db.execute("insert into item (word) values ('toolong')")


@_on("sqlite")
async def test_a_sqlite_session_has_wal_foreign_keys_and_full_durability(make_db: Any) -> None:
    db = make_db(lock_timeout_seconds=3)
    shown = [await db.fetch_value(f"pragma {name}") for name in ("journal_mode", "foreign_keys", "busy_timeout")]
    assert shown == ["wal", 1, 3000]
    assert await db.fetch_value("pragma synchronous") == 2, "a commit must survive a power loss"


async def test_a_lock_held_by_somebody_else_is_waited_for_no_longer_than_allowed(
    make_db: Any, harness: Harness
) -> None:
    """lock_timeout_seconds ends the wait with the same kind of error on every database."""
    holder, waiter = make_db(), make_db(lock_timeout_seconds=1)
    await holder.execute("create table item (id integer primary key, qty integer)")
    await holder.execute("insert into item (id, qty) values (1, 1)")
    async with holder.transaction() as tx:
        await tx.execute("update item set qty = 2 where id = 1")
        with pytest.raises(LockTimeoutError) as caught:
            await waiter.using(retry=RetryPolicy(attempts=1)).execute("update item set qty = 3 where id = 1")
    assert caught.value.is_transient
    assert await holder.fetch_value("select qty from item") == 2


async def test_now_is_the_same_instant_for_server_and_client(make_db: Any, backend: Backend) -> None:
    """The session is in UTC, so the server's clock read as text is UTC, whatever zone the machine is in."""
    db = make_db()
    text = await db.fetch_value("select current_timestamp")
    seen = text if isinstance(text, dt.datetime) else dt.datetime.fromisoformat(str(text))
    seen = seen if seen.tzinfo else seen.replace(tzinfo=dt.UTC)
    assert abs(dt.datetime.now(dt.UTC) - seen) < dt.timedelta(minutes=10)


# --- TLS -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tls_servers() -> Iterator[Callable[[str], DatabaseServer]]:
    """Private servers with a self-signed certificate, started when asked for."""
    started: dict[str, DatabaseServer] = {}
    kinds: dict[str, type[DatabaseServer]] = {"postgresql": PostgresServer, "mariadb": MariaDbServer}

    def get(name: str) -> DatabaseServer:
        if name not in started:
            started[name] = kinds[name](tls=True).start()
        return started[name]

    yield get
    for server in started.values():
        server.close()


_ENCRYPTED = {
    "postgresql": "select ssl from pg_stat_ssl where pid = pg_backend_pid()",
    "mariadb": "select variable_value <> '' from information_schema.session_status where variable_name = 'Ssl_cipher'",
}


@pytest.fixture(params=[pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("postgresql", "mariadb")])
def tls_server(request: pytest.FixtureRequest, tls_servers: Callable[[str], DatabaseServer]) -> DatabaseServer:
    request.getfixturevalue(f"{request.param}_server")  # skips, or fails, where there is none
    return tls_servers(request.param)


async def _is_encrypted(world: str, server: DatabaseServer, **fields: Any) -> bool:
    db = make_database(world, server.url(), **fields)
    try:
        await db.open()
        return bool(await db.fetch_value(_ENCRYPTED[server.name]))
    finally:
        await db.close()


@pytest.mark.parametrize(
    ("mode", "with_ca", "encrypted"),
    [
        ("disable", False, False),
        ("prefer", False, True),
        ("require", False, True),
        ("verify-ca", True, True),
        ("verify-full", True, True),
    ],
)
async def test_tls_means_the_same_with_every_driver(
    world: str, tls_server: DatabaseServer, mode: str, with_ca: bool, encrypted: bool
) -> None:
    """One vocabulary: what ssl_mode says is what the server sees, with all four drivers."""
    assert tls_server.certificate is not None
    ca = {"ssl_ca": str(tls_server.certificate.certificate)} if with_ca else {}
    assert await _is_encrypted(world, tls_server, ssl_mode=mode, **ca) is encrypted


async def test_tls_verification_refuses_an_unknown_authority(world: str, tls_server: DatabaseServer) -> None:
    """Without the server's CA, verify-full does not connect: a certificate of anybody's is not enough."""
    with pytest.raises(PrefiqDbError) as caught:
        await _is_encrypted(world, tls_server, ssl_mode="verify-full", ssl_ca=ssl.get_default_verify_paths().cafile)
    assert caught.value.kind is ErrorKind.CONNECT_FAILED


async def test_prefer_falls_back_where_the_server_offers_no_tls(world: str, backend: Backend) -> None:
    """prefer encrypts if the server can, require insists: the same in both worlds."""
    if backend.server is None:
        return  # SQLite has no wire: nothing to encrypt, and the settings are accepted
    assert await _is_encrypted(world, backend.server, ssl_mode="prefer") is False
    with pytest.raises(ConnectFailedError):
        await _is_encrypted(world, backend.server, ssl_mode="require")


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
async def test_without_ssl_ca_the_system_is_trusted(
    world: str, tls_server: DatabaseServer, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every driver, not by a file at home, as libpq would; OpenSSL's own variable says what the system's is."""
    assert tls_server.certificate is not None
    with pytest.raises(ConnectFailedError):
        await _is_encrypted(world, tls_server, ssl_mode=mode)
    monkeypatch.setenv("SSL_CERT_FILE", str(tls_server.certificate.certificate))
    assert await _is_encrypted(world, tls_server, ssl_mode=mode)


@pytest.fixture(scope="module")
def by_password(tls_servers: Callable[[str], DatabaseServer]) -> str:
    """The URL of a user who logs in by PostgreSQL's method ``password``, as all do where the server asks LDAP."""
    server = tls_servers("postgresql")
    rules = Path(str(server.execute("show hba_file")[0][0]))
    rules.write_text("host all clear 127.0.0.1/32 password\n" + rules.read_text())
    server.execute("create user clear password 'correct-horse'")
    server.execute("select pg_reload_conf()")
    return f"postgresql://clear:correct-horse@127.0.0.1:{server.port}/postgres"


async def test_a_server_that_asks_for_the_password_itself_gets_it_under_tls_only(
    world: str, postgresql_server: DatabaseServer, by_password: str
) -> None:
    """``prefer`` finds out that TLS is there; without it, a setting must say so. The rogues: ``test_passwords.py``."""

    async def encrypted(**fields: Any) -> bool:
        db = make_database(world, by_password, retry=RetryPolicy(attempts=1), **fields)
        try:
            return bool(await db.fetch_value(_ENCRYPTED["postgresql"]))
        finally:
            await db.close()

    assert await encrypted(ssl_mode="prefer")
    assert await encrypted(ssl_mode="require")
    with pytest.raises(AuthenticationError, match="asks for the password itself"):
        await encrypted(ssl_mode="disable")
    assert not await encrypted(ssl_mode="disable", allow_cleartext_password=True)


# --- behind a transaction pooler -----------------------------------------------------------------


@_on("postgresql")
async def test_pgbouncer_mode_leaves_no_state_in_the_session(world: str, backend: Backend) -> None:
    """No startup options, no prepared statements, limits only inside transactions."""
    db = make_database(world, backend.url, pgbouncer=True, pool_size=1, max_overflow=0, statement_timeout_seconds=7)
    await db.open()
    for _ in range(8):  # psycopg would prepare at the fifth
        await db.fetch_value("select :n", {"n": 1})
    assert await db.fetch_value("select count(*) from pg_prepared_statements") == 0
    assert await _alone(db, "show statement_timeout") == "0"
    assert await db.fetch_value("select current_setting('statement_timeout')") == "7s"  # its message's
    async with db.transaction() as tx:
        assert await tx.fetch_value("select current_setting('statement_timeout')") == "7s"
        assert await tx.fetch_value("select current_setting('lock_timeout')") == "10s"
    assert await db.using(timeout=2).fetch_value("select current_setting('statement_timeout')") == "2s"
    assert await _alone(db, "show statement_timeout") == "0"
    reads_only = "select current_setting('transaction_read_only')"
    async with db.transaction(read_only=True) as tx:
        assert await tx.fetch_value(reads_only) == "on"
    assert await db.using(read_only=True).fetch_value(reads_only) == "on"
    assert await db.fetch_value(reads_only) == "off"
    assert await _alone(db, "show default_transaction_read_only") == "off"
    await db.close()


async def _alone(db: Any, statement: str, **params: Any) -> Any:
    """Return what the server says outside a transaction: what the session itself has."""
    return await on_engine(
        db, lambda connection: connection.scalar(text(statement), params), isolation_level="AUTOCOMMIT"
    )


@_on("postgresql")
async def test_pgbouncer_mode_works_behind_pgbouncer(world: str, pooler: str, harness: Harness) -> None:
    """Eight workers over two backends, each statement many times: nothing prepared, nothing remembered, no error."""
    db = make_database(world, pooler, pgbouncer=True, pool_size=8, ssl_mode="disable")
    await db.open()
    await db.execute("create table item (id integer primary key, qty integer not null)")
    await db.execute("insert into item (id, qty) values (1, 0)")

    async def work() -> None:
        for _ in range(10):
            await db.fetch_value("select qty from item where id = :id", {"id": 1})
            async with db.transaction(isolation="READ COMMITTED") as tx:
                await tx.execute("update item set qty = qty + 1 where id = 1")

    await harness.together(*[work] * 8)
    assert await db.fetch_value("select qty from item where id = 1") == 80
    await db.close()


@pytest.fixture
def far_away(backend: Backend) -> Iterator[None]:
    """The database's own time zone is not UTC."""
    assert backend.server is not None
    name = make_url(backend.url).database
    backend.server.execute(f"alter database \"{name}\" set timezone = 'America/New_York'")
    yield
    backend.server.execute(f'alter database "{name}" reset timezone')


async def _keeps_the_hour(db: Any) -> None:
    noon = dt.datetime(2024, 7, 1, 12, tzinfo=dt.UTC)
    stored = "select cast(cast(:at as timestamp with time zone) as timestamp without time zone)"
    for _ in range(3):
        assert await db.fetch_value(stored, {"at": noon}) == noon.replace(tzinfo=None)
        async with db.transaction() as tx:
            assert await tx.fetch_value(stored, {"at": noon}) == noon.replace(tzinfo=None)
        assert await _alone(db, stored, at=noon) == noon.replace(tzinfo=None)
        assert await on_engine(db, lambda connection: connection.scalar(text("show timezone"))) == "UTC"


@_on("postgresql")
async def test_in_pgbouncer_mode_the_time_zone_is_utc(world: str, backend: Backend, far_away: None) -> None:
    """On a server of another zone 12:00 UTC would be 08:00 in a column without one."""
    db = make_database(world, backend.url, pgbouncer=True, pool_size=2)
    await _keeps_the_hour(db)
    await db.close()


@_on("postgresql")
async def test_behind_pgbouncer_the_time_zone_is_utc(
    world: str, backend: Backend, far_away: None, pooler: str, harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever backend serves a statement: pgbouncer tells it the zone of the client, and there is nothing to say."""
    db = make_database(world, pooler, pgbouncer=True, pool_size=6, ssl_mode="disable")
    await db.open()
    assert "time zone" not in caplog.text

    async def work() -> None:
        await _keeps_the_hour(db)

    await harness.together(*[work] * 6)
    await db.close()


class _Forgetful:
    """A pooler of one session, lent to one client after another for a transaction each; it keeps no setting of theirs.

    Each client logs in at a session of its own; after that, all are served by that of the first.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._lent = threading.Lock()
        self._shared: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()
        for server in self._shared:
            server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self._server_port))
        self._shared.append(server)
        with contextlib.suppress(OSError, EOFError):
            head = _exactly(client, 4)
            server.sendall(head + _exactly(client, int.from_bytes(head) - 4))
            while (answer := _message(server))[:1] != b"Z":
                client.sendall(answer)
                if answer[:1] == b"R" and answer[5:9] in (b"\0\0\0\x0a", b"\0\0\0\x0b"):  # SCRAM goes on
                    server.sendall(_message(client))
            client.sendall(answer)
            while self._transaction(client):
                pass
        client.close()

    def _transaction(self, client: socket.socket) -> bool:
        server, request = self._shared[0], _request(client)
        with self._lent:
            while request[:1] != b"X":
                server.sendall(request)
                while (answer := _message(server))[:1] != b"Z":
                    client.sendall(answer)
                client.sendall(answer)
                if answer[5:6] == b"I":
                    return True
                request = _request(client)
        return False


def _exactly(peer: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        if not (piece := peer.recv(count - len(found))):
            raise EOFError
        found += piece
    return found


def _message(peer: socket.socket) -> bytes:
    head = _exactly(peer, 5)
    return head + _exactly(peer, int.from_bytes(head[1:]) - 4)


def _request(client: socket.socket) -> bytes:
    """Return all messages up to the one that the server answers with ReadyForQuery; or the goodbye."""
    request = message = _message(client)
    while message[:1] not in b"QSX":
        message = _message(client)
        request += message
    return request


@_on("postgresql")
async def test_a_pooler_that_forgets_the_time_zone_is_told_of_at_boot(
    world: str, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    """Where it matters: not on a server in UTC, and not without such a pooler."""
    assert backend.server is not None
    name = make_url(backend.url).database
    told = []
    for zone in ("UTC", "America/New_York"):
        backend.server.execute(f"alter database \"{name}\" set timezone = '{zone}'")
        pooler = _Forgetful(backend.server.port)
        through = make_url(backend.url).set(host="127.0.0.1", port=pooler.port).render_as_string(hide_password=False)
        for url in (backend.url, through):
            caplog.clear()
            db = make_database(world, url, pgbouncer=True, pool_size=2, ssl_mode="disable")
            await db.open()
            said = [record.getMessage() for record in caplog.records if "time zone" in record.getMessage()]
            told.append((zone, url == through, len(said)))
            assert all(zone in text and "ALTER DATABASE" in text for text in said)
            assert await db.fetch_value("show timezone") == "UTC"
            await db.close()
        pooler.close()
    backend.server.execute(f'alter database "{name}" reset timezone')
    new_york = "America/New_York"
    assert told == [("UTC", False, 0), ("UTC", True, 0), (new_york, False, 0), (new_york, True, 1)]


@_on("postgresql")
async def test_control_without_it_the_hour_shifts(
    world: str, backend: Backend, far_away: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "_needs_time_zone", lambda settings, connection: False)
    db = make_database(world, backend.url, pgbouncer=True, pool_size=1)
    with pytest.raises(AssertionError):
        await _keeps_the_hour(db)
    await db.close()


@_on("postgresql")
async def test_without_the_switch_pgbouncer_refuses_and_the_error_names_it(world: str, pooler: str) -> None:
    """A session's limits travel as startup options, and a pooler takes none. Trying again doesn't help."""
    db = make_database(world, pooler, pgbouncer=False, ssl_mode="disable")
    with pytest.raises(ConnectFailedError, match="set pgbouncer: true") as refused:
        await db.open()
    assert not refused.value.is_transient
    await db.close()


@_on("postgresql")
@pytest.mark.parametrize("mode", ["transaction", "session"])
async def test_a_pooler_that_says_nothing_is_found_at_boot(
    world: str, backend: Backend, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Told to ignore our options, pgbouncer lets everybody in, without limits and time zone; the first login tells."""
    assert backend.server is not None
    name, told = backend.url.rpartition("/")[2], {}
    ignorant = {"ignore_startup_parameters": "options"}
    with find("pgbouncer", PgBouncer, server=backend.server, mode=mode, settings=ignorant) as silent:
        direct = backend.server.url(name)
        for url, on in ((silent.url(name), False), (silent.url(name), True), (direct, False)):
            caplog.clear()
            db = make_database(world, url, pgbouncer=on, pool_size=2, ssl_mode="disable")
            await db.open()
            told[url, on] = _told_of_a_pooler(caplog)
            await db.close()
        assert list(told.values()) == [1, 0, 0]
        # Without open(), by the engine, and before a replica.
        caplog.clear()
        db = make_database(world, silent.url(name), pool_size=1, ssl_mode="disable")
        assert await on_engine(db, lambda connection: connection.exec_driver_sql("select 1").scalar()) == 1
        await db.close()
        assert _told_of_a_pooler(caplog) == 1
        caplog.clear()
        db = make_database(
            world, direct, replicas=[silent.url(name)], read_from="replica_preferred", ssl_mode="disable"
        )
        assert await db.using(replica=True).fetch_value("select 1") == 1
        await db.close()
        assert _told_of_a_pooler(caplog) == 1


def _told_of_a_pooler(caplog: pytest.LogCaptureFixture) -> int:
    return caplog.text.count("is behind a pooler such as pgbouncer, and pgbouncer is off")


@_on("postgresql")
async def test_a_prepared_statement_of_another_client_names_the_switch(world: str, backend: Backend) -> None:
    """In a transaction it can't be repeated silently; the error says that a pooler is in front, and what to set."""
    assert backend.server is not None
    url = backend.server.url(backend.url.rpartition("/")[2])
    db = make_database(world, url, pgbouncer=False, pool_size=1)
    for _ in range(8):
        await db.fetch_value("select 1 + :n", {"n": 1})
    await on_engine(
        db,
        lambda connection: connection.exec_driver_sql("do 'begin execute ''deallocate all''; end'"),
        isolation_level="AUTOCOMMIT",
    )
    with pytest.raises(PrefiqDbError, match="set pgbouncer: true") as missing:
        async with db.transaction() as tx:
            await tx.execute("select 2")
            await tx.fetch_value("select 1 + :n", {"n": 1})
    assert missing.value.code == "26000"
    await db.close()


def test_drive_is_the_sync_worlds_loop() -> None:
    """The harness that these tests stand on really runs their bodies."""

    async def body() -> int:
        return 7

    assert drive(body()) == 7
