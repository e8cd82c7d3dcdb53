"""MariaDB and MySQL: try each host in turn, and add features that their drivers lack."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from prefiq_db.config import ANY_HOST, Host, Target
from prefiq_db.connectors.connector import Connect
from prefiq_db.connectors.several_hosts import SeveralHosts, ask_one
from prefiq_db.connectors.ssl_context import ssl_context
from prefiq_db.deadline import Deadline
from prefiq_db.dialects import mariadb
from prefiq_db.dialects.node_roles import HEALTH, ORIGINS, WELL, Role, mariadb_kinship, mysql_role_for
from prefiq_db.drivers.deadlines import DeadlinePassed
from prefiq_db.drivers.local_stream import LOCAL_FILES
from prefiq_db.drivers.mysql_literals import conversions
from prefiq_db.drivers.stopping import STOP_SECONDS
from prefiq_db.drivers.travellers_mysql import SESSION_TRACK
from prefiq_db.settings import DatabaseSettings

# The session's default, which holds for a plain START TRANSACTION and for a statement of its own.
_MYSQL_READ_ONLY: Final = " /*M! , tx_read_only = 1 */ /*!50720 , transaction_read_only = 1 */"

# Galera: a read, and the BEGIN of a transaction, waits until the node has what the cluster had committed before.
_CAUSAL: Final = " /*M! , wsrep_sync_wait = 1 */"

# The number of the first version that may know it; it is no MySQL.
_TELL_GTID: Final = " /*M!100202 , session_track_system_variables = 'last_gtid' */"


class _MySQLConnector(SeveralHosts):
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
            f"{_TELL_GTID if settings.replicas else ''}"
            f"{_MYSQL_READ_ONLY if settings.read_only else ''}"
            f"{_CAUSAL if settings.causal_reads else ''}"
        )

    def mode_for(self, arguments: dict[str, Any]) -> str:
        """Return the effective TLS mode: over a Unix socket nobody listens, so ``prefer`` doesn't use TLS there."""
        mode = self.settings.ssl_mode
        return "disable" if mode == "prefer" and "unix_socket" in arguments else mode

    def client_flag(self, cparams: dict[str, Any]) -> int:
        # FOUND_ROWS, set by SQLAlchemy: an UPDATE counts the rows it matched, as on the other databases.
        # LOCAL_FILES: bulk_insert() streams rows that way; our drivers refuse a request for anything else.
        # SESSION_TRACK: the reply to what writes tells its GTID, which reads on a replica wait for.
        tracks = SESSION_TRACK if self.settings.replicas else 0
        return int(cparams.get("client_flag", 0)) | LOCAL_FILES | tracks

    def connected(self, connect: Connect, cparams: dict[str, Any], login: Mapping[str, Any], deadline: Deadline) -> Any:
        def opened(host: Host, by: Deadline) -> Any:
            return self.open(connect, {**self.arguments(host), **login, "client_flag": self.client_flag(cparams)}, by)

        if len(self.target.hosts) == 1:
            # There is no alternative, so nothing is asked.
            host = self.target.hosts[0]
            connection = opened(host, deadline)
        else:
            host, connection = self.find(opened, deadline)
        self.tell_what_is_in_clear(host, self.is_encrypted(connection))
        self.equip(connection, partial(self.end_session, host, login))
        return connection

    def role_of(self, connection: Any) -> Role:
        if self.wanted == ANY_HOST:
            return WELL
        return mysql_role_for(self.wanted, ask_one(connection, HEALTH[self.target.product.dialect]))

    def kinship(self, connection: Any, other: Any) -> str | None:
        question = ORIGINS.get(self.target.product.dialect)
        return None if question is None else mariadb_kinship(ask_one(connection, question), ask_one(other, question))

    def may_pass(self, error: Exception) -> bool:
        code = error.args[0] if error.args else None
        unreachable = isinstance(error, (OSError, DeadlinePassed))
        return unreachable or code in {2002, 2003, 2005, 2006, 2013, 1040, 1047, 1053, 1129, 1203}

    def drop(self, connection: Any) -> None:
        # An async connection's close() waits for the server; terminate() doesn't, cancelled or not.
        getattr(connection, "terminate", connection.close)()

    def equip(self, connection: Any, end_session: Callable[[int, int | None], None]) -> None:
        """Give *connection* the function that ends its session if no caller waits for its statement any more."""
        raise NotImplementedError

    def end_session(self, host: Host, login: Mapping[str, Any], session: int, port: int | None) -> None:
        """End our *session* on *host*, and the statement that runs in it, from a separate connection.

        Session numbers start anew on each server, and there may be several servers behind *host*: only a session whose
        client is ours, by user and *port* (``None``: a Unix socket), is ended.
        """
        deadline = Deadline.after(STOP_SECONDS)
        arguments = {**self.arguments(host), **login, "database": None, "init_command": None}
        connection = PyMySQLConnector(self.settings, self.target).open(_nothing, arguments, deadline)
        try:
            cursor = connection.cursor()
            if cursor.execute(mariadb.is_session_sql(session, port)):
                cursor.execute(f"KILL CONNECTION {session:d}")
        finally:
            connection.close()

    def open(self, connect: Connect, arguments: dict[str, Any], deadline: Deadline) -> Any:
        raise NotImplementedError

    def is_encrypted(self, connection: Any) -> bool:
        raise NotImplementedError


def _nothing(**arguments: Any) -> Any:
    """Replace SQLAlchemy's connect function for a connection that is opened without it."""
    raise NotImplementedError


class PyMySQLConnector(_MySQLConnector):
    """Adds what PyMySQL lacks: a connect timeout that covers the handshake."""

    def is_of_driver(self, error: Exception) -> bool:
        from pymysql import MySQLError

        return isinstance(error, (OSError, DeadlinePassed, MySQLError))

    def equip(self, connection: Any, end_session: Callable[[int, int | None], None]) -> None:
        connection.end_session = end_session
        connection.tells_gtid = bool(self.settings.replicas)

    def open(self, connect: Connect, arguments: dict[str, Any], deadline: Deadline) -> Any:
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
        connection.connect_by(deadline)
        connection.patience_seconds = deadline.left(at_least=0.01)
        return connection

    def is_encrypted(self, connection: Any) -> bool:
        return bool(connection._secure)


class AsyncmyConnector(_MySQLConnector):
    """Adds what asyncmy lacks: a connect timeout that covers the handshake."""

    def is_of_driver(self, error: Exception) -> bool:
        from asyncmy.errors import MySQLError

        return isinstance(error, (OSError, DeadlinePassed, MySQLError))

    def equip(self, connection: Any, end_session: Callable[[int, int | None], None]) -> None:
        connection._execute_mutex.end_session = end_session
        connection._connection.tells_gtid = bool(self.settings.replicas)

    def open(self, connect: Connect, arguments: dict[str, Any], deadline: Deadline) -> Any:
        from asyncmy.converters import conversions as of_driver

        from prefiq_db.drivers import asyncmy

        mode = self.mode_for(arguments)
        connection = connect(
            **{"conv": conversions(of_driver), **arguments},
            ssl=None if mode == "disable" else self.context,
            tls_required=mode != "prefer",
            may_tell=self.settings.allow_cleartext_password,
            async_creator_fn=asyncmy.connect_by,
            deadline=deadline,
        )
        connection._execute_mutex.patience_seconds = deadline.left(at_least=0.01)
        return connection

    def is_encrypted(self, connection: Any) -> bool:
        return bool(connection._connection._secure)
