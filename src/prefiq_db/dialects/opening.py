"""Open connections through the engine's connector, which knows the password; SQLAlchemy's URL doesn't."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from sqlalchemy import URL
from sqlalchemy.engine.interfaces import ConnectArgsType

from prefiq_db.dialects.engine_parts import ConfiguredDialect
from prefiq_db.errors import PrefiqDbError, UsageError
from prefiq_db.masking import border_translates
from prefiq_db.translation.both import of_both


class ConnectingDialect(ConfiguredDialect):
    """Mixed into our dialects: opening connections."""

    #: what a do_connect listener may change: who logs in where; the rest comes from the settings
    login_arguments: ClassVar[frozenset[str]] = frozenset()

    def create_connect_args(self, url: URL, *more: Any, **named: Any) -> ConnectArgsType:
        """Refuse an engine that was made from our engine's URL: it would have no password, limits or set-up."""
        if self.connector is None:
            raise foreign_engine_refused()
        arguments: ConnectArgsType = super().create_connect_args(url, *more, **named)  # type: ignore[misc]
        self._connect_args = tuple(arguments[0]), dict(arguments[1])
        return arguments

    def _login(self, cargs: Sequence[Any], cparams: Mapping[str, Any]) -> dict[str, Any]:
        """Return what listeners of SQLAlchemy's do_connect changed, such as a password that is valid for minutes."""
        as_made, named = self._connect_args
        missing = object()
        changed = {name: value for name, value in cparams.items() if named.get(name, missing) is not value}
        refused = sorted({*changed, *(named.keys() - cparams.keys())} - self.login_arguments)
        if refused or tuple(cargs) != as_made:
            allowed = ", ".join(sorted(self.login_arguments)) or "nothing"
            raise UsageError(
                f"do_connect: a listener changed {', '.join(refused) or 'the positional arguments'}; expected it to "
                f"change {allowed}. Everything else about a connection is in DatabaseSettings"
            )
        return changed

    def made(self, dbapi_connection: Any) -> bool:
        """Return whether we opened a new connection ourselves, with its clocks and its set-up."""
        try:
            driver = self.get_driver_connection(dbapi_connection)  # type: ignore[attr-defined]
        except AttributeError:  # a sync connection for an async engine, or the reverse
            return False
        return type(driver).__module__.startswith("prefiq_db.")

    def connect(self, *cargs: Any, **cparams: Any) -> Any:
        """Connect through the engine's connector, which knows the password; SQLAlchemy's URL doesn't."""
        if self.connector is None:
            raise foreign_engine_refused()
        connect = super().connect  # type: ignore[misc]
        started = time.perf_counter()
        try:
            connection = self.connector(connect, cparams, self._login(cargs, cparams))
        except PrefiqDbError as error:
            if border_translates.get():
                raise
            raise of_both(error, behind=error) from None
        if self.watcher is not None:
            self.watcher.opened(time.perf_counter() - started)
        return connection


def foreign_engine_refused() -> UsageError:
    return UsageError(
        "this URL belongs to an engine of prefiq_db and opens nothing by itself: it has no password and no session "
        "set-up. Use the engine itself (db.engine), or give create_engine() a URL with a driver of SQLAlchemy's own"
    )
