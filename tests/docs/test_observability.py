"""Every event, metric, attribute and log field is told in ``docs/observability.md``."""

from __future__ import annotations

import re

import pytest

from prefiq_db import events
from prefiq_db.hooks.registry import _METHODS
from prefiq_db.integrations import conventions
from prefiq_db.integrations.conventions import CONVENTIONAL, OF_HEALTH, OF_REPLICAS, OURS, ROWS, Metric, prometheus_name
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "observability.md").read_text("utf-8")
# Names of constants that are no attributes.
_OTHERS = {"SCHEMA_URL"}
ATTRIBUTES = sorted(
    value
    for name, value in vars(conventions).items()
    if isinstance(value, str) and name.isupper() and name not in _OTHERS
)


@pytest.mark.parametrize(("event", "method"), _METHODS.items(), ids=lambda value: getattr(value, "__name__", value))
def test_an_event_is_told_with_its_method(event: type, method: str) -> None:
    assert f"| `{event.__name__}` | `{method}` |" in PAGE
    assert callable(getattr(events.Listener, method))


@pytest.mark.parametrize("metric", [*CONVENTIONAL, *OURS, *OF_REPLICAS, *OF_HEALTH], ids=lambda metric: metric.name)
def test_a_metric_is_told_with_both_its_names(metric: Metric) -> None:
    suffix = "_total" if metric.instrument == "counter" else ""
    prometheus = "" if metric is ROWS else f"`{prometheus_name(metric)}{suffix}` "
    assert re.search(rf"^\| `{re.escape(metric.name)}` \| {prometheus}\|", PAGE, re.M)


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_an_attribute_is_told(attribute: str) -> None:
    assert f"`{attribute}`" in PAGE or attribute == conventions.STATE


def test_the_span_attributes_of_the_stable_conventions_are_told_as_stable() -> None:
    rows = re.findall(r"^\| ((?:`[\w.]+`(?:, )?)+) \| (stable|development|ours) \|", PAGE, re.M)
    told = {name: status for names, status in rows for name in re.findall(r"`([\w.]+)`", names)}
    assert told["db.response.returned_rows"] == "development"
    assert {name for name, status in told.items() if status == "ours"} == {
        conventions.ERROR_KIND,
        conventions.RETRIES,
    }
