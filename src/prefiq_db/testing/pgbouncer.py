"""pgbouncer in front of a PostgreSQL server, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from prefiq_db.testing.database_server import DatabaseServer
from prefiq_db.testing.front import Front

_CONNECT_TIMEOUT_SECONDS = 5


class PgBouncer(Front):
    """A private pgbouncer: ``with PgBouncer(server) as pooler: Database(pooler.url(name), pgbouncer=True)``.

    All users of the server can log in, with their passwords there; connections to clients have no TLS.

    Args:
        server: the PostgreSQL server behind it.
        mode: when a server's session goes to the next client: after each transaction, or at the end of the client's
            session.
        pool_size: how many sessions of the server it holds for each user and database. In session mode each client
            holds one as long as it is connected: those beyond *pool_size* log in and wait with their first statement.
        settings: further settings by pgbouncer's names; they override ours.

    Raises:
        ServerUnavailableError: if pgbouncer isn't installed.
    """

    _program_name = "pgbouncer"
    _accounts = ("postgres", "nobody")

    def __init__(
        self,
        server: DatabaseServer,
        *,
        mode: Literal["transaction", "session"] = "transaction",
        pool_size: int = 2,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.server = server
        self.mode = mode
        self.pool_size = pool_size
        self.settings = dict(settings or {})

    def url(self, database: str) -> str:
        """Return the URL of a database through the pooler. It holds the password."""
        login = f"{self.server.user}:{self.server._password}"
        return f"postgresql://{login}@{self.host}:{self.port}/{database}"

    def admin(self, command: str) -> list[dict[str, Any]]:
        """Run a command of pgbouncer's console and return its rows: ``SHOW POOLS``, ``PAUSE``, ``KILL name`` ..."""
        import psycopg
        from psycopg.rows import dict_row

        with psycopg.connect(
            self.url("pgbouncer"), autocommit=True, connect_timeout=_CONNECT_TIMEOUT_SECONDS, row_factory=dict_row
        ) as connection:
            # It speaks the simple protocol only.
            cursor = psycopg.ClientCursor(connection, row_factory=dict_row)
            cursor.execute(command.encode())
            return cursor.fetchall() if cursor.description else []

    def drain(self) -> None:
        """Let running transactions end, and clients with new ones wait until :meth:`resume` (``PAUSE``)."""
        self.admin("PAUSE")

    def resume(self) -> None:
        """Let the clients that wait go on."""
        self.admin("RESUME")

    def point_to(self, server: DatabaseServer) -> None:
        """Send everybody to another server from now on; open sessions end with their transaction."""
        self.server = server
        self._configure()
        self.admin("RELOAD")

    def _configure(self) -> None:
        settings = {
            "listen_addr": self.host,
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": str(self._folder / "users.txt"),
            "auth_query": "select usename, passwd from pg_catalog.pg_shadow where usename = $1",
            "auth_user": self.server.user,
            "admin_users": self.server.user,
            "pool_mode": self.mode,
            "default_pool_size": str(self.pool_size),
            "max_client_conn": "1000",
            **self.settings,
        }
        self._write("users.txt", f'"{self.server.user}" "{self.server._password}"\n')
        lines = [f"{name} = {value}" for name, value in settings.items()]
        server = f"* = host={self.server.host} port={self.server.port}"
        self._write("pgbouncer.ini", "\n".join(["[databases]", server, "[pgbouncer]", *lines, ""]))

    def _command(self) -> list[str]:
        return [self._program, "-q", str(self._folder / "pgbouncer.ini")]
