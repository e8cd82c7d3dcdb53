"""Spans and metrics for OpenTelemetry, by its conventions for databases; extra ``otel``.

Call ``instrument(db)``; nothing else is needed. This module uses only opentelemetry-api, which does nothing if the
process has no SDK. ``docs/observability.md`` explains the spans and their attributes.
"""

from __future__ import annotations

import logging
import sys
import weakref
from typing import TYPE_CHECKING, Any

from prefiq_db.errors import UsageError
from prefiq_db.integrations.conventions import SCHEMA_URL, identity
from prefiq_db.integrations.extras import missing_extra
from prefiq_db.integrations.operations import Operation, OperationListener

try:
    from opentelemetry import metrics, trace
    from opentelemetry.context import get_current
except ModuleNotFoundError:
    raise missing_extra(__name__, "opentelemetry-api", "otel") from None

from prefiq_db.forks import renewed
from prefiq_db.integrations.otel_metrics import MetricListener
from prefiq_db.integrations.otel_spans import Spans

if TYPE_CHECKING:
    from prefiq_db.integrations.sources import AnyDatabase

logger = logging.getLogger("prefiq_db.otel")

_instrumented: weakref.WeakSet[Any] = weakref.WeakSet()
_lock = renewed(sys.modules[__name__], "_lock")


class Instrumentation:
    """The result of :func:`instrument`; ``uninstrument`` removes it again.

    Attributes:
        tracing: False if another tracer already creates the spans, so that only metrics are recorded here.
    """

    def __init__(self, db: AnyDatabase, spans: Spans | None, told: MetricListener) -> None:
        self.tracing = spans is not None
        self._hooks = db.hooks
        self._metrics = told
        ended = told.operation_ended if spans is None else _both(spans, told)
        self._operations = OperationListener(ended, get_current)
        self._hooks.add(self._operations)
        self._hooks.add(told)

    def uninstrument(self) -> None:
        """Create no more spans and metrics for this database; a second call does nothing."""
        self._hooks.remove(self._operations)
        self._hooks.remove(self._metrics)
        self._metrics.close()
        with _lock:
            _instrumented.discard(self._hooks)


def instrument(
    db: AnyDatabase,
    *,
    tracer_provider: trace.TracerProvider | None = None,
    meter_provider: metrics.MeterProvider | None = None,
) -> Instrumentation:
    """Create a span for every call to *db*, and metrics of its calls and its pool.

    Args:
        db: any database; its views (``using``) are covered too.
        tracer_provider: default: the global one, even if it is set later.
        meter_provider: likewise.

    Raises:
        UsageError: if *db* is instrumented already.
    """
    with _lock:
        if db.hooks in _instrumented:
            raise UsageError(f"database {db.name} is instrumented already; call uninstrument() first")
        attributes = identity(db.settings.target)
        spans: Spans | None = None
        if not db.settings.target.product.keeps_documents and _traced_by_another(db._base.instance.engine):
            logger.warning(
                "database %s is traced by opentelemetry-instrumentation-sqlalchemy already: metrics, but no spans",
                db.name,
                extra={"database": db.name},
            )
        else:
            tracer = trace.get_tracer("prefiq_db", tracer_provider=tracer_provider, schema_url=SCHEMA_URL)
            spans = Spans(tracer, attributes)
        made = Instrumentation(db, spans, MetricListener(db, meter_provider, attributes))
        _instrumented.add(db.hooks)
    return made


def _both(spans: Spans, told: MetricListener) -> Any:
    def ended(operation: Operation) -> None:
        spans.operation_ended(operation)
        told.operation_ended(operation)

    return ended


def _traced_by_another(engine: Any) -> bool:
    """Return whether an EngineTracer of opentelemetry-instrumentation-sqlalchemy listens to *engine*."""
    for name in ("before_cursor_execute", "after_cursor_execute"):
        for function in getattr(engine.dispatch, name):
            owner = type(getattr(function, "__self__", None))
            if "opentelemetry.instrumentation" in f"{owner.__module__} {getattr(function, '__module__', '')}":
                return True
    return False
