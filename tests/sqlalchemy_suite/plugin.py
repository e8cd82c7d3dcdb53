"""A plugin of the suite's process: engines of ours for SQLAlchemy's tests, and the judgement of each test.

Loaded after ``sqlalchemy.testing.plugin.pytestplugin``. The suite makes engines by ``sqlalchemy.create_engine``; where
a URL names a dialect of ours, it gets the engine of a ``Database`` here. Where it names one of SQLAlchemy's own,
nothing is expected to differ.
"""

from __future__ import annotations

import gc
import importlib
import inspect
import os
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import pytest
import sqlalchemy
from sqlalchemy import Engine, event, make_url
from sqlalchemy.pool import StaticPool
from sqlalchemy.testing import asyncio, config, provision
from sqlalchemy.testing.requirements import SuiteRequirements

from prefiq_db import AsyncDatabase, Database
from tests.sqlalchemy_suite import differences
from tests.sqlalchemy_suite.differences import Difference
from tests.sqlalchemy_suite.run import EVERY_VARIABLE, SCHEMAS_VARIABLE, URL_VARIABLE, plain_url

_create_engine = sqlalchemy.create_engine
_URL: Final = make_url(os.environ[URL_VARIABLE])
_IS_OURS: Final = _URL.get_driver_name().startswith("prefiq")
_WORLD: Final = "async" if _URL.get_dialect().is_async else "sync"
_MARKERS: Final = ("backend", "sparse_backend", "sparse_driver_backend", "memory_intensive", "timing_intensive", "mypy")
_EVERY: Final = int(os.environ[EVERY_VARIABLE])
_MANY: Final = 8  # parameters of a test, from which on it is a sample of them
_DIFFERENCE: Final = pytest.StashKey[Difference]()
_FAILED: Final = pytest.StashKey[bool]()

#: what goes beyond single tests; each is a failure of the run
problems: list[str] = []
#: of the differences of which some tests fail: whether any did
_met: dict[str, bool] = {}
#: how the tests ended, the expected differences apart
endings: Counter[str] = Counter()


# --- engines -------------------------------------------------------------------------------------


class NoSuchOptionError(Exception):
    """An engine of ours is made from settings."""


def create_engine(url: Any, **options: Any) -> Engine:
    """Return the engine of a ``Database`` for a URL of our dialects, else what SQLAlchemy makes."""
    url = make_url(url)
    if not url.get_driver_name().startswith("prefiq"):
        return _create_engine(url, **options)
    # Our engines' own URLs have no password.
    settings_url = _URL.set(drivername=_URL.get_backend_name(), database=url.database)
    fields = {"pool_size": 5}
    if options.pop("poolclass", None) is StaticPool:
        # For temporary tables, which only the connection that made them has.
        fields = {"pool_size": 1, "max_overflow": 0}
    given = {name: value for name, value in options.items() if (name, value) != ("server_side_cursors", False)}
    if given:
        raise NoSuchOptionError(f"no setting is: {', '.join(sorted(given))}")
    text = settings_url.render_as_string(hide_password=False)
    return AsyncDatabase(text, **fields).engine.sync_engine if _WORLD == "async" else Database(text, **fields).engine


def _prepare() -> None:
    sqlalchemy.create_engine = create_engine
    # SQLAlchemy looks for a dialect's provision.py beside its module.
    for name in ("sqlite", "postgresql", "mysql"):
        importlib.import_module(f"sqlalchemy.dialects.{name}.provision")
    # The second schema is attached to every engine's connections here, not only to the first engine's; and the
    # extensions of PostgreSQL are for tests that are not in the wheel.
    provision.post_configure_engine.for_db("sqlite", "postgresql")(lambda *_: None)
    provision.post_configure_testing_engine.for_db("sqlite")(_attach)
    provision.setup_config = _with_schemas(provision.setup_config)


def _attach(url: Any, engine: Engine, options: Any, scope: str) -> None:
    @event.listens_for(engine, "connect")
    def attach(dbapi_connection: Any, record: Any) -> None:
        dbapi_connection.execute("ATTACH DATABASE 'test_schema.db' AS test_schema")


def _with_schemas(setup: Any) -> Any:
    def setup_config(*arguments: Any) -> Any:
        made = setup(*arguments)
        made.test_schema, made.test_schema_2 = os.environ[SCHEMAS_VARIABLE].split(",")
        return made

    return setup_config


_prepare()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.option.dburi = [os.environ[URL_VARIABLE]]  # not an argument: everybody can read those
    for marker in _MARKERS:
        config.addinivalue_line("markers", f"{marker}: of SQLAlchemy's suite")


# --- what must not be left out unseen ------------------------------------------------------------


