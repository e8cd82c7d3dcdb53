"""PyMySQL over a socket in the file system."""

from __future__ import annotations

import socket
import time

from prefiq_db.drivers.pymysql import Connection, _Socket


class SocketConnection(Connection):
    """A connection whose server is on this machine, at ``unix_socket``."""

    def _dialled(self, until: float) -> socket.socket:
        assert self.unix_socket is not None, "the connector says it"
        dialled = _Socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            dialled.settimeout(max(0.01, until - time.monotonic()))
            dialled.connect(self.unix_socket)
        except BaseException:
            dialled.close()
            raise
        dialled.until = until
        self._secure = True  # as PyMySQL has it: nobody listens between two processes of one machine
        return dialled
