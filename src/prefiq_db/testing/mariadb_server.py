"""A MariaDB server for tests."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any, Final

from prefiq_db.errors import MissingDriverError
from prefiq_db.testing.database_names import DATABASE_PREFIX
from prefiq_db.testing.database_server import DatabaseServer
from prefiq_db.testing.locate import MARIADB, ServerUnavailableError
from prefiq_db.testing.machine import server_environment
from prefiq_db.testing.templates import fill

if TYPE_CHECKING:
    import pymysql

#: The user of a cluster's URLs: ``read_only`` binds it, as it doesn't bind the administrator.
PLAIN_USER: Final = "prefiq_plain"

_CONNECT_TIMEOUT_SECONDS = 5
_OUR_DATABASES: Final = DATABASE_PREFIX.replace("_", r"\_") + "%"
_UNKNOWN_SESSION = 1094
_PICTURE_SECONDS = 0.11
_LOG_FILE_SIZE = "16M"


class MariaDbServer(DatabaseServer):
    """A private MariaDB, or an existing one (MySQL too); see :class:`DatabaseServer`.

    Fast settings write the redo log at each commit and sync it once a second
    (``innodb_flush_log_at_trx_commit=2``): with 0, a killed server forgets what it had confirmed.
    """

    kind = MARIADB
    _accounts = ("mysql", "root")
    _default_port = 3306
    _stop_signal = signal.SIGTERM
    _abort_signal = signal.SIGKILL  # a clean stop takes a second, and there is no shared memory to release

    _sessions_sql = (
        "select id from information_schema.processlist where db = database() and id <> connection_id() order by id"
    )
    _open_transactions_sql = (
        "select count(*) from information_schema.processlist p left join information_schema.innodb_trx t"
        " on t.trx_mysql_thread_id = p.id where p.db = database() and p.id <> connection_id()"
        " and (t.trx_id is not null or p.command <> 'Sleep')"
    )

    def execute(self, sql: str, database: str | None = None) -> list[tuple[Any, ...]]:
        """Run one statement as the administrator, in autocommit on a separate connection; return its rows."""
        with self.connect(database) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    def open_transactions(self, database: str) -> int:
        """Return how many sessions in a database, except our own, have an open transaction or run a statement.

        Takes a tenth of a second: the server reports a snapshot of its transactions, and makes a new one only if the
        old one was not read for that long.
        """
        time.sleep(_PICTURE_SECONDS)
        return super().open_transactions(database)

    def kill_session(self, session: int) -> None:
        """End one session without notice to its client (``KILL CONNECTION``)."""
        self._end_session(session)

    def connect(self, database: str | None = None) -> pymysql.Connection[Any]:
        if importlib.util.find_spec("pymysql") is None:
            raise MissingDriverError("MariaDB needs PyMySQL: pip install 'prefiq-db[mariadb]'")
        import pymysql

        return pymysql.connect(
            host=self.host,
            port=self.port,
            user=self.user,
            password=self._password,
            database=self._maintenance_database() if database is None else database,
            autocommit=True,
            connect_timeout=_CONNECT_TIMEOUT_SECONDS,
            charset="utf8mb4",
            # By default PyMySQL loads all authorities of the system each time, in case it needs TLS: 20 ms.
            ssl_disabled=self.is_private,
        )

    def _maintenance_database(self) -> str:
        return (self._external.path.lstrip("/") if self._external else "") or "mysql"

    def _query_version(self) -> str:
        return str(self.execute("select version()")[0][0]).split("-")[0]

    def _create(self, database: str) -> None:
        self.execute(f"create database `{database}` character set utf8mb4")

    def _empty(self, database: str) -> None:
        self._drop(database)
        self._create(database)

    def _drop(self, database: str) -> None:
        # DROP DATABASE waits for every open transaction in it, by default for a day.
        for (session,) in self.execute(f"select id from information_schema.processlist where db = '{database}'"):
            self._end_session(session)
        self.execute(f"drop database if exists `{database}`")

    def _end_session(self, session: int) -> None:
        import pymysql

        try:
            self.execute(f"kill {session}")
        except pymysql.OperationalError as error:
            if error.args[0] != _UNKNOWN_SESSION:  # it ended by itself in the meantime
                raise

    def _answers(self) -> bool:
        import pymysql

        try:
            self.connect().close()
        except pymysql.OperationalError:
            return False
        return True

    def _initialise(self) -> None:
        # The server itself creates our user when it starts, so there is never a root without a password.
        users = self._folder / "users.sql"
        users.touch(mode=0o600)
        users.write_text(self._logins())
        self._give_to_account(users)
        # A server that starts removes the temporary tables that it finds there, even those of another server.
        temporary = self._folder / "temporary"
        temporary.mkdir(mode=0o700)
        self._give_to_account(temporary)
        fill(self._folder / "data", self._programs["mariadb-install-db"], self._make_data)

    def _logins(self) -> str:
        return (
            f"CREATE USER IF NOT EXISTS '{self.user}'@'%' IDENTIFIED BY '{self._password}';\n"
            f"GRANT ALL PRIVILEGES ON *.* TO '{self.user}'@'%' WITH GRANT OPTION;\n"
        )

    def _plain_login(self) -> str:
        return (
            f"CREATE USER IF NOT EXISTS {PLAIN_USER}@'%' IDENTIFIED BY '{self._password}';\n"
            f"GRANT ALL PRIVILEGES ON `{_OUR_DATABASES}`.* TO {PLAIN_USER}@'%';\n"
        )

    def _make_data(self) -> None:
        account, temporary = self._account, self._folder / "temporary"
        done = subprocess.run(
            [
                *(str(self._programs["mariadb-install-db"]), "--no-defaults", "--skip-test-db"),
                f"--innodb-log-file-size={_LOG_FILE_SIZE}",  # by default 96 MB, all of it written and copied
                *(f"--datadir={self._folder / 'data'}", "--auth-root-authentication-method=socket"),
                *("--skip-name-resolve", *([f"--user={account.name}"] if account else [])),
            ],
            capture_output=True,
            text=True,
            cwd="/",
            env={**server_environment(), "TMPDIR": str(temporary)},
            check=False,
        )
        if done.returncode:
            raise ServerUnavailableError(f"mariadb-install-db failed:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")

    def _command(self) -> list[str]:
        settings = {
            "datadir": str(self._folder / "data"),
            "tmpdir": str(self._folder / "temporary"),
            "bind-address": self.host,
            "port": str(self.port),
            "socket": str(self._folder / "data" / "socket"),
            "pid-file": str(self._folder / "data" / "pid"),
            "init-file": str(self._folder / "users.sql"),
            "skip-name-resolve": "ON",
            "performance-schema": "OFF",
            "innodb-buffer-pool-size": "64M",
            "innodb-log-file-size": _LOG_FILE_SIZE,
            "max-connections": "200",
            # Settings of Debian's and the official image's configuration, which --no-defaults leaves out.
            "character-set-server": "utf8mb4",
        }
        if not self.durable:
            settings |= {"innodb-flush-log-at-trx-commit": "2", "innodb-flush-method": "nosync"}
        if self.certificate is not None:
            settings |= {
                "ssl-cert": str(self.certificate.certificate),
                "ssl-key": str(self.certificate.key),
                "ssl-ca": str(self.certificate.certificate),
            }
        settings |= {name.replace("_", "-"): value for name, value in self.settings.items()}
        account = self._account
        return [
            *(str(self._programs["mariadbd"]), "--no-defaults"),
            *([f"--user={account.name}"] if account else []),
            *(f"--{name}={value}" for name, value in settings.items()),
        ]
