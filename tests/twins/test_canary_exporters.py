"""Nothing that an exporter sends or a formatter writes holds a planted secret or a planted value.

The error paths are those of ``test_canary.py``. Spans, metrics, Prometheus' text and formatted log records of every
library at DEBUG are collected; the control shows that the same collection finds the canaries when masking is off.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from prefiq_db import PrefiqDbError
from prefiq_db.integrations import prometheus
from prefiq_db.integrations.json_logs import JsonFormatter
from prefiq_db.integrations.structlog import processor_formatter
from tests.conftest import Backend
from tests.telemetry import Telemetry
from tests.twins.harness import make_database
from tests.twins.test_canary import NUMBER, SECRET, VALUE, Collected, _provoke_all

_LOGGERS = ("", "psycopg", "asyncmy", "aiosqlite", "sqlalchemy", "prefiq_db")


@dataclass
class Exported:
    """All that left by an exporter or a formatter."""

    telemetry: Telemetry = field(default_factory=Telemetry)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    logs: dict[str, io.StringIO] = field(default_factory=dict)

    def attach(self, db: Any) -> None:
        self.telemetry.instrument(db)
        prometheus.export(getattr(db, "_wrapped", db), registry=self.registry)

    def texts(self) -> dict[str, str]:
        return {
            "opentelemetry": self.telemetry.everything(),
            "prometheus": generate_latest(self.registry).decode(),
            "openmetrics": generate_openmetrics(self.registry).decode(),
            **{name: stream.getvalue() for name, stream in self.logs.items()},
        }

    def holding(self, *canaries: object) -> set[str]:
        """Return which of the exporters said one of *canaries*."""
        texts = self.texts()
        assert all(texts.values()), "every exporter said something"
        return {name for name, text in texts.items() for canary in canaries if str(canary) in text}


@pytest.fixture
def exported() -> Iterator[Exported]:
    """Exporters for a database, and handlers with our formatters for every library's records at DEBUG."""
    made = Exported()
    handlers = []
    for name, formatter in (("json", JsonFormatter()), ("structlog", processor_formatter())):
        made.logs[name] = io.StringIO()
        handler = logging.StreamHandler(made.logs[name])
        handler.setFormatter(formatter)
        logging.getLogger().addHandler(handler)
        handlers.append(handler)
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.DEBUG)
    yield made
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    for handler in handlers:
        logging.getLogger().removeHandler(handler)
    made.telemetry.close()


async def test_no_value_is_exported(make_db: Any, backend: Backend, exported: Exported) -> None:
    """Not in spans, metrics, labels or log records, in any of the error paths."""
    db = make_db(statement_timeout_seconds=10, slow_query_seconds=0.000_001)
    exported.attach(db)
    await _provoke_all(db, backend, Collected())
    assert exported.holding(VALUE, NUMBER) == set()
    telemetry = exported.texts()["opentelemetry"]
    assert '"prefiq_db.error.kind": "unique"' in telemetry
    assert '"status_code": "ERROR"' in telemetry


async def test_control_without_masking_values_are_exported(make_db: Any, backend: Backend, exported: Exported) -> None:
    """The same collection finds the canaries in spans and in both formats of logs when masking is off.

    Metrics hold none even then: a label is a summary, a kind or a name.
    """
    db = make_db(mask=False, environment="development", statement_timeout_seconds=10)
    exported.attach(db)
    await _provoke_all(db, backend, Collected())
    assert exported.holding(VALUE, NUMBER) == {"opentelemetry", "json", "structlog"}


@pytest.mark.parametrize(
    "backend",
    [pytest.param("postgresql", marks=pytest.mark.postgresql), pytest.param("mariadb", marks=pytest.mark.mariadb)],
    indirect=True,
)
async def test_no_secret_of_a_url_is_exported(backend: Backend, world: str, exported: Exported) -> None:
    """A wrong password, and one in the URL's query: the attributes that name the server have neither."""
    assert backend.server is not None
    place = f"{backend.server.host}:{backend.server.port}"
    for number, rest in enumerate((f"nobody:{SECRET}@{place}/nowhere", f"nobody@{place}/nowhere?password={SECRET}")):
        db = make_database(world, f"{backend.name}://{rest}", name=f"db{number}", connect_timeout_seconds=2)
        exported.telemetry.instrument(db)
        if number == 0:
            prometheus.export(getattr(db, "_wrapped", db), registry=exported.registry)
        with pytest.raises(PrefiqDbError):
            await db.fetch_all("select 1")
        await db.close()
    assert exported.holding(SECRET) == set()
