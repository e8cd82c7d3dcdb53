"""The common base of PostgreSQL and MariaDB servers for tests: start and stop, databases, URLs."""

from __future__ import annotations

import atexit
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self
from urllib.parse import SplitResult, unquote, urlsplit

from prefiq_db.errors import UnsupportedError, UsageError
from prefiq_db.testing.certificates import Certificate, make_certificate
from prefiq_db.testing.database_names import check_ours, new_database_name
from prefiq_db.testing.locate import Search, ServerKind, ServerUnavailableError, remove_compose_service
from prefiq_db.testing.machine import LOOPBACK, free_port, make_folder, server_environment
from prefiq_db.testing.processes import Account, ChildProcess, account_for_root, wait_until
from prefiq_db.testing.templates import PASSWORD

_START_SECONDS = 60.0
_PORT_ATTEMPTS = 5
_LOG_TAIL_BYTES = 4000


class DatabaseServer(ABC):
    """A database server to test against: a private one from local programs, or an existing one by URL.

    A private server listens on 127.0.0.1 only and keeps its data in a temporary folder. Closing it removes it with
    everything it wrote; so does the end of the program, even by a kill. As root it runs as the user of its package.
    Use it as a context manager, or call :meth:`start` and :meth:`close`.

    An existing server is never stopped, and only databases made by :meth:`create_database` are touched.

    Args:
        durable: keep the server's own guarantees against a power cut. Default: off, which is several times
            faster and still survives :meth:`kill`, because the operating system keeps what was written.
        tls: offer TLS with a self-signed certificate, see :attr:`certificate`.
        settings: further server settings by their own names; they override ours.
        binaries: the folder of the server's programs. Default: search, see :mod:`prefiq_db.testing.locate`.
        url: use this existing server; the options above are not allowed then.
        source: the name of an existing server in reports.

    Raises:
        ServerUnavailableError: if there are no programs; the message says what to install.
    """

    kind: ClassVar[ServerKind]
    _accounts: ClassVar[tuple[str, ...]]
    _default_port: ClassVar[int]
    _stop_signal: ClassVar[signal.Signals]
    _abort_signal: ClassVar[signal.Signals]

    def __init__(
        self,
        *,
        durable: bool = False,
        tls: bool = False,
        settings: Mapping[str, str] | None = None,
        binaries: str | os.PathLike[str] | None = None,
        url: str | None = None,
        source: str = "url",
    ) -> None:
        self.durable = durable
        self.tls = tls
        self.settings = dict(settings or {})
        self.certificate: Certificate | None = None
        self._source = source
        self._version = ""
        self._databases: set[str] = set()
        self._owner_pid = os.getpid()
        self._child: ChildProcess | None = None
        self._folder = Path()
        self._programs: Mapping[str, Path] = {}
        self._external: SplitResult | None = None
        self._reachable = False
        self.user, self._password, self._port = "prefiq", PASSWORD, 0
        self.host = LOOPBACK
        if url is not None:
            if durable or tls or settings or binaries:
                raise UsageError("an existing server keeps its own settings: give a URL or options, not both")
            self._external = urlsplit(url)
            self.host = self._external.hostname or LOOPBACK
            self._port = self._external.port or self._default_port
            self.user = unquote(self._external.username or "")
            self._password = unquote(self._external.password or "")
            return
        self._source = "local"
        search = Search(self.kind)
        programs = search.programs(binaries)
        if programs is None:
            raise search.failure()
        self._programs = programs

    @classmethod
    def locate(cls, *, durable: bool = False, tls: bool = False, settings: Mapping[str, str] | None = None) -> Self:
        """Return a server from the environment's URL, from local programs or from Docker Compose, not started yet.

        The options apply to local programs only.

        Raises:
            ServerUnavailableError: if there is none; the message says where we looked and what to install.
        """
        search = Search(cls.kind)
        if url := search.url():
            return cls(url=url)
        if search.programs():
            return cls(durable=durable, tls=tls, settings=settings)
        if url := search.docker():
            return cls(url=url, source="docker")
        raise search.failure()

    # --- identity --------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """``postgresql`` or ``mariadb``."""
        return self.kind.name

    @property
    def port(self) -> int:
        """The TCP port; a private server keeps it over restarts. 0 before the first start."""
        return self._port

    @property
    def version(self) -> str:
        """The server's version, as in ``15.18``; empty before the first start."""
        return self._version

    @property
    def source(self) -> str:
        """Where it came from: ``local 15.18``, ``url`` or ``docker``."""
        return f"{self._source} {self._version}".rstrip() if self._external is None else self._source

    @property
    def is_private(self) -> bool:
        """Whether we may stop, kill and freeze it."""
        return self._external is None

    @property
    def running(self) -> bool:
        """Whether the process lives (private), or answered at :meth:`start` (existing)."""
        return self._child.running if self._child is not None else self._reachable

    @property
    def pid(self) -> int:
        """The process id of a private server; 0 when it isn't running."""
        return self._child.pid if self._child is not None else 0

    @property
    def log(self) -> str:
        """The end of a private server's log."""
        path = self._folder / "log"
        return path.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace") if path.is_file() else ""

    def url(self, database: str | None = None) -> str:
        """Return the URL of a database; without a name, of the one that always exists. It holds the password."""
        database = self._maintenance_database() if database is None else database
        if self._external is not None:
            return self._external._replace(scheme=self.kind.name, path=f"/{database}").geturl()
        return f"{self.kind.name}://{self.user}:{self._password}@{self.host}:{self._port}/{database}"

    def __repr__(self) -> str:
        state = "running" if self.running else "not running"
        return f"<{type(self).__name__} {self.source} on port {self._port}, {state}>"

    # --- life cycle ------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start the server and return it when it answers; do nothing if it runs.

        Raises:
            ServerUnavailableError: if it ends or doesn't answer; the message has the end of its log.
        """
        if self.running:
            return self
        if self._external is None:
            self._start_private()
        else:
            self._version = self._query_version()
            self._reachable = True
        return self

    def stop(self) -> None:
        """Shut a private server down cleanly and keep its data for the next :meth:`start`."""
        self._own_child("stop").stop(self._stop_signal)

    def kill(self) -> None:
        """Kill a private server with all its processes (``kill -9``); :meth:`start` brings it back, with recovery."""
        self._own_child("kill").kill()

    def restart(self) -> None:
        """Stop a private server, if it runs, and start it on the same port."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Suspend all processes of a private server: it accepts connections and never answers."""
        self._own_child("freeze").freeze()

    def thaw(self) -> None:
        """Let a frozen server go on."""
        self._own_child("thaw").thaw()

    def wait_until_ready(self, *, timeout_seconds: float = _START_SECONDS) -> None:
        """Wait until the server answers: PostgreSQL recovers by itself after one of its processes was killed.

        Raises:
            ServerUnavailableError: if it doesn't in that time.
        """
        if not wait_until(self._answers, timeout_seconds=timeout_seconds):
            raise ServerUnavailableError(f"{self.kind.title} did not answer within {timeout_seconds:g} s")

    # --- sessions --------------------------------------------------------------------------------

    def sessions(self, database: str) -> list[int]:
        """Return the ids of the sessions in a database, except our own: the server's pid or thread id."""
        return [int(session) for (session,) in self.execute(self._sessions_sql, database)]

    def open_transactions(self, database: str) -> int:
        """Return how many sessions in a database, except our own, have an open transaction or run a statement."""
        return int(self.execute(self._open_transactions_sql, database)[0][0])

    @abstractmethod
    def kill_session(self, session: int) -> None:
        """End one session without notice to its client; do nothing if it is gone.

        PostgreSQL: ``kill -9`` of its process, on a private server only. The server then ends all other sessions and
        recovers, see :meth:`wait_until_ready`. MariaDB: ``KILL CONNECTION``, because its sessions are threads.
        """

    def freeze_session(self, session: int) -> None:
        """Suspend the process of one session of a private PostgreSQL.

        Raises:
            UnsupportedError: on MariaDB, whose sessions are threads of one process.
        """
        self._signal_session(session, signal.SIGSTOP, "freeze a session of")

    def thaw_session(self, session: int) -> None:
        """Let a frozen session go on; :meth:`thaw` does it for all of them."""
        self._signal_session(session, signal.SIGCONT, "thaw a session of")

    def close(self) -> None:
        """End a private server and remove its data; drop our databases from an existing one."""
        if os.getpid() != self._owner_pid:  # a forked child inherits the object, not the server
            return
        atexit.unregister(self.close)
        if self._child is not None:
            self._child.close()
            self._child = None
        elif self._reachable:
            for database in sorted(self._databases):
                self.drop_database(database)
            self._reachable = False
            if self._source == "docker":
                remove_compose_service(self.kind)
        self._databases.clear()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # --- databases -------------------------------------------------------------------------------

    def create_database(self) -> str:
        """Create an empty database and return its name, which is random and starts with ``prefiq_test_``."""
        database = self.new_name()
        self._create(database)
        return database

    def new_name(self) -> str:
        """Return the name of a database that the caller is going to create, and :meth:`close` to drop."""
        database = new_database_name()
        self._databases.add(database)
        return database

    def empty_database(self, database: str) -> None:
        """Empty a database of ours: end its sessions and drop what is in it. Cheaper than creating another database."""
        self._empty(check_ours(database))

    def drop_database(self, database: str) -> None:
        """Drop a database that :meth:`create_database` made, even while a client is connected to it."""
        self._drop(check_ours(database))
        self._databases.discard(database)

    @abstractmethod
    def execute(self, sql: str, database: str | None = None) -> list[tuple[Any, ...]]:
        """Run one statement as the administrator, in autocommit on a separate connection; return its rows."""

    @abstractmethod
    def connect(self, database: str | None = None) -> Any:
        """Return a connection of the administrator's, in autocommit; the caller closes it."""

    # --- per kind of server ----------------------------------------------------------------------

    _sessions_sql: ClassVar[str]
    _open_transactions_sql: ClassVar[str]

    def _signal_session(self, session: int, number: signal.Signals, verb: str) -> None:
        raise UnsupportedError(f"can't {verb} {self.kind.title}: its sessions are threads of one process")

    @abstractmethod
    def _maintenance_database(self) -> str: ...

    @abstractmethod
    def _query_version(self) -> str: ...

    @abstractmethod
    def _create(self, database: str) -> None: ...

    @abstractmethod
    def _empty(self, database: str) -> None: ...

    @abstractmethod
    def _drop(self, database: str) -> None: ...

    @abstractmethod
    def _answers(self) -> bool:
        """Try to connect."""

    @abstractmethod
    def _initialise(self) -> None:
        """Create the data folder."""

    @abstractmethod
    def _command(self) -> list[str]: ...

    # --- starting a private server ---------------------------------------------------------------

    def _start_private(self) -> None:
        if self._child is None:
            self._prepare()
        elif self._folder.is_dir():
            self._launch()
            return
        assert self._child is not None
        # Another program may take the port before the server listens on it; later starts keep the port.
        for _ in range(_PORT_ATTEMPTS):
            self._port = free_port()
            try:
                self._launch()
            except ServerUnavailableError:
                if "in use" not in self.log:
                    self.close()
                    raise
            else:
                self._version = self._query_version()
                return
        self.close()
        raise ServerUnavailableError(f"{self.kind.title} found no free port in {_PORT_ATTEMPTS} attempts")

    def _prepare(self) -> None:
        self._folder = make_folder(self.kind.name)
        self._child = ChildProcess(self._folder, abort_signal=self._abort_signal)
        atexit.register(self.close)
        try:
            if self.tls:
                self.certificate = make_certificate(self._folder)
                self._give_to_account(self.certificate.key)
            data = self._folder / "data"
            data.mkdir(mode=0o700)
            self._give_to_account(data)
            self._initialise()
        except BaseException:
            self.close()
            raise

    def _launch(self) -> None:
        child = self._own_child("start")
        child.spawn(self._command(), log=self._folder / "log", account=self._account, environment=server_environment())
        ready = wait_until(lambda: not child.running or self._answers(), timeout_seconds=_START_SECONDS)
        if not ready or not child.running:
            child.kill()
            raise ServerUnavailableError(f"{self.kind.title} did not start; the end of its log:\n{self.log}")

    @property
    def _account(self) -> Account | None:
        return account_for_root(*self._accounts)

    def _give_to_account(self, path: Path) -> None:
        if account := self._account:
            os.chown(path, account.uid, account.gid)

    def _own_child(self, verb: str) -> ChildProcess:
        if self._external is not None:
            raise UsageError(f"can't {verb} {self.kind.title}: it came from a URL and isn't ours")
        if self._child is None:
            raise UsageError(f"can't {verb} {self.kind.title}: it was never started, or was closed")
        return self._child
