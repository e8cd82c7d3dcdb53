"""Formats for the application's own handlers: JSON by the standard library, and structlog."""

from __future__ import annotations

import builtins
import importlib
import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefiq_db import Database
from prefiq_db.errors import MissingExtraError, UnsupportedError
from prefiq_db.integrations.json_logs import JsonFormatter
from prefiq_db.integrations.log_fields import FIELDS
from prefiq_db.integrations.structlog import lift_fields, processor_formatter

# The ones that the issue promises; there may be more.
PROMISED = {
    "database", "summary", "fingerprint", "duration_seconds", "rows", "query_bytes", "retries", "transaction_id",
    "source", "error_kind",
}  # fmt: skip


def record(message: str = "slow: %s", *args: object, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("prefiq_db.slow", logging.WARNING, "app.py", 7, message, args or ("SELECT item",), None)
    vars(made).update(extra)
    return made


@pytest.fixture(params=["json", "structlog"])
def formatter(request: pytest.FixtureRequest) -> logging.Formatter:
    return JsonFormatter() if request.param == "json" else processor_formatter()


@pytest.fixture
def written(formatter: logging.Formatter) -> Iterator[io.StringIO]:
    """What a handler with this formatter writes of prefiq_db's records at DEBUG."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger = logging.getLogger("prefiq_db")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield stream
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_the_promised_fields_are_lifted() -> None:
    assert set(FIELDS) >= PROMISED


def test_a_statement_is_one_json_object_with_its_fields(written: io.StringIO) -> None:
    with Database("sqlite:///:memory:", name="shop", slow_query_seconds=1e-9) as db:
        db.fetch_all("select 1 where 'x' = :word", {"word": "x"})
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    (slow,) = (line for line in lines if line["logger"] == "prefiq_db.slow")
    assert slow.keys() >= PROMISED
    assert (slow["database"], slow["retries"], slow["transaction_id"], slow["error_kind"]) == ("shop", 0, None, None)
    assert slow["level"].upper() == "WARNING"
    assert "test_log_formats.py" in slow["source"]
    assert isinstance(slow["duration_seconds"], float)


def test_a_record_of_anybody_is_formatted(formatter: logging.Formatter) -> None:
    shown = json.loads(formatter.format(record("hello %s", "world")))
    assert "hello world" in shown.values()
    assert "prefiq_db.slow" in shown.values()


def test_an_exception_is_told(formatter: logging.Formatter) -> None:
    try:
        raise ValueError("what went wrong")
    except ValueError:
        made = record()
        made.exc_info = sys.exc_info()
    shown = json.loads(formatter.format(made))
    assert "ValueError: what went wrong" in shown["exception"]


_text = st.text(max_size=10)
_any_value = st.one_of(
    st.none(), _text, st.integers(), st.floats(allow_nan=False), st.binary(max_size=10), st.lists(_text, max_size=3)
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
@given(st.dictionaries(st.sampled_from(FIELDS), _any_value, max_size=5))
def test_whatever_a_field_holds_becomes_json(fields: dict[str, Any]) -> None:
    """Texts and numbers as they are; anything else by type and length, so that it can't carry a value along."""
    shown = json.loads(JsonFormatter().format(record(**fields)))
    for name, value in fields.items():
        if value is None or isinstance(value, (str, int, float)):
            assert shown[name] == value
        else:
            assert shown[name] == f"<{type(value).__name__}:{len(value)}>"


def test_fields_of_others_are_shown_when_the_application_asks_for_them() -> None:
    made = record(request_id="r1", secret="hush")
    assert "r1" not in JsonFormatter().format(made)
    shown = json.loads(JsonFormatter(fields=["request_id"]).format(made))
    assert shown["request_id"] == "r1"
    assert "secret" not in shown


def test_lifting_keeps_what_is_there() -> None:
    made = record(database="shop", summary="SELECT item", unknown="x")
    assert lift_fields(None, "warning", {"event": "e", "database": "mine", "_record": made}) == {
        "event": "e",
        "database": "mine",
        "summary": "SELECT item",
        "_record": made,
    }
    assert lift_fields(None, "info", {"event": "own"}) == {"event": "own"}


# --- missing extras -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("otel", "opentelemetry", "otel"),
        ("prometheus", "prometheus_client", "prometheus"),
        ("structlog", "structlog", "structlog"),
    ],
)
def test_a_missing_extra_is_named(module: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"prefiq_db.integrations.{module}"
    original = builtins.__import__

    def without(imported: str, *args: Any, **kwargs: Any) -> Any:
        if imported.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {imported!r}", name=imported)
        return original(imported, *args, **kwargs)

    loaded = sys.modules[name] if name in sys.modules else importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=rf"pip install 'prefiq-db\[{extra}\]'") as caught:
        importlib.import_module(name)
    assert isinstance(caught.value, UnsupportedError)
    sys.modules[name] = loaded
