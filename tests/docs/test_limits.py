"""docs/limits.md names every limit there is, by its name in the program, and no other."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

from prefiq_db import Database, DatabaseSettings, RetryPolicy, errors, is_healthy
from prefiq_db.drivers.deadlines import GRACE_SECONDS
from prefiq_db.drivers.stopping import STOP_SECONDS
from prefiq_db.exactly_once import pruning
from prefiq_db.health import HealthCheck
from prefiq_db.insight import explainer as explain
from prefiq_db.migrate.migrate_options import MigrateOptions
from prefiq_db.overrides import Overrides
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "limits.md").read_text("utf-8")
SETTINGS = {
    *(name for name in DatabaseSettings.model_fields if name.endswith("_seconds")),
    *(f"retry.{field.name}" for field in fields(RetryPolicy) if field.name.endswith("_seconds")),
}
CALLS: dict[str, Callable[..., Any]] = {
    "transaction": Database.transaction,
    "attempts": Database.attempts,
    "health": Database.health,
    "is_healthy": is_healthy,
    "HealthCheck": HealthCheck,
}


def _rows() -> list[list[str]]:
    """Return the cells of all tables, without their heads."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("|")]
    return [row for row in rows if row[0] != "limit" and set(row[0]) != {"-"}]


def test_every_setting_in_seconds_is_there() -> None:
    """A new one is either a limit or said to be none; one that is renamed is renamed here."""
    named = set(re.findall(r"`((?:retry\.)?[a-z_]+_seconds)`", PAGE))
    assert named == SETTINGS


@pytest.mark.parametrize(("call", "argument"), sorted(set(re.findall(r"`(\w+)\((\w+)=", PAGE))))
def test_a_limit_of_a_call_is_an_argument(call: str, argument: str) -> None:
    if call in ("using", "override"):
        assert argument in {field.name for field in fields(Overrides)}
    else:
        assert argument in inspect.signature(CALLS[call]).parameters


def test_every_call_that_takes_a_limit_is_there() -> None:
    named = set(re.findall(r"`(\w+)\(\w+=", PAGE))
    members = inspect.getmembers(Database, inspect.isfunction)
    assert {name for name, method in members if "timeout" in inspect.signature(method).parameters} <= named


def test_the_errors_are_ours() -> None:
    named = set(re.findall(r"`(\w+Error)`", PAGE))
    assert [name for name in named if not issubclass(getattr(errors, name), errors.PrefiqDbError)] == []
    assert {each.__name__ for each in errors.DeadlineError.__subclasses__()} <= named


def test_the_numbers_that_nobody_sets() -> None:
    numbers = {row[0]: row[1] for row in _rows() if len(row) == 3}
    assert float(numbers["the driver's grace"]) == GRACE_SECONDS
    assert float(numbers["stopping a statement"]) == STOP_SECONDS
    assert float(numbers["the plan of a slow statement"]) == explain.LIMIT_SECONDS
    assert float(numbers["removing old tokens"]) == pruning._SHORT.timeout


def test_the_limits_of_migrations() -> None:
    named = set(re.findall(r"`--([a-z-]+)`", PAGE))
    assert named == {field.name.replace("_", "-") for field in fields(MigrateOptions) if field.type == "float"}
