"""SQLAlchemy's own suite for dialects on our engines: what differs is listed, and nothing else does.

Here every test of it runs in the sync world, and of those with many parameters (reflection has 700, JSON 250) every
sixth. ``PREFIQ_DIALECT_SUITE=all`` runs the whole of it in both worlds, ``plain`` runs SQLAlchemy's own dialects
instead (``nox -s dialect-suite``, ``nox -s dialect-suite -- plain``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sqlalchemy_suite.run import run_suite

_HOW = os.environ.get("PREFIQ_DIALECT_SUITE", "part")
# What the worlds do differently: transactions, many rows, results, streams. The SQL and the reflection are the same.
_ASYNC_PART = (
    "Autocommit or IsolationLevel or Exception or Insert or Returning or Lastrowid or RowFetch or RowCount"
    " or ServerSide or UpdateDelete or LargeBinary"
)


@pytest.fixture
def schemas(backend: Any) -> Iterator[tuple[str, str]]:
    """Two schemas beside the default one; to MariaDB that is two databases."""
    names = ("test_schema", "test_schema_2")
    if backend.name == "mariadb":
        names = (backend.server.create_database(), backend.server.create_database())
    if backend.name == "postgresql":
        for name in names:
            backend.server.execute(f"create schema {name}", backend.url.rpartition("/")[2])
    yield names
    if backend.name == "mariadb":
        for name in names:
            backend.server.drop_database(name)


@pytest.mark.timeout(900)
def test_sqlalchemys_own_suite_differs_by_the_list_only(
    backend: Any, world: str, schemas: tuple[str, str], tmp_path: Path
) -> None:
    in_part = _HOW == "part"
    part: dict[str, Any] = {"every": 6} if in_part and world == "sync" else {}
    arguments = ("-k", _ASYNC_PART) if in_part and world == "async" else ()
    done = run_suite(backend.url, world, tmp_path, *arguments, schemas=schemas, plain=_HOW == "plain", **part)
    assert done.returncode == 0, done.stdout
    counts = re.search(r"^dialect suite on .*?(\d+) passed", done.stdout, re.M)
    assert counts is not None, done.stdout
    assert int(counts[1]) > (1450 if not in_part else 90 if world == "async" else 500), done.stdout
    print(counts[0])


def test_the_suite_finds_what_is_planted(tmp_path: Path) -> None:
    """The control: lost rows, a dialect that says no for once, and a list that isn't true, are each found."""
    done = run_suite(
        "sqlite://",
        "sync",
        tmp_path,
        *("-k", "PingTest or FetchLimitOffsetTest or IsolationLevelTest"),
        plugins=["tests.sqlalchemy_suite.planted"],
    )
    assert done.returncode == 1, done.stdout
    failed = set(re.findall(r"^(?:FAILED|ERROR) \S+::([A-Z][a-zA-Z]+)_\S*?::(\w+)", done.stdout, re.M))
    assert ("FetchLimitOffsetTest", "test_simple_offset") in failed, done.stdout  # lost rows
    assert ("PingTest", "test_do_ping") in failed, done.stdout  # listed, and passes
    assert ("FetchLimitOffsetTest", "test_expr_fetch_offset") in failed, done.stdout  # listed, and left out
    assert ("IsolationLevelTest", "test_all_levels") in failed, done.stdout  # listed with another reason
    assert ("IsolationLevelTest", "test_default_isolation_level") not in failed, done.stdout
    assert "PROBLEM listed, and there is no such test: PingTest.test_of_nothing" in done.stdout
    assert "PROBLEM the dialect says supports_sane_rowcount = False, and SQLAlchemy's says True" in done.stdout
