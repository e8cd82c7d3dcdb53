"""A PostgreSQL server for tests."""

from __future__ import annotations

import base64
import hashlib
import hmac
import importlib.util
import secrets
import signal
import subprocess
from typing import TYPE_CHECKING, Any

from prefiq_db.errors import MissingDriverError
from prefiq_db.testing.database_server import DatabaseServer
from prefiq_db.testing.locate import POSTGRESQL, ServerUnavailableError
from prefiq_db.testing.machine import server_environment
from prefiq_db.testing.processes import process_tree, send_signal
from prefiq_db.testing.templates import fill

if TYPE_CHECKING:
    import psycopg

_CONNECT_TIMEOUT_SECONDS = 5

# CREATE DATABASE takes 0.1 s and this 0.01 s.
_EMPTY = """
set lock_timeout = '10s';
select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid();
do $$
declare schema_name text;
begin
  for schema_name in select nspname from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema' loop
    execute format('drop schema %I cascade', schema_name);
  end loop;
end $$;
create schema public;
grant usage on schema public to public
"""


class PostgresServer(DatabaseServer):
    """A private PostgreSQL, or an existing one; see :class:`DatabaseServer`.

    The fast setting is ``fsync=off``. ``synchronous_commit`` stays on: it costs nothing then, and without it a killed
    server forgets what it had confirmed. ``full_page_writes`` stays on too: a kill may tear a page.
    """

    kind = POSTGRESQL
    _accounts = ("postgres", "nobody")
    _default_port = 5432
    _stop_signal = signal.SIGINT  # "fast": ends sessions, then stops cleanly
    _abort_signal = signal.SIGQUIT  # "immediate": no checkpoint, but it releases its shared memory

    _sessions_sql = (
        "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() order by pid"
    )
    _open_transactions_sql = (
        "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        " and backend_type = 'client backend' and (xact_start is not null or state = 'active')"
    )

    def execute(self, sql: str, database: str | None = None) -> list[tuple[Any, ...]]:
        """Run one statement as the administrator, in autocommit on a separate connection; return its rows."""
        with self.connect(database) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    def kill_session(self, session: int) -> None:
        """Kill the process of one session (``kill -9``): all other sessions end, too, and the server recovers."""
        self._signal_session(session, signal.SIGKILL, "kill a session of")

    def _signal_session(self, session: int, number: signal.Signals, verb: str) -> None:
        # Another process may have the number by now.
        if session in process_tree(self._own_child(verb).pid)[1:]:
            send_signal([session], number)

    def connect(self, database: str | None = None) -> psycopg.Connection[tuple[Any, ...]]:
        if importlib.util.find_spec("psycopg") is None:
            raise MissingDriverError("PostgreSQL needs psycopg: pip install 'prefiq-db[postgres]'")
        import psycopg

        return psycopg.connect(self.url(database), autocommit=True, connect_timeout=_CONNECT_TIMEOUT_SECONDS)

    def _maintenance_database(self) -> str:
        return (self._external.path.lstrip("/") if self._external else "") or "postgres"

    def _query_version(self) -> str:
        return str(self.execute("show server_version")[0][0]).split()[0]

    def _create(self, database: str) -> None:
        self.execute(f'create database "{database}" template template0')

    def _empty(self, database: str) -> None:
        self.execute(_EMPTY, database)

    def _drop(self, database: str) -> None:
        self.execute(f'drop database if exists "{database}" with (force)')

    def _answers(self) -> bool:
        import psycopg

        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _initialise(self) -> None:
        fill(self._folder / "data", self._programs["initdb"], self._make_data)

    def _make_data(self) -> None:
        password_file = self._folder / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(_scram_verifier(self._password))
        self._give_to_account(password_file)
        account = self._account
        done = subprocess.run(
            [
                *(str(self._programs["initdb"]), "-D", str(self._folder / "data"), "-U", self.user, "-E", "UTF8"),
                *("--locale=C.UTF-8", "-A", "scram-sha-256", f"--pwfile={password_file}", "--no-sync"),
            ],
            capture_output=True,
            text=True,
            cwd="/",
            env=server_environment(),
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            check=False,
        )
        password_file.unlink()
        if done.returncode:
            raise ServerUnavailableError(f"initdb failed:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": self.host,
            "port": str(self.port),
            "unix_socket_directories": "",
            # In our folder, so that it is removed with it even when the server is killed.
            "dynamic_shared_memory_type": "mmap",
            "max_connections": "200",
        }
        if not self.durable:
            settings |= {"fsync": "off", "synchronous_commit": "on"}
        if self.certificate is not None:
            settings |= {
                "ssl": "on",
                "ssl_cert_file": str(self.certificate.certificate),
                "ssl_key_file": str(self.certificate.key),
            }
        settings |= self.settings
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self._programs["postgres"]), "-D", str(self._folder / "data"), *options]


def _scram_verifier(password: str) -> str:
    """Return PostgreSQL's stored form of *password* (RFC 5802), made with one iteration.

    The default of 4096 costs the client 3 ms of processor time at each login; it protects against guessing, which a
    test server doesn't need.
    """
    salt, iterations = secrets.token_bytes(16), 1
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    encoded_salt, *keys = (base64.b64encode(part).decode() for part in (salt, stored_key, server_key))
    return f"SCRAM-SHA-256${iterations}:{encoded_salt}${':'.join(keys)}"
