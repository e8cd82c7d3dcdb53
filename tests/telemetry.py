"""OpenTelemetry in memory: what a test's database said, as spans and metric points."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Metric
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler

from prefiq_db.integrations.otel import Instrumentation, instrument


@dataclass
class Telemetry:
    """Providers of one test's own; nothing global is set."""

    sampler: Sampler | None = None
    tracers: TracerProvider = field(init=False)
    meters: MeterProvider = field(init=False)

    def __post_init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider(sampler=self.sampler)
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meters = MeterProvider([self._reader])

    def instrument(self, db: Any) -> Instrumentation:
        """Instrument *db*, or the database behind a facade of the sync world."""
        return instrument(getattr(db, "_wrapped", db), tracer_provider=self.tracers, meter_provider=self.meters)

    def spans(self) -> list[ReadableSpan]:
        """Return the spans since the last time, in the order they ended."""
        finished = list(self._exporter.get_finished_spans())
        self._exporter.clear()
        return finished

    def metrics(self) -> dict[str, Metric]:
        """Return the metrics now, by name."""
        data: Any = self._reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def points(self, name: str) -> list[Any]:
        """Return the points of a metric now; none when there is no such metric."""
        metrics = self.metrics()
        return list(metrics[name].data.data_points) if name in metrics else []

    def everything(self) -> str:
        """Return all spans and metrics as they would be exported."""
        data: Any = self._reader.get_metrics_data()
        metrics = "" if data is None else data.to_json()
        return "\n".join([*(span.to_json() for span in self._exporter.get_finished_spans()), metrics])

    def close(self) -> None:
        self.tracers.shutdown()
        self.meters.shutdown()
