"""Base of all connectors: knows the deadline and the password, and attaches the attempt to an error."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from prefiq_db.config import Host, Target
from prefiq_db.deadline import CONNECT_TIMEOUT, Deadline
from prefiq_db.drivers.tls_trust import is_loopback
from prefiq_db.pool.checkout_deadline import checkout_deadline
from prefiq_db.settings import DatabaseSettings
from prefiq_db.translation.connecting import Connecting, note

logger = logging.getLogger("prefiq_db.connectors")

#: SQLAlchemy's connect function.
Connect = Callable[..., Any]


class Connector:
    def __init__(self, settings: DatabaseSettings, target: Target) -> None:
        self.settings = settings
        self.target = target
        self.has_told = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} to {self.target}>"

    def __call__(self, connect: Connect, cparams: dict[str, Any], login: Mapping[str, Any]) -> Any:
        """Return an open connection; an error carries the details of the attempt."""
        # One deadline for all the attempts together.
        deadline = checkout_deadline(self.settings.connect_timeout_seconds, CONNECT_TIMEOUT)
        try:
            return self.connected(connect, cparams, login, deadline)
        except Exception as error:
            note(error, self.tried(deadline))
            raise

    def connected(self, connect: Connect, cparams: dict[str, Any], login: Mapping[str, Any], deadline: Deadline) -> Any:
        raise NotImplementedError

    def tried(self, deadline: Deadline) -> Connecting:
        """Return the details of an attempt: where to, and for how long."""
        return Connecting(", ".join(map(str, self.target.hosts)), deadline=deadline)

    @property
    def password(self) -> str | None:
        return None if self.target.password is None else self.target.password.reveal()

    def tell_what_is_in_clear(self, host: Host, is_encrypted: bool) -> None:
        """Log once that the server has no TLS, if ``ssl_mode`` is ``prefer``; at INFO for a loopback address."""
        if is_encrypted or host.is_path or self.has_told or self.settings.ssl_mode != "prefer":
            return
        self.has_told = True
        logger.log(
            logging.INFO if is_loopback(host.host) else logging.WARNING,
            "ssl_mode=prefer: %s offers no TLS, so everybody on the way can read and change what is sent;"
            " ssl_mode=require refuses that, and ssl_mode=disable says that it is meant",
            host,
        )
