"""Open connections: what each driver is told. The password is revealed here and nowhere else."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import ssl
import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final
from urllib.parse import quote

from prefiq_db.config import ANY_HOST, READER, SESSION_ATTRS, WRITER, Host, Target
from prefiq_db.dialects import mariadb
from prefiq_db.dialects.sqlite import connection_factory
from prefiq_db.drivers.challenges import REQUIRE_AUTH, challenges_only
from prefiq_db.drivers.deadlines import DeadlinePassed, Shares
from prefiq_db.drivers.mysql_literals import conversions
from prefiq_db.drivers.stopping import STOP_SECONDS
from prefiq_db.drivers.tls import is_loopback, system_authorities
from prefiq_db.errors import ErrorKind, NotReadyError, PrefiqDbError, ReadOnlyError
from prefiq_db.interruptions import is_interruption
from prefiq_db.pool import seconds_to_connect
from prefiq_db.settings import DatabaseSettings
from prefiq_db.translation.classify import in_phase, treatment
from prefiq_db.translation.connecting import Connecting, note

logger = logging.getLogger("prefiq_db.connectors")

# The session's own default; a START TRANSACTION that says nothing else has it, and so has a statement on its own.
_MYSQL_READ_ONLY: Final = " /*M! , tx_read_only = 1 */ /*!50720 , transaction_read_only = 1 */"

_Connect = Callable[..., Any]
#: SQLAlchemy's way to connect, its arguments, and what a listener says of the login.
_Connector = Callable[[_Connect, dict[str, Any], Mapping[str, Any]], Any]


def connector_for(settings: DatabaseSettings, target: Target, is_async: bool) -> _Connector:
    """Return what opens one connection to *target*."""
    if target.product.is_file:
        return (_AiosqliteConnector if is_async else SqliteConnector)(settings, target)
    if target.product.speaks_mysql:
        return (_AsyncmyConnector if is_async else _PyMySQLConnector)(settings, target)
    return (_PostgresAsyncConnector if is_async else _PostgresConnector)(settings, target)


class _Base:
    def __init__(self, settings: DatabaseSettings, target: Target) -> None:
        self.settings = settings
        self.target = target
        self.has_told = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} to {self.target}>"

    def __call__(self, connect: _Connect, cparams: dict[str, Any], login: Mapping[str, Any]) -> Any:
        """Return an open connection; what is raised knows what was tried."""
        limit = seconds_to_connect(self.settings.connect_timeout_seconds)
        try:
            return self.connected(connect, cparams, login)
        except Exception as error:
            note(error, self.tried(limit))
            raise

    def connected(self, connect: _Connect, cparams: dict[str, Any], login: Mapping[str, Any]) -> Any:
        raise NotImplementedError

    def tried(self, limit_seconds: float) -> Connecting:
        """Return where to, and for how long, a connection was tried."""
        limit = "connect_timeout_seconds"
        if limit_seconds < self.settings.connect_timeout_seconds:
            limit = "your own timeout="
        return Connecting(", ".join(map(str, self.target.hosts)), limit_seconds=limit_seconds, limit_name=limit)

    def until(self) -> float:
        """Return when connecting must have ended, on the monotonic clock: the whole of it, whatever it has to try."""
        return time.monotonic() + seconds_to_connect(self.settings.connect_timeout_seconds)

    @property
    def password(self) -> str | None:
        return None if self.target.password is None else self.target.password.reveal()

    def tell_what_is_in_clear(self, host: Host, is_encrypted: bool) -> None:
        """Say once that the server has no TLS, to who prefers it; within one machine it is no warning."""
        if is_encrypted or host.is_path or self.has_told or self.settings.ssl_mode != "prefer":
            return
        self.has_told = True
        logger.log(
            logging.INFO if is_loopback(host.host) else logging.WARNING,
            "ssl_mode=prefer: %s offers no TLS, so everybody on the way can read and change what is sent;"
            " ssl_mode=require refuses that, and ssl_mode=disable says that it is meant",
            host,
        )


class SqliteConnector(_Base):
    """A file, or a database in memory that all connections of one engine share.

    Memory: SQLite's ``memdb`` file system under a name that nobody else has. A second writer waits there, as it does
    for a file; a shared cache would fail at once with SQLITE_LOCKED. One connection more keeps it alive while the pool
    is empty.
    """

    def __init__(self, settings: DatabaseSettings, target: Target) -> None:
        super().__init__(settings, target)
        self.in_memory = target.database == ":memory:"
        self.path = f"file:/prefiq-{uuid.uuid4().hex}?vfs=memdb" if self.in_memory else os.path.abspath(target.database)
        self.anchor: sqlite3.Connection | None = None

    def connected(self, connect: _Connect, cparams: dict[str, Any], login: Mapping[str, Any]) -> Any:
        if self.in_memory and self.anchor is None:
            self.anchor = sqlite3.connect(self.path, uri=True, check_same_thread=False)
        read_only = self.settings.read_only
        return self.open(
            connect,
            uri=self.in_memory or read_only,
            isolation_level=None,
            timeout=self.settings.lock_timeout_seconds,
            check_same_thread=False,
            factory=connection_factory(
                self.settings.statement_timeout_seconds, durable_wal=not self.in_memory, read_only=read_only
            ),
        )

    def tried(self, limit_seconds: float) -> Connecting:
        return Connecting(
            self.target.database, None if self.in_memory else self.path, read_only=self.settings.read_only
        )

    @property
    def address(self) -> str:
        """What sqlite3 is told: of a database to read, that neither the file nor a PRAGMA may change that."""
        if self.in_memory or not self.settings.read_only:
            return self.path
        return f"file:{quote(self.path)}?mode=ro"

    def open(self, connect: _Connect, **arguments: Any) -> Any:
        return connect(self.address, **arguments)

    def close(self) -> None:
        """Let go of the database in memory."""
        if self.anchor is not None:
            self.anchor.close()
            self.anchor = None


class _AiosqliteConnector(SqliteConnector):
    """Waits for aiosqlite's thread when opening fails or is cancelled.

    aiosqlite only asks it to stop: it would report to a loop that may be closed by then, and a connection that was
    opened after the cancellation would be nobody's.
    """

    def open(self, connect: _Connect, **arguments: Any) -> Any:
        return connect(self.address, async_creator_fn=self._open, **arguments)

    async def _open(self, path: str, *, factory: Callable[..., sqlite3.Connection], **arguments: Any) -> Any:
        import aiosqlite

        made: list[sqlite3.Connection] = []

        def remembered(*args: Any, **kwargs: Any) -> sqlite3.Connection:
            made.append(factory(*args, **kwargs))
            return made[-1]

        opening = aiosqlite.connect(path, factory=remembered, **arguments)
        # As SQLAlchemy does: an unclosed connection must not keep the interpreter from exiting.
        opening._thread.daemon = True
        try:
            return await opening
        except BaseException:
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, opening._thread.join))
            for connection in made:
                connection.close()
            raise


class _PostgresConnector(_Base):
    def connected(self, connect: _Connect, cparams: dict[str, Any], login: Mapping[str, Any]) -> Any:
        settings, target = self.settings, self.target
        arguments: dict[str, Any] = {
            "context": cparams.get("context"),
            **target.options,
            **{name: secret.reveal() for name, secret in target.secret_options.items()},
            "host": ",".join(host.host for host in target.hosts),
            "port": ",".join(str(host.port) for host in target.hosts),
            "user": target.user,
            "password": self.password,
            "dbname": target.database or None,
            "autocommit": True,
            "application_name": settings.application_name,
            "sslmode": settings.ssl_mode,
            "sslrootcert": self.authorities(),
            "sslcert": _path(settings.ssl_cert),
            "sslkey": _path(settings.ssl_key),
            **login,
        }
        if self.may_be_overheard():
            arguments[REQUIRE_AUTH] = self.challenges_only()
        arguments = {name: value for name, value in arguments.items() if value is not None}
        if settings.read_only:
            # libpq would take our own default_transaction_read_only for the server's.
            wanted = target.options.get(SESSION_ATTRS, ANY_HOST)
            arguments[SESSION_ATTRS] = {WRITER: "primary", READER: "standby"}.get(wanted, wanted)
        elif len(target.hosts) > 1:
            # A pool whose next connection may be to a standby is no use to a writer; libpq's own default is "any".
            arguments.setdefault(SESSION_ATTRS, WRITER)
        if settings.pgbouncer:
            # To psycopg None means never to prepare; without it a pooler's backends meet names they don't know.
            arguments["prepare_threshold"] = None
        else:
            arguments["options"] = " ".join(
                [
                    "-c timezone=UTC",
                    f"-c statement_timeout={max(1, round(settings.statement_timeout_seconds * 1000))}",
                    f"-c lock_timeout={max(1, round(settings.lock_timeout_seconds * 1000))}",
                    *(["-c default_transaction_read_only=on"] if settings.read_only else []),
                ]
            ).strip()
        return self.open(connect, arguments)

    def may_be_overheard(self) -> bool:
        """Return whether a connection may go over TCP without TLS, and the password must not go with it."""
        settings, target = self.settings, self.target
        over_tcp = "hostaddr" in target.options or not all(host.is_path for host in target.hosts)
        return over_tcp and settings.ssl_mode in ("disable", "prefer") and not settings.allow_cleartext_password

    def challenges_only(self) -> str | None:
        import psycopg

        asked = self.target.options.get(REQUIRE_AUTH)
        return challenges_only(asked, psycopg.pq.version(), has_password=self.password is not None)

    def authorities(self) -> str | None:
        """Return whom to trust: without a setting the system's, where libpq's own default is a file at home."""
        settings = self.settings
        if settings.ssl_ca is not None or not settings.ssl_mode.startswith("verify"):
            return _path(settings.ssl_ca)
        # libpq's own word for it is its OpenSSL's, which in a wheel is not the system's; and verify-ca refuses it.
        return system_authorities() or "system"

    def tell(self, connection: Any) -> None:
        info = connection.info
        self.tell_what_is_in_clear(Host(info.host, info.port), bool(info.pgconn.ssl_in_use))

    def open(self, connect: _Connect, arguments: dict[str, Any]) -> Any:
        from prefiq_db.drivers import psycopg

        connection = psycopg.Connection.connect_within(self.until(), **arguments)
        self.tell(connection)
        if _needs_time_zone(self.settings, connection):
            try:
                connection.execute(_IN_UTC, prepare=False)
            except BaseException:
                connection.close()
                raise
        return connection


class _PostgresAsyncConnector(_PostgresConnector):
    def open(self, connect: _Connect, arguments: dict[str, Any]) -> Any:
        from prefiq_db.drivers import psycopg

        async def opened(**given: Any) -> Any:
            connection = await psycopg.AsyncConnection.connect_within(**given)
            self.tell(connection)
            if _needs_time_zone(self.settings, connection):
                try:
                    await connection.execute(_IN_UTC, prepare=False)
                except BaseException:
                    connection.pgconn.finish()  # at once: its own close() may wait
                    raise
            return connection

        return connect(async_creator_fn=opened, until=self.until(), **arguments)


# A pooler takes no startup options, and libpq has none for this. pgbouncer follows it as one of a client's parameters,
# and tells it to whatever backend serves the client next.
_IN_UTC: Final = "SET timezone = 'UTC'"


def _needs_time_zone(settings: DatabaseSettings, connection: Any) -> bool:
    """Return whether the session was not told its time zone, and has another one than ours."""
    return settings.pgbouncer and connection.info.parameter_status("TimeZone") not in ("UTC", "Etc/UTC")


class _MySQLConnector(_Base):
    """Tries each host in turn: neither driver knows more than one."""

    def __init__(self, settings: DatabaseSettings, target: Target) -> None:
        super().__init__(settings, target)
        self.context = ssl_context(settings)

    def arguments(self, host: Host) -> dict[str, Any]:
        target = self.target
        place = {"unix_socket": host.host} if host.is_path else {"host": host.host, "port": host.port}
        return {
            **place,
            "user": target.user or "",
            "password": self.password or "",
            "database": target.database or None,
            "charset": "utf8mb4",
            "autocommit": True,
            "init_command": self.init_command(),
            "local_infile": False,
        }

    def init_command(self) -> str:
        """Return one statement for the whole session set-up; each server skips the other's comment."""
        settings = self.settings
        lock = max(1, round(settings.lock_timeout_seconds))
        limit = settings.statement_timeout_seconds
        return (
            f"SET SESSION {mariadb.SESSION}, "
            f"innodb_lock_wait_timeout = {lock}, lock_wait_timeout = {lock} "
            f"/*M! , max_statement_time = {limit:.6f} */ "
            f"/*!50708 , max_execution_time = {max(1, round(limit * 1000))} */"
            f"{_MYSQL_READ_ONLY if settings.read_only else ''}"
        )

    def mode_for(self, arguments: dict[str, Any]) -> str:
        """Return what is done about TLS: over a socket nobody listens, and ``prefer`` doesn't prefer it there."""
        mode = self.settings.ssl_mode
        return "disable" if mode == "prefer" and "unix_socket" in arguments else mode

    def client_flag(self, cparams: dict[str, Any]) -> int:
        # FOUND_ROWS, set by SQLAlchemy: an UPDATE counts the rows it matched, as on the other databases.
        return int(cparams.get("client_flag", 0))

    def connected(self, connect: _Connect, cparams: dict[str, Any], login: Mapping[str, Any]) -> Any:
        last: Exception | None = None
        ailment: ErrorKind | None = None
        shares = Shares(self.until(), len(self.target.hosts))
        for host in self.target.hosts:
            arguments = {**self.arguments(host), **login, "client_flag": self.client_flag(cparams)}
            try:
                connection = self.open(connect, arguments, shares.next())
                found = self.misfit(connection)
            except Exception as error:
                if not _tells_to_try_the_next(error):
                    raise
                last = error
            else:
                if found is None:
                    self.tell_what_is_in_clear(host, self.is_encrypted(connection))
                    self.equip(connection, partial(self.end_session, host, login))
                    return connection
                ailment = found
        if ailment is not None:
            raise _none_fits(ailment)
        assert last is not None
        raise last

    def misfit(self, connection: Any) -> ErrorKind | None:
        """Return why the server behind *connection* is not one to stay with, and close it then; else ``None``.

        With a single host there is nowhere else to go, and nothing is asked.
        """
        wanted = self.target.options.get(SESSION_ATTRS, ANY_HOST if self.settings.read_only else WRITER)
        if len(self.target.hosts) == 1 or wanted == ANY_HOST:
            return None
        fits = False
        try:
            cursor = connection.cursor()
            cursor.execute(mariadb.HEALTH[self.target.product.dialect])
            found = mariadb.misfit(wanted, cursor.fetchone())
            cursor.close()
            fits = found is None
        finally:
            if not fits:
                # An async connection's close() waits for the server; terminate() doesn't, cancelled or not.
                getattr(connection, "terminate", connection.close)()
        return found

    def equip(self, connection: Any, end_session: Callable[[int, int | None], None]) -> None:
        """Tell *connection* how its session is ended when nobody waits for its statement any more."""
        raise NotImplementedError

    def end_session(self, host: Host, login: Mapping[str, Any], session: int, port: int | None) -> None:
        """End *session* of ours on *host*, and the statement that runs in it, from a connection for just that.

        Numbers of sessions begin anew with each server, and behind *host* there may be several: the session's client
        must be ours, by user and *port* (``None``: over a socket in the file system), or nothing is ended.
        """
        until = time.monotonic() + STOP_SECONDS
        arguments = {**self.arguments(host), **login, "database": None, "init_command": None}
        connection = _PyMySQLConnector(self.settings, self.target).open(_nothing, arguments, until)
        try:
            cursor = connection.cursor()
            if cursor.execute(mariadb.is_session_sql(session, port)):
                cursor.execute(f"KILL CONNECTION {session:d}")
        finally:
            connection.close()

    def open(self, connect: _Connect, arguments: dict[str, Any], until: float) -> Any:
        raise NotImplementedError

    def is_encrypted(self, connection: Any) -> bool:
        raise NotImplementedError


