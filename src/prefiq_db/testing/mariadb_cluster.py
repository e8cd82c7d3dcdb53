"""MariaDB servers for failover tests: a primary, and replicas that follow it by global transaction ids (GTID)."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from typing import Any, Final

from prefiq_db.errors import UsageError
from prefiq_db.testing.locate import ServerUnavailableError
from prefiq_db.testing.mariadb_server import PLAIN_USER, MariaDbServer
from prefiq_db.testing.processes import wait_until
from prefiq_db.testing.replication import ReplicatedCluster
from prefiq_db.testing.templates import PASSWORD

_SETTINGS: Final = {
    "log_bin": "binlog",
    "log_slave_updates": "ON",
    "binlog_format": "ROW",
    "relay_log": "relay",
    "slave_net_timeout": "5",
    # Each can confirm to a primary; whether COMMIT waits for that is the primary's setting.
    "rpl_semi_sync_slave_enabled": "ON",
    "rpl_semi_sync_master_wait_point": "AFTER_SYNC",  # before others see the rows
    "rpl_semi_sync_master_timeout": "3600000",  # in ms; after it, COMMIT would no longer wait
}
_WAIT_SECONDS = 60.0


class MariaDbCluster(ReplicatedCluster[MariaDbServer]):
    """A private primary and its replicas: ``with MariaDbCluster(replicas=2) as cluster: cluster.primary.kill()``.

    The primary confirms a COMMIT when a replica has received it (semi-synchronous, any of them), so nothing that was
    confirmed is lost when the primary is killed and :meth:`promote` chooses. Unlike PostgreSQL's, that replica may
    apply it later.

    Replicas are ``read_only``, which binds the user of :meth:`url`, but not the administrator of ``node.url()``. An
    old primary that comes back by itself isn't: :meth:`rejoin` makes it a replica. After a failover that replicates
    from the beginning, because what the old primary may have beyond its replicas can't be taken back.

    Args:
        replicas: how many.
        durable: as in :class:`MariaDbServer`, for all.
        synchronous: ``False`` lets the primary confirm without a replica, as most servers do; then a failover may
            lose what was confirmed.
        settings: further server settings, for all.

    Raises:
        ServerUnavailableError: if there are no programs; the message says what to install.
    """

    def __init__(
        self,
        *,
        replicas: int = 1,
        durable: bool = False,
        synchronous: bool = True,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        nodes = [
            _Node(durable=durable, settings={**_SETTINGS, "server_id": str(number + 1), **(settings or {})})
            for number in range(replicas + 1)
        ]
        super().__init__(nodes[0], tuple(nodes[1:]), synchronous=synchronous)
        self._servers = len(nodes)
        self._retired: MariaDbServer | None = None

    def _login(self) -> str:
        return f"{PLAIN_USER}:{PASSWORD}"

    def _follow(self, node: MariaDbServer, source: MariaDbServer) -> None:
        _set(node, read_only="1")
        node.execute("stop slave")
        node.execute(
            f"change master to master_host='{source.host}', master_port={source.port}, master_user='{source.user}',"
            f" master_password='{source._password}', master_use_gtid=slave_pos, master_connect_retry=1"
        )
        node.execute("start slave")

    def _is_attached(self, replica: MariaDbServer) -> bool:
        state = _slave_status(replica)
        return (state["Slave_IO_Running"], state["Slave_SQL_Running"]) == ("Yes", "Yes")

    def _confirm_together(self) -> None:
        waits = self.synchronous and any(replica.running for replica in self.replicas)
        # Only now: every COMMIT before this would have waited for a replica that doesn't exist.
        _set(self.primary, rpl_semi_sync_master_enabled=str(int(waits)))
        question = "show status where variable_name = 'Rpl_semi_sync_master_clients' and value > 0"
        if waits and not wait_until(lambda: bool(self.primary.execute(question)), timeout_seconds=_WAIT_SECONDS):
            raise ServerUnavailableError(f"no replica became semi-synchronous; a log ends:\n{self.replicas[0].log}")

    def _most_advanced(self, replicas: list[MariaDbServer]) -> MariaDbServer:
        return max(replicas, key=_received)

    def _retire(self, primary: MariaDbServer, successor: MariaDbServer) -> None:
        primary.execute("set global read_only = 1")
        position = _sequence(self._position())
        if not wait_until(lambda: _received(successor) >= position, timeout_seconds=_WAIT_SECONDS):
            raise ServerUnavailableError(f"the replica did not receive all; the end of its log:\n{successor.log}")
        primary.stop()
        self._retired = primary

    def _promote(self, replica: MariaDbServer) -> None:
        received = _received(replica)
        # A delay can't be ended: the server would forget what it received, and the primary is gone.
        if not wait_until(lambda: _applied(replica) >= received, timeout_seconds=_WAIT_SECONDS):
            raise UsageError("can't promote: the replica is held back; choose one that isn't")
        replica.execute("stop slave")
        replica.execute("reset slave all")
        _set(replica, read_only="0")

    def _renew(self, node: MariaDbServer) -> None:
        node.settings |= {"read_only": "1", "rpl_semi_sync_master_enabled": "0"}
        is_clean, self._retired = node is self._retired and not node.running, None
        if is_clean:
            node.start()
            node.execute("set global gtid_slave_pos = @@global.gtid_binlog_pos")
        else:
            self._begin_anew(node)

    def _begin_anew(self, node: MariaDbServer) -> None:
        node.kill()
        for name in ("data", "temporary"):
            shutil.rmtree(node._folder / name)
        data = node._folder / "data"
        data.mkdir(mode=0o700)
        node._give_to_account(data)
        node._initialise()
        # A server skips what bears its own number, and its old one is in the log that it now replicates.
        self._servers += 1
        node.settings["server_id"] = str(self._servers)
        node.start()

    def _hold_back(self, replica: MariaDbServer, seconds: float) -> None:
        replica.execute("stop slave")
        replica.execute(f"change master to master_delay={math.ceil(seconds)}")
        replica.execute("start slave")
        self._await_attached(replica)

    def _position(self) -> str:
        return str(self.primary.execute("select @@global.gtid_binlog_pos")[0][0])

    def _has_applied(self, replica: MariaDbServer, position: str) -> bool:
        return _applied(replica) >= _sequence(position)


class _Node(MariaDbServer):
    """A server whose users are its own: they aren't replicated."""

    def _logins(self) -> str:
        return f"SET SESSION sql_log_bin = 0;\n{super()._logins()}{self._plain_login()}"


def _set(server: MariaDbServer, **settings: str) -> None:
    """Change settings of a running server, over its restarts."""
    server.settings |= settings
    for name, value in settings.items():
        server.execute(f"set global {name} = {value}")


def _slave_status(server: MariaDbServer) -> dict[str, Any]:
    from pymysql.cursors import DictCursor

    with server.connect() as connection, connection.cursor(DictCursor) as cursor:
        cursor.execute("show slave status")
        return dict(cursor.fetchone() or {})


def _received(replica: MariaDbServer) -> int:
    return _sequence(_slave_status(replica)["Gtid_IO_Pos"])


def _applied(replica: MariaDbServer) -> int:
    return _sequence(replica.execute("select @@global.gtid_slave_pos")[0][0])


def _sequence(position: str) -> int:
    """Return the number of a position such as ``0-1-57``; all nodes write in one domain."""
    return int(position.rpartition("-")[2] or 0)
