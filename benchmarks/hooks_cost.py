"""What it costs to attach something to a point select by itself on SQLite: a listener, tags, spans, a scrape.

    python -m benchmarks.hooks_cost    # thousand instructions, counted by valgrind

What a ``Database`` always does (statistics, timings, slow log, waits, uses, holders, leak records) is in all of them.
All databases live in the one program that is counted: CPython's cache of attribute lookups depends on where things lie
in memory, and two programs that differ at all differ by some thousand instructions for that alone. What the garbage
collector needs for the modules that were imported is left out (``gc.freeze``), for the same reason.
"""

from __future__ import annotations

import gc
import itertools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import prometheus_client
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler

from benchmarks import valgrind
from benchmarks.measuring import say
from prefiq_db import Database
from prefiq_db.execution.comments import comment
from prefiq_db.integrations.otel import instrument
from prefiq_db.integrations.prometheus import export

_QUERY = "select id, qty from item where id = :id"
_VALUES = {"id": 7}
_WARM_UP_CALLS, _CALLS = 1024, 512  # what is noted is worked out every 512 calls
BARE = "nothing"

Call = Callable[[], object]


def _open(folder: Path, name: str) -> Database:
    db = Database(f"sqlite:///{folder / name}.db", pool_size=1, leak_after_seconds=3600)
    db.execute("create table item (id integer primary key, qty integer not null)")
    db.execute_many("insert into item (id, qty) values (:id, :qty)", [{"id": n, "qty": n} for n in range(100)])
    return db


def _contenders(folder: Path) -> dict[str, Call]:
    def plain(name: str, attach: Callable[[Database], object]) -> Call:
        db = _open(folder, name)
        attach(db)
        return lambda: db.fetch_all(_QUERY, _VALUES)

    def two(db: Database) -> None:
        db.hooks.after(lambda event: None)
        db.hooks.after(lambda event: [])

    commented = _open(folder, "commented")
    usual, numbers = comment(_QUERY, {"route": "/orders"}), itertools.count()
    return {
        BARE: plain("bare", lambda db: None),
        "one listener (hooks.after)": plain("after", lambda db: db.hooks.after(lambda event: None)),
        "another one for the same event": plain("two", two),
        "one for another event (hooks.before)": plain("before", lambda db: db.hooks.before(lambda event: None)),
        "a listener that reads event.origin": plain("origin", lambda db: db.hooks.after(lambda event: event.origin)),
        "a view, using(tags=...)": _viewed(folder),
        "a comment, the same each time": lambda: commented.fetch_all(usual, _VALUES),
        "a comment that differs each time": lambda: commented.fetch_all(
            comment(_QUERY, {"request": str(next(numbers))}), _VALUES
        ),
        "Prometheus": plain("prometheus", lambda db: export(db, registry=prometheus_client.CollectorRegistry())),
        "instrument(db), spans not sampled": plain("unsampled", lambda db: _instrument(db, ALWAYS_OFF, measure=False)),
        "instrument(db), spans sampled": plain("sampled", lambda db: _instrument(db, ALWAYS_ON, measure=False)),
        "instrument(db), metrics": plain("metrics", lambda db: _instrument(db, ALWAYS_OFF, measure=True)),
    }


def _viewed(folder: Path) -> Call:
    view = _open(folder, "viewed").using(tags={"route": "/orders"})
    return lambda: view.fetch_all(_QUERY, _VALUES)


def _instrument(db: Database, sampler: Sampler, *, measure: bool) -> None:
    tracers = TracerProvider(sampler=sampler)
    tracers.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
    readers = [InMemoryMetricReader()] if measure else []
    instrument(db, tracer_provider=tracers, meter_provider=MeterProvider(readers))


def _inside() -> None:
    """Be the program that is counted."""
    with tempfile.TemporaryDirectory() as folder:
        contenders = _contenders(Path(folder))
        for call in contenders.values():
            for _ in range(_WARM_UP_CALLS):
                call()
        gc.collect()
        gc.freeze()
        for name, call in contenders.items():
            with valgrind.window(name):
                for _ in range(_CALLS):
                    call()


def count() -> dict[str, int]:
    """Return the instructions of a point select, by what is attached."""
    windows = valgrind.count(["-m", "benchmarks.hooks_cost", "--inside"])
    return {name: instructions // _CALLS for name, instructions in windows.items()}


def main() -> None:
    if "--inside" in sys.argv:
        _inside()
        return
    if reason := valgrind.why_not():
        raise SystemExit(reason)
    found = count()
    for name, instructions in sorted(found.items(), key=lambda each: each[1]):
        say(f"{name:38}{instructions / 1000:8.0f} k   {(instructions - found[BARE]) / 1000:+8.0f} k")


if __name__ == "__main__":
    main()