def _nothing(**arguments: Any) -> Any:
    """What a connector is given that opens without SQLAlchemy's help."""
    raise NotImplementedError


class _PyMySQLConnector(_MySQLConnector):
    """Adds what PyMySQL lacks: a connect timeout that covers the handshake."""

    def equip(self, connection: Any, end_session: Callable[[int, int | None], None]) -> None:
        connection.end_session = end_session

    def open(self, connect: _Connect, arguments: dict[str, Any], until: float) -> Any:
        from pymysql.converters import conversions as of_driver

        from prefiq_db.drivers import pymysql
        from prefiq_db.drivers.pymysql_socket import SocketConnection

        arguments = {"conv": conversions(of_driver), **arguments}
        mode = self.mode_for(arguments)
        tls: dict[str, Any] = {"ssl_disabled": True} if mode in ("disable", "prefer") else {"ssl": self.context}
        kind = SocketConnection if "unix_socket" in arguments else pymysql.Connection
        connection = kind(**arguments, **tls, defer_connect=True)
        connection.may_tell = self.settings.allow_cleartext_password
        if self.context is not None:
            self.context.sslsocket_class = pymysql.TimedTls
        if mode == "prefer":
            # PyMySQL's own default is the same, encrypted and unverified if the server offers it; but it makes a
            # context for every connection, and loading the system's certificates takes 20 ms.
            connection.ssl, connection.ctx, connection._ssl_required = True, self.context, False
        connection.connect_within(until)
        connection.patience_seconds = _left(until)
        return connection

    def is_encrypted(self, connection: Any) -> bool:
        return bool(connection._secure)


