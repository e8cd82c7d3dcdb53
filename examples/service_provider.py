"""Your own provider: typed settings, a service in the container, and a listener for every statement.

Try it with ``AUDIT_KEEP=2 python examples/service_provider.py``.
"""

from __future__ import annotations

import tempfile
from collections import deque

from pydantic import BaseModel, PositiveInt

from prefiq_db import BaseProvider, Database, bootstrap, register_provider
from prefiq_db.errors import UniqueViolationError
from prefiq_db.events import Listener, StatementFailed, StatementFinished


class AuditSettings(BaseModel):
    """Settings from ``AUDIT_KEEP`` and ``AUDIT_ENABLED``, or ``audit: {keep: 100}`` in settings.yaml."""

    enabled: bool = True
    keep: PositiveInt = 100


class Audit(Listener):
    """Keeps the last statements; events hold types and lengths instead of values, so nothing has to be masked."""

    def __init__(self, keep: int) -> None:
        self.entries: deque[str] = deque(maxlen=keep)

    def statement_finished(self, event: StatementFinished) -> None:
        self.entries.append(f"{event.database}: {event.statement} {dict(event.parameters)}")

    def statement_failed(self, event: StatementFailed) -> None:
        self.entries.append(f"{event.database}: {event.statement} failed: {event.kind}")


@register_provider
class AuditProvider(BaseProvider):
    """Binds ``audit`` and registers it as a listener of the database ``db``."""

    requires = ("db",)
    schema_namespace = "audit"
    schema_model = AuditSettings

    def register(self) -> None:
        self.app.bind("audit", Audit(self.settings.keep))

    def boot(self) -> None:
        if self.settings.enabled:
            self.app.resolve("db", Database).hooks.add(self.app.resolve("audit", Audit))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        arguments = {"database": {"url": f"sqlite:///{folder}/service.db"}}
        with bootstrap(arguments=arguments) as app:
            db = app.resolve("db", Database)
            db.execute("create table customer (name varchar(40) primary key)")
            db.execute("insert into customer (name) values (:name)", {"name": "Ada"})
            try:
                db.execute("insert into customer (name) values (:name)", {"name": "Ada"})
            except UniqueViolationError as error:
                print(f"refused: {error.kind}")
            for entry in app.resolve("audit", Audit).entries:
                print(entry)


if __name__ == "__main__":
    main()
