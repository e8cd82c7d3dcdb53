"""PyMySQL over a Unix socket."""

from __future__ import annotations

import socket

from prefiq_db.deadline import Deadline
from prefiq_db.drivers.pymysql import Connection, _Socket


class SocketConnection(Connection):
    """A connection whose server is on this machine, at ``unix_socket``."""

    def _dial(self, deadline: Deadline) -> socket.socket:
        assert self.unix_socket is not None, "the connector says it"
        dialled = _Socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            dialled.settimeout(deadline.left(at_least=0.01))
            dialled.connect(self.unix_socket)
        except BaseException:
            dialled.close()
            raise
        dialled.ends_at = deadline.at
        self._secure = True  # as in PyMySQL: nobody listens between two processes of one machine
        return dialled
