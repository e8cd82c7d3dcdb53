"""Whose line it was: never ours, SQLAlchemy's, an event loop's, nor that of the server that runs the application."""

from __future__ import annotations

import asyncio
import os
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy

from prefiq_db import Database, events, origin

PACKAGES = sysconfig.get_paths()["purelib"]
STDLIB = os.path.dirname(os.path.abspath(os.__file__))


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv/shop/orders.py", origin._APPLICATION),
        (__file__, origin._APPLICATION),
        (f"{PACKAGES}/shop/orders.py", origin._PACKAGE),
        (f"{PACKAGES}/uvicorn/server.py", origin._PACKAGE),
        (f"{os.path.dirname(os.path.abspath(sys.executable))}/uvicorn", origin._PACKAGE),
        (f"{PACKAGES}/anyio/_backends/_asyncio.py", origin._RUNNER),
        (f"{PACKAGES}/asgiref/sync.py", origin._RUNNER),
        (f"{PACKAGES}/anyiology/__init__.py", origin._PACKAGE),
        (sqlalchemy.__file__, origin._RUNNER),
        ("<sqlalchemy generated _go() wrapper for x>", origin._RUNNER),
        (f"{STDLIB}/contextlib.py", origin._RUNNER),
        (f"{STDLIB}/asyncio/tasks.py", origin._RUNNER),
        (f"{STDLIB}/asyncio/base_events.py", origin._LOOP),
        (f"{STDLIB}/asyncio/runners.py", origin._LOOP),
    ],
)
def test_what_a_file_is(path: str, kind: int) -> None:
    assert origin._kind_of(path) == kind


def _called_from(path: str) -> events.Line | None:
    """Return what is found by code of that file, which is called by this test's."""
    names = {"line": origin.application_line}
    exec(compile("def ask():\n    return line()", path, "exec"), names)
    line: events.Line | None = names["ask"]()
    return line


def test_an_installed_application_has_lines_and_what_generates_code_has_none() -> None:
    installed = origin.readable(_called_from(f"{PACKAGES}/shop/orders.py"))
    assert installed is not None
    assert installed.file.endswith("orders.py")
    generated = origin.readable(_called_from("<sqlalchemy generated _go() wrapper for x>"))
    assert generated is not None
    assert generated.function == "_called_from"


def test_below_an_event_loop_an_installed_package_is_the_server() -> None:
    """As uvicorn is for a task that has no line of the application's in it."""

    async def served() -> events.Line | None:
        return origin.application_line()

    names = {"asyncio": asyncio, "served": served, "origin": origin}
    exec(compile("def run(work):\n    return asyncio.run(work)", f"{PACKAGES}/uvicorn/server.py", "exec"), names)
    inside = origin.readable(names["run"](served()))  # type: ignore[operator]
    assert inside is not None
    assert inside.function.endswith("served")
    origin._kinds[__file__] = origin._RUNNER
    try:
        # In a thread, because above this test there may be an application: that of whoever runs it.
        with ThreadPoolExecutor(1) as thread:
            assert thread.submit(lambda: names["run"](served())).result() is None  # type: ignore[operator]
    finally:
        del origin._kinds[__file__]


def test_statements_have_the_line_of_their_caller() -> None:
    with Database("sqlite://") as db:
        lines = []
        db.hooks.after(lambda event: lines.append(event.origin.function))
        db.fetch_value("select 1")
    assert lines == ["test_statements_have_the_line_of_their_caller"]
