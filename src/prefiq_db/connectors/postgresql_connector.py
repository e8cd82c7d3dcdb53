"""PostgreSQL: the arguments for libpq."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from prefiq_db.config import ANY_HOST, READER, SESSION_ATTRS, WRITER, Host, Target
from prefiq_db.connectors.connector import Connect
from prefiq_db.connectors.several_hosts import SeveralHosts, ask_one
from prefiq_db.connectors.ssl_context import file_path
from prefiq_db.deadline import Deadline
from prefiq_db.dialects.node_roles import (
    POSTGRESQL_ORIGIN,
    POSTGRESQL_ROLE,
    POSTGRESQL_ROLES,
    WELL,
    Role,
    postgresql_kinship,
    postgresql_role_for,
)
from prefiq_db.drivers.challenges import REQUIRE_AUTH, challenges_only
from prefiq_db.drivers.tls_trust import system_authorities
from prefiq_db.errors import ErrorKind
from prefiq_db.interruptions import is_interruption
from prefiq_db.settings import DatabaseSettings
from prefiq_db.translation.named_exceptions import find_named

logger = logging.getLogger("prefiq_db.connectors")


#: libpq's word for a server that is no standby, whether or not it takes writes by default
_PRIMARY: Final = "primary"

_GREATEST_PID: Final = 2**22  # Linux has none above it, and other systems stay far below

#: libpq's own ways to use a list of hosts, which leave no choice to us.
_LISTS: Final = frozenset({"hostaddr", "load_balance_hosts", "service"})


class PostgresConnector(SeveralHosts):
    def __init__(self, settings: DatabaseSettings, target: Target) -> None:
        super().__init__(settings, target)
        # A primary that is only read by default is none to find by its replies, but there may be only one, too.
        self.seeks_primary = self.wanted in (WRITER, _PRIMARY) and not settings.read_only
        # A server tells its role by itself, and ends its sessions when it becomes a standby. A pooler goes on telling
        # what its first session of the server heard, and keeps its clients when the server's sessions end.
        self.asks_role = settings.pgbouncer
        self._has_told_of_pooler = False
        attrs, lists = self._session_attrs(), not _LISTS.isdisjoint(target.options)
        #: what a host is asked for instead of looking at what it tells at login; ``None``: libpq looks there
        self.asked_for = attrs if settings.pgbouncer and attrs in POSTGRESQL_ROLES and not lists else None

    def connected(self, connect: Connect, cparams: dict[str, Any], login: Mapping[str, Any], deadline: Deadline) -> Any:
        settings, target = self.settings, self.target
        arguments: dict[str, Any] = {
            "context": cparams.get("context"),
            **target.options,
            **{name: secret.reveal() for name, secret in target.secret_options.items()},
            **_places(target.hosts),
            "user": target.user,
            "password": self.password,
            "dbname": target.database or None,
            "autocommit": True,
            "application_name": settings.application_name,
            "sslmode": settings.ssl_mode,
            "sslrootcert": self.authorities(),
            "sslcert": file_path(settings.ssl_cert),
            "sslkey": file_path(settings.ssl_key),
            **login,
        }
        if self.may_be_overheard():
            arguments[REQUIRE_AUTH] = self.challenges_only()
        arguments = {name: value for name, value in arguments.items() if value is not None}
        arguments[SESSION_ATTRS] = ANY_HOST if self.asked_for is not None else self._session_attrs()
        chooses = len(target.hosts) > 1 and self.seeks_primary and _LISTS.isdisjoint(arguments)
        if settings.pgbouncer:
            # None: psycopg never prepares. Behind a pooler, backends don't know each other's prepared statements.
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
        if not chooses and self.asked_for is None:
            return self.open(connect, arguments, deadline)
        # libpq judges each of a host's addresses; with a list it would say nothing of hosts that it had no need to ask.
        return self.find(lambda host, by: self.open(connect, {**arguments, **_places([host])}, by), deadline)[1]

    def _session_attrs(self) -> str:
        """Return what a server has to be, in libpq's words."""
        options, only_reads = self.target.options, self.settings.read_only
        # A pool that may connect to a standby next is no use to a writer; libpq's own default is "any".
        usual = WRITER if len(self.target.hosts) > 1 and not only_reads else ANY_HOST
        wanted: str = options.get(SESSION_ATTRS, usual)
        # libpq would mistake our own default_transaction_read_only for the server's.
        return {WRITER: _PRIMARY, READER: "standby"}.get(wanted, wanted) if only_reads else wanted

    def role_of(self, connection: Any) -> Role:
        if self.asked_for is None:
            return WELL  # libpq has refused any other, see ailment_in()
        return postgresql_role_for(self.asked_for, ask_one(connection, POSTGRESQL_ROLE))

    def ailment_in(self, error: Exception) -> ErrorKind | None:
        named = find_named("postgresql", None, str(error), "connect")
        return ErrorKind.READ_ONLY if named is not None and named.becomes is ErrorKind.READ_ONLY else None

    def kinship(self, connection: Any, other: Any) -> str | None:
        return postgresql_kinship(*map(self._origin, (connection, other)))

    def _origin(self, connection: Any) -> Any:
        try:
            return ask_one(connection, POSTGRESQL_ORIGIN)
        except Exception as error:
            if is_interruption(error):
                raise
            # A product that only speaks PostgreSQL's protocol, or a role that may not ask.
            logger.debug("a host doesn't tell its cluster: %s", type(error).__name__)
            return None

    def is_of_driver(self, error: Exception) -> bool:
        import psycopg

        return isinstance(error, (psycopg.Error, OSError))

    def may_pass(self, error: Exception) -> bool:
        named = find_named("postgresql", None, str(error), "connect")
        return named is None or named.becomes not in (ErrorKind.AUTHENTICATION, ErrorKind.PERMISSION, ErrorKind.SCHEMA)

    def drop(self, connection: Any) -> None:
        connection.pgconn.finish()

    def may_be_overheard(self) -> bool:
        """Return whether a connection may use TCP without TLS, so that the password must not be sent itself."""
        settings, target = self.settings, self.target
        over_tcp = "hostaddr" in target.options or not all(host.is_path for host in target.hosts)
        return over_tcp and settings.ssl_mode in ("disable", "prefer") and not settings.allow_cleartext_password

    def challenges_only(self) -> str | None:
        import psycopg

        asked = self.target.options.get(REQUIRE_AUTH)
        return challenges_only(asked, psycopg.pq.version(), has_password=self.password is not None)

    def authorities(self) -> str | None:
        """Return the trusted authorities: by default the system's, where libpq's own default is a file at home."""
        settings = self.settings
        if settings.ssl_ca is not None or not settings.ssl_mode.startswith("verify"):
            return file_path(settings.ssl_ca)
        # libpq's "system" means its own OpenSSL's, which in a wheel is not the system's; and verify-ca refuses it.
        return system_authorities() or "system"

    def tell(self, connection: Any) -> None:
        info = connection.info
        host = Host(info.host, info.port)
        self.tell_what_is_in_clear(host, bool(info.pgconn.ssl_in_use))
        connection.is_lent = self.settings.pgbouncer
        # A server tells the number of its process, to cancel by. A pooler has no process for each client, so it tells
        # four random bytes; of a thousand of these one could be such a number.
        if not (self.settings.pgbouncer or 0 < info.backend_pid <= _GREATEST_PID or self._has_told_of_pooler):
            self._has_told_of_pooler = True
            logger.warning(
                "%s is behind a pooler such as pgbouncer, and pgbouncer is off: time limits and time zone may not hold,"
                " and prepared statements may fail; set pgbouncer: true, or connect to the server itself",
                host,
            )

    def open(self, connect: Connect, arguments: dict[str, Any], deadline: Deadline) -> Any:
        from prefiq_db.drivers import psycopg

        connection = psycopg.Connection.connect_by(deadline, **arguments)
        self.tell(connection)
        if _needs_time_zone(self.settings, connection):
            try:
                connection.execute(_IN_UTC, prepare=False)
            except BaseException:
                connection.close()
                raise
        return connection


