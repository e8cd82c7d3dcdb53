"""A primary and its replicas, for tests of replica reads and of failovers: what both databases' clusters share."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import ExitStack
from typing import TypeVar

from prefiq_db.errors import UsageError
from prefiq_db.testing.database_server import DatabaseServer
from prefiq_db.testing.locate import ServerUnavailableError
from prefiq_db.testing.processes import wait_until
from prefiq_db.testing.server_cluster import ServerCluster

_Server = TypeVar("_Server", bound=DatabaseServer)

_ATTACH_SECONDS = 60.0


class ReplicatedCluster(ServerCluster[_Server]):
    """A private primary and the replicas that follow it; use it as a context manager, or start and close it.

    Each node is a server of its own: ``cluster.primary.kill()``, ``cluster.replicas[0].freeze()``,
    ``cluster.nodes[1].restart()``. A node keeps its port, and its place in :attr:`nodes`, whatever its role.
    """

    def __init__(self, primary: _Server, replicas: tuple[_Server, ...], *, synchronous: bool) -> None:
        super().__init__((primary, *replicas))
        self.primary = primary
        self.replicas: tuple[_Server, ...] = replicas
        self.synchronous = synchronous

    def _start(self, stack: ExitStack) -> None:
        for node in self.nodes:
            stack.enter_context(node)
            if node is not self.primary:
                self._follow(node, self.primary)
        for replica in self.replicas:
            self._await_attached(replica)
        self._confirm_together()

    # --- roles -----------------------------------------------------------------------------------

    def promote(self, replica: _Server | None = None) -> _Server:
        """Make a replica the primary and return it when it accepts writes; the other replicas follow it.

        Stop, kill or freeze the old primary first: two primaries would accept conflicting writes. It is no node of the
        replication then, until :meth:`rejoin`; started again without that, it takes itself for the primary, as an old
        primary does.

        Args:
            replica: which one. Default: the one that has received most, so that nothing confirmed is lost.

        Raises:
            UsageError: if no replica follows the primary any more.
        """
        running = [each for each in self.replicas if each.running]
        if not running:
            raise UsageError("can't promote: no running replica follows the primary")
        promoted = self._most_advanced(running) if replica is None else self._checked(replica)
        self._promote(promoted)
        self.primary = promoted
        self.replicas = tuple(each for each in self.replicas if each is not promoted)
        for other in self.replicas:
            if other.running:
                self._follow(other, promoted)
                self._await_attached(other)
        self._confirm_together()
        return promoted

    def rejoin(self, node: _Server) -> None:
        """Let *node* follow the primary: an old one after :meth:`promote`, whatever it has become.

        A running node is ended first. What it has that the primary hasn't is lost, as it must be: nobody confirmed it,
        or a failover gave it up.

        Raises:
            UsageError: if it is the primary, or no node of this cluster.
        """
        if node is self.primary or node not in self.nodes:
            raise UsageError("only a node of this cluster that isn't its primary can rejoin")
        self._renew(node)
        self._follow(node, self.primary)
        self.replicas = tuple(each for each in self.nodes if each is node or each in self.replicas)
        self._await_attached(node)
        self._confirm_together()

    def switch_over(self, replica: _Server | None = None) -> _Server:
        """Change the roles of the primary and a replica in order, without loss, and return the new primary.

        The old primary is shut down, the replica promoted, and the old one rejoins.
        """
        old = self.primary
        chosen = self._most_advanced(list(self.replicas)) if replica is None else self._checked(replica)
        self._retire(old, chosen)
        self.promote(chosen)
        self.rejoin(old)
        return chosen

    def hold_back(self, replica: _Server, seconds: float) -> None:
        """Let *replica* apply each transaction only *seconds* after its commit on the primary; 0 ends that.

        A synchronous PostgreSQL waits at COMMIT until a replica has applied it: give it another one, or turn
        ``synchronous`` off. MariaDB counts whole seconds.
        """
        self._hold_back(self._checked(replica), seconds)

    def catch_up(self, *, timeout_seconds: float = _ATTACH_SECONDS) -> None:
        """Return when each running replica has applied all that the primary has committed by now.

        Raises:
            ServerUnavailableError: if one hasn't in that time.
        """
        position = self._position()
        for replica in self.replicas:
            if replica.running and not wait_until(
                lambda replica=replica: self._has_applied(replica, position),  # type: ignore[misc]  # a lambda with a default
                timeout_seconds=timeout_seconds,
            ):
                raise ServerUnavailableError(f"a replica did not catch up within {timeout_seconds:g} s")

    def create_database(self) -> str:
        """Create an empty database on the primary and return its name."""
        return self.primary.create_database()

    # --- per kind of server ----------------------------------------------------------------------

    def _checked(self, replica: _Server) -> _Server:
        if replica not in self.replicas:
            raise UsageError("that node doesn't follow the primary of this cluster")
        return replica

    def _await_attached(self, replica: _Server) -> None:
        if not wait_until(lambda: self._is_attached(replica), timeout_seconds=_ATTACH_SECONDS):
            raise ServerUnavailableError(f"a replica did not follow; the end of its log:\n{replica.log}")

    @abstractmethod
    def _follow(self, node: _Server, source: _Server) -> None:
        """Let a running node follow *source*."""

    @abstractmethod
    def _is_attached(self, replica: _Server) -> bool: ...

    @abstractmethod
    def _confirm_together(self) -> None:
        """If the cluster is synchronous: let COMMIT on the primary wait for a replica from now on, if there is one."""

    @abstractmethod
    def _most_advanced(self, replicas: list[_Server]) -> _Server: ...

    @abstractmethod
    def _retire(self, primary: _Server, successor: _Server) -> None:
        """End the primary so that *successor* has all that it confirmed."""

    @abstractmethod
    def _promote(self, replica: _Server) -> None: ...

    @abstractmethod
    def _renew(self, node: _Server) -> None:
        """Start a node with nothing that the primary hasn't."""

    @abstractmethod
    def _hold_back(self, replica: _Server, seconds: float) -> None: ...

    @abstractmethod
    def _position(self) -> str:
        """Return what the primary has committed by now."""

    @abstractmethod
    def _has_applied(self, replica: _Server, position: str) -> bool: ...