def _compare_dialects() -> None:
    """Compare what the requirements ask a dialect: for each "no" of it, tests are left out."""
    engine = _create_engine(plain_url(_URL))
    try:
        engine.connect().close()
        for name in sorted(set(re.findall(r"\.dialect\.(\w+)", inspect.getsource(SuiteRequirements)))):
            plain, ours = getattr(engine.dialect, name, None), getattr(config.db.dialect, name, None)
            if not callable(plain) and plain != ours:
                problems.append(f"the dialect says {name} = {ours}, and SQLAlchemy's says {plain}")
    finally:
        engine.dispose()


# --- the expected differences --------------------------------------------------------------------


def _expected() -> list[Difference]:
    database = _URL.get_backend_name()
    return [
        each for each in differences.DIFFERENCES if _IS_OURS and database in each.databases and _WORLD in each.worlds
    ]


def name_of(item: Any) -> str:
    """Return a test's name without the server's version, which SQLAlchemy writes into it."""
    cls = item.cls
    return f"{getattr(cls, '_sa_orig_cls_name', cls.__name__)}.{item.name}"


def _names_of(item: Any) -> tuple[str, str, str]:
    name = name_of(item)
    return name, name.partition("[")[0], name.partition(".")[0]


class _Collection:
    """Hears what ``-k`` leaves out, which is there all the same."""

    def __init__(self) -> None:
        self.deselected: list[Any] = []

    def pytest_deselected(self, items: list[Any]) -> None:
        self.deselected.extend(items)


_collection: Final = _Collection()


def pytest_plugin_registered(plugin: Any, manager: pytest.PytestPluginManager) -> None:
    if not manager.is_registered(_collection):
        manager.register(_collection)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[Any]) -> None:
    if _IS_OURS:
        asyncio._maybe_async_provisioning(_compare_dialects)
    there = [*items, *_collection.deselected]
    for difference in _expected():
        for listed in difference.tests:
            found = [item for item in there if listed in _names_of(item)]
            if not found:
                problems.append(f"listed, and there is no such test: {listed}")
            for item in found:
                item.stash[_DIFFERENCE] = difference
    left_out = set(_all_but_a_sample(items))
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


def _all_but_a_sample(items: list[Any]) -> list[Any]:
    """Return what a sample leaves out: of each test with many parameters most, and never what is listed by itself."""
    by_test: dict[str, list[Any]] = {}
    for item in items:
        difference = item.stash.get(_DIFFERENCE, None)
        if difference is None or not difference.each:
            by_test.setdefault(_names_of(item)[1], []).append(item)
    many = [same for same in by_test.values() if len(same) > _MANY]
    return [item for same in many for number, item in enumerate(same) if number % _EVERY]


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what lives as long as the run, also at its end."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Iterator[None]:
    difference = item.stash.get(_DIFFERENCE, None)
    if difference is None:
        report: Any = yield
        if report.when == "call" or report.failed:
            endings[report.outcome] += 1
        return report
    error = None if call.excinfo is None else call.excinfo.value
    is_expected = error is not None and not isinstance(error, pytest.skip.Exception) and _says(error, difference.says)
    if is_expected:
        call.excinfo = None  # pytest would draw a traceback that nobody sees: a quarter of the suite's time
    report = yield
    if is_expected:
        report.outcome, report.wasxfail = "skipped", difference.title
    if is_expected or not difference.each:
        _met.setdefault(difference.title, False)
        _met[difference.title] |= is_expected
    if is_expected or report.failed:
        if not item.stash.get(_FAILED, False):
            endings["differed" if is_expected else "failed"] += 1
        item.stash[_FAILED] = True
    elif report.when == "teardown" and not difference.each:
        endings["passed"] += not item.stash.get(_FAILED, False)
    elif report.when == "teardown" and not item.stash.get(_FAILED, False):
        report.outcome = "failed"
        report.longrepr = f"listed under {difference.title!r}, and it passes, or was left out: take it off the list"
        endings["failed"] += 1
    return report


def _says(error: BaseException, text: str) -> bool:
    """Return whether *error*, or what it came from, says *text*: else it fails for another reason than the listed."""
    found: BaseException | None = error
    while found is not None:
        if text in f"{type(found).__name__}: {found}":
            return True
        found = found.__cause__ or found.__context__
    return False


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for problem in problems:
        terminalreporter.write_line(f"PROBLEM {problem}")
    counts = ", ".join(f"{count} {ending}" for ending, count in sorted(endings.items()))
    terminalreporter.write_line(f"dialect suite on {_URL.drivername}, {_WORLD}: {counts}")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    problems.extend(f"listed under {title!r}, and all of them pass" for title, met in _met.items() if not met)
    if problems and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
