"""Several private servers that belong together: what all clusters for tests share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import ExitStack
from types import TracebackType
from typing import Generic, Self, TypeVar

from prefiq_db.testing.database_server import DatabaseServer

_Server = TypeVar("_Server", bound=DatabaseServer)


class ServerCluster(ABC, Generic[_Server]):
    """Private servers that start and end together; use it as a context manager, or start and close it.

    Each node is a server of its own: ``cluster.nodes[0].kill()``, ``cluster.nodes[1].freeze()``. A node keeps its port,
    and its place in :attr:`nodes`, whatever happens to it.
    """

    def __init__(self, nodes: tuple[_Server, ...]) -> None:
        self.nodes = nodes
        self._stack = ExitStack()

    def start(self) -> Self:
        """Start all nodes and return when they work together."""
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def close(self) -> None:
        """End all nodes and remove their data."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def url(self, database: str, *nodes: _Server) -> str:
        """Return the URL of a database with the hosts of *nodes*; without any, of all nodes. It holds the password."""
        places = ",".join(f"{node.host}:{node.port}" for node in nodes or self.nodes)
        return f"{self.nodes[0].name}://{self._login()}@{places}/{database}"

    def _login(self) -> str:
        return f"{self.nodes[0].user}:{self.nodes[0]._password}"

    @abstractmethod
    def _start(self, stack: ExitStack) -> None:
        """Start the nodes, each in *stack*."""