class _AsyncmyConnector(_MySQLConnector):
    """Adds what asyncmy lacks: a connect timeout that covers the handshake."""

    def equip(self, connection: Any, end_session: Callable[[int, int | None], None]) -> None:
        connection._execute_mutex.end_session = end_session

    def open(self, connect: _Connect, arguments: dict[str, Any], until: float) -> Any:
        mode = self.mode_for(arguments)
        connection = connect(
            **arguments,
            ssl=None if mode == "disable" else self.context,
            tls_required=mode != "prefer",
            may_tell=self.settings.allow_cleartext_password,
            async_creator_fn=_asyncmy_by,
            until=until,
        )
        connection._execute_mutex.patience_seconds = _left(until)
        return connection

    def is_encrypted(self, connection: Any) -> bool:
        return bool(connection._connection._secure)


async def _asyncmy_by(until: float, **arguments: Any) -> Any:
    """Connect, greet and log in until a moment on the monotonic clock."""
    from asyncmy.converters import conversions as of_driver

    from prefiq_db.drivers import asyncmy

    arguments = {"conv": conversions(of_driver), **arguments}
    try:
        async with asyncio.timeout(_left(until)):
            return await asyncmy.connect(**arguments)
    except TimeoutError:
        pass  # raised below, outside the block: it says nothing that matters
    raise asyncmy.AsyncmyDeadlinePassed("no connection in time")


