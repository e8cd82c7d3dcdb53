"""Two PostgreSQL servers for failover tests: a primary, and a standby that has everything it confirmed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from prefiq_db.errors import UsageError
from prefiq_db.testing.locate import ServerUnavailableError
from prefiq_db.testing.machine import server_environment
from prefiq_db.testing.postgresql_server import PostgresServer
from prefiq_db.testing.processes import wait_until

_SLOT = "prefiq_standby"
_ATTACH_SECONDS = 30.0


class PostgresPair:
    """A private primary and its standby: ``with PostgresPair() as pair: Database(pair.url(pair.create_database()))``.

    The primary confirms a COMMIT when the standby has applied it (``synchronous_commit=remote_apply``), so nothing
    that was confirmed is lost when the primary is killed and the standby promoted.

    Args:
        durable: as in :class:`PostgresServer`, for both.
        synchronous: ``False`` lets the primary confirm without the standby, as most servers do; then a failover may
            lose what was confirmed.
        settings: further server settings, for both.

    Raises:
        ServerUnavailableError: if there are no programs; the message says what to install.
    """

    def __init__(
        self, *, durable: bool = False, synchronous: bool = True, settings: Mapping[str, str] | None = None
    ) -> None:
        given = {**(settings or {})}
        if synchronous:
            # Without a synchronous standby it means no more than "on", so both may have it from the beginning.
            given["synchronous_commit"] = "remote_apply"
        self.synchronous = synchronous
        self.primary = PostgresServer(durable=durable, settings=given)
        self.standby: PostgresServer | None = _Standby(self.primary, durable=durable, settings=given)
        self._both = (self.primary, self.standby)
        self._stack = ExitStack()

    def start(self) -> Self:
        """Start both and return when the standby follows the primary."""
        assert self.standby is not None
        with ExitStack() as stack:
            stack.enter_context(self.primary)
            stack.enter_context(self.standby)
            if self.synchronous:
                # Only now: every COMMIT before this would have waited for a standby that doesn't exist.
                self.primary.execute("alter system set synchronous_standby_names = '*'")
                self.primary.execute("select pg_reload_conf()")
            wanted = "sync" if self.synchronous else "async"
            question = f"select count(*) from pg_stat_replication where state = 'streaming' and sync_state = '{wanted}'"
            if not wait_until(lambda: self.primary.execute(question)[0][0] == 1, timeout_seconds=_ATTACH_SECONDS):
                raise ServerUnavailableError(f"the standby did not follow; the end of its log:\n{self.standby.log}")
            self._stack = stack.pop_all()
        return self

    def promote(self) -> PostgresServer:
        """Make the standby the primary and return it when it accepts writes; the old primary is left unchanged.

        Stop, kill or freeze the old one first: two primaries would accept conflicting writes.

        Raises:
            UsageError: if there is no standby any more.
        """
        if self.standby is None:
            raise UsageError("can't promote: the standby is the primary already")
        promoted, self.standby = self.standby, None
        promoted.execute("select pg_promote(true, 60)")
        self.primary = promoted
        return promoted

    def url(self, database: str) -> str:
        """Return the URL of a database with both hosts. It holds the password."""
        login = self.primary.url(database).removeprefix("postgresql://").rpartition("@")[0]
        places = ",".join(f"{server.host}:{server.port}" for server in self._both)
        return f"postgresql://{login}@{places}/{database}"

    def create_database(self) -> str:
        """Create an empty database on the primary and return its name."""
        return self.primary.create_database()

    def close(self) -> None:
        """End both and remove their data."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _Standby(PostgresServer):
    """A copy of a running primary that follows it."""

    def __init__(self, primary: PostgresServer, *, durable: bool, settings: Mapping[str, str]) -> None:
        super().__init__(durable=durable, settings=settings)
        self._primary = primary
        self.user, self._password = primary.user, primary._password

    def _initialise(self) -> None:
        program = self._programs["postgres"].with_name("pg_basebackup")
        if not os.access(program, os.X_OK):
            raise ServerUnavailableError(f"PostgreSQL has no pg_basebackup in {program.parent}")
        account = self._account
        done = subprocess.run(
            [
                *(str(program), "-D", str(self._folder / "data"), "-X", "stream", "-c", "fast", "--no-sync", "-w"),
                *("-h", self._primary.host, "-p", str(self._primary.port), "-U", self.user),
                # -R writes the connection to the primary, with the password, into the data folder.
                *("-R", "-C", "-S", _SLOT),
            ],
            capture_output=True,
            text=True,
            cwd="/",
            env={**server_environment(), "PGPASSWORD": self._password},
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            check=False,
        )
        if done.returncode:
            raise ServerUnavailableError(f"pg_basebackup failed:\n{done.stderr[-1000:]}")
