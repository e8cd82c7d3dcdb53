"""PostgreSQL servers for failover tests: a primary, and standbys that follow it by streaming replication."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from typing import Final

from prefiq_db.testing.locate import ServerUnavailableError
from prefiq_db.testing.machine import server_environment
from prefiq_db.testing.postgresql_server import PostgresServer
from prefiq_db.testing.processes import wait_until
from prefiq_db.testing.replication import ReplicatedCluster

_SYNCHRONOUS_SECONDS = 30.0
_SETTINGS: Final = {
    # Enough for any test: a standby that was away finds there what it missed, without slots that somebody must drop.
    "wal_keep_size": "1GB",
    # By default a standby whose primary went away, or changed, waits for 5 s before it asks again.
    "wal_retrieve_retry_interval": "100ms",
}


class PostgresCluster(ReplicatedCluster[PostgresServer]):
    """A private primary and its standbys: ``with PostgresCluster(replicas=2) as cluster: cluster.primary.kill()``.

    The primary confirms a COMMIT when a standby has applied it (``synchronous_commit=remote_apply``, any of them), so
    nothing that was confirmed is lost when the primary is killed and :meth:`promote` chooses.

    Args:
        replicas: how many standbys.
        durable: as in :class:`PostgresServer`, for all.
        synchronous: ``False`` lets the primary confirm without a standby, as most servers do; then a failover may
            lose what was confirmed.
        settings: further server settings, for all.

    Raises:
        ServerUnavailableError: if there are no programs; the message says what to install.
    """

    def __init__(
        self,
        *,
        replicas: int = 2,
        durable: bool = False,
        synchronous: bool = True,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        given = {**_SETTINGS, **(settings or {})}
        if synchronous:
            # Without a synchronous standby it means no more than "on", so all may have it from the beginning.
            given["synchronous_commit"] = "remote_apply"
        primary = PostgresServer(durable=durable, settings=given)
        standbys = tuple(_Standby(primary, durable=durable, settings=given) for _ in range(replicas))
        super().__init__(primary, standbys, synchronous=synchronous)

    def _follow(self, node: PostgresServer, source: PostgresServer) -> None:
        link = f"host={source.host} port={source.port} user={source.user} password={source._password}"
        _set(node, primary_conninfo=f"{link} application_name=node{self.nodes.index(node)}")

    def _is_attached(self, replica: PostgresServer) -> bool:
        name = f"node{self.nodes.index(replica)}"
        question = f"select 1 from pg_stat_replication where state = 'streaming' and application_name = '{name}'"
        return bool(self.primary.execute(question))

    def _confirm_together(self) -> None:
        if not self.synchronous or not any(replica.running for replica in self.replicas):
            return
        # Only now: every COMMIT before this would have waited for a standby that doesn't exist.
        _set(self.primary, synchronous_standby_names="ANY 1 (*)")
        question = "select 1 from pg_stat_replication where state = 'streaming' and sync_state = 'quorum'"
        if not wait_until(lambda: bool(self.primary.execute(question)), timeout_seconds=_SYNCHRONOUS_SECONDS):
            raise ServerUnavailableError(f"no replica became synchronous; the end of a log:\n{self.replicas[0].log}")
        # Sessions look at a flag of the checkpointer's, which reads the setting before it does what it is asked.
        self.primary.execute("checkpoint")

    def _most_advanced(self, replicas: list[PostgresServer]) -> PostgresServer:
        received = "greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())"
        return max(replicas, key=lambda each: each.execute(f"select ({received} - '0/0')::numeric")[0][0])

    def _retire(self, primary: PostgresServer, successor: PostgresServer) -> None:
        primary.stop()  # a clean stop ends when its standbys have everything

    def _promote(self, replica: PostgresServer) -> None:
        # Nothing waits for standbys before there are some.
        _set(replica, synchronous_standby_names="", recovery_min_apply_delay="0")
        replica.execute("select pg_promote(true, 60)")

    def _renew(self, node: PostgresServer) -> None:
        node.kill()
        data = node._folder / "data"
        for path in data.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        _take_base_backup(node, self.primary)
        node.start()

    def _hold_back(self, replica: PostgresServer, seconds: float) -> None:
        _set(replica, recovery_min_apply_delay=f"{round(seconds * 1000)}ms")

    def _position(self) -> str:
        return str(self.primary.execute("select pg_current_wal_lsn()")[0][0])

    def _has_applied(self, replica: PostgresServer, position: str) -> bool:
        return bool(replica.execute(f"select pg_last_wal_replay_lsn() >= '{position}'::pg_lsn")[0][0])


class _Standby(PostgresServer):
    """A server that begins as a copy of a running one, and follows it."""

    def __init__(self, primary: PostgresServer, *, durable: bool, settings: Mapping[str, str]) -> None:
        super().__init__(durable=durable, settings=settings)
        self._primary = primary
        self.user, self._password = primary.user, primary._password

    def _initialise(self) -> None:
        _take_base_backup(self, self._primary)


def _set(server: PostgresServer, **settings: str) -> None:
    """Change settings of a running server, a standby too, over its restarts."""
    for name, value in settings.items():
        server.execute(f"alter system set {name} = '{value}'")
    server.execute("select pg_reload_conf()")


def _take_base_backup(server: PostgresServer, source: PostgresServer) -> None:
    """Fill the empty data folder of *server* with a copy of the running *source*, which it will follow."""
    program = server._programs["postgres"].with_name("pg_basebackup")
    if not os.access(program, os.X_OK):
        raise ServerUnavailableError(f"PostgreSQL has no pg_basebackup in {program.parent}")
    account = server._account
    done = subprocess.run(
        [
            *(str(program), "-D", str(server._folder / "data"), "-X", "stream", "-c", "fast", "--no-sync", "-w"),
            *("-h", source.host, "-p", str(source.port), "-U", source.user),
            "-R",  # writes the connection to the primary, with the password, into the data folder
        ],
        capture_output=True,
        text=True,
        cwd="/",
        env={**server_environment(), "PGPASSWORD": source._password},
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
        check=False,
    )
    if done.returncode:
        raise ServerUnavailableError(f"pg_basebackup failed:\n{done.stderr[-1000:]}")