class AsyncPostgresConnector(PostgresConnector):
    def drop(self, connection: Any) -> None:
        connection._connection.pgconn.finish()  # at once: its own close() may wait

    def open(self, connect: Connect, arguments: dict[str, Any], deadline: Deadline) -> Any:
        from prefiq_db.drivers import psycopg

        async def opened(**given: Any) -> Any:
            connection = await psycopg.AsyncConnection.connect_by(**given)
            self.tell(connection)
            if _needs_time_zone(self.settings, connection):
                try:
                    await connection.execute(_IN_UTC, prepare=False)
                except BaseException:
                    connection.pgconn.finish()  # at once: its own close() may wait
                    raise
            return connection

        return connect(async_creator_fn=opened, deadline=deadline, **arguments)


# A pooler accepts no startup options, and libpq has no parameter for this. pgbouncer tracks TimeZone as one of a
# client's parameters, and sets it on each backend that serves the client.
_IN_UTC: Final = "SET timezone = 'UTC'"


def _needs_time_zone(settings: DatabaseSettings, connection: Any) -> bool:
    """Return whether the session still needs our time zone, because no startup option could set it."""
    return settings.pgbouncer and connection.info.parameter_status("TimeZone") not in ("UTC", "Etc/UTC")


def _places(hosts: Sequence[Host]) -> dict[str, str]:
    return {"host": ",".join(host.host for host in hosts), "port": ",".join(str(host.port) for host in hosts)}