def _left(until: float) -> float:
    return max(0.01, until - time.monotonic())


def _none_fits(ailment: ErrorKind) -> PrefiqDbError:
    """Return the error for a list of hosts none of which is wanted; *ailment* is why the last that answered wasn't."""
    classification = in_phase(treatment(ailment), "connect")
    if ailment is ErrorKind.READ_ONLY:
        return ReadOnlyError(
            "none of the hosts takes writes: those that answered are read-only. A failover may be under way; to stay "
            f"with a host that only reads, say ?{SESSION_ATTRS}={ANY_HOST} in the URL",
            classification=classification,
        )
    return NotReadyError(
        "none of the hosts is one to work with now: those that answered are not ready, or not what "
        f"?{SESSION_ATTRS}= in the URL asks for",
        classification=classification,
    )


def _tells_to_try_the_next(error: Exception) -> bool:
    """Return whether another host may do better: not when this one answered that login or database are wrong."""
    code = error.args[0] if error.args else None
    unreachable = isinstance(error, (OSError, DeadlinePassed)) and not is_interruption(error)
    return unreachable or code in {2002, 2003, 2005, 2006, 2013, 1040, 1047, 1053, 1129, 1203}


def _path(path: Any) -> str | None:
    return None if path is None else os.fspath(path)


def ssl_context(settings: DatabaseSettings) -> ssl.SSLContext | None:
    """Return the TLS context for MariaDB's drivers; ``None`` for ``disable``.

    ``prefer`` and ``require`` encrypt without verifying, as libpq does; ``verify-ca`` checks the chain,
    ``verify-full`` the host's name as well.
    """
    if settings.ssl_mode == "disable":
        return None
    if settings.ssl_mode in ("prefer", "require"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context = ssl.create_default_context(cafile=_path(settings.ssl_ca))
        context.check_hostname = settings.ssl_mode == "verify-full"
    if settings.ssl_cert is not None:
        context.load_cert_chain(os.fspath(settings.ssl_cert), _path(settings.ssl_key))
    return context
