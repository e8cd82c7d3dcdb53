"""The pytest plugin of prefiq_db: databases for tests. Guide: docs/how-to/testing.md.

It stands beside the package, because pytest imports it at each start: until a test asks for one of its fixtures,
neither prefiq_db nor SQLAlchemy is imported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from prefiq_db import AsyncDatabase, Database
    from prefiq_db.testing.faults import FaultProxy
    from prefiq_db.testing.injection import Injection
    from prefiq_db.testing.isolation.place import Place

_MARKERS = (
    "databases(*names): run the test on each of these: sqlite, postgresql, mariadb",
    "max_statements(n): fail the test if it sends more statements than that on its db",
    "no_n_plus_one(max_repeats=2): fail the test if one line of it sends the same statement more often than that",
    "no_waits: skip the waits between attempts",
)
_FIXTURE = "prefiq_database"
_RECORDS = pytest.StashKey[list[Any]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("prefiq_db").addoption(
        "--prefiq-databases",
        metavar="NAMES",
        help="the databases of the tests that use db: some of sqlite, postgresql, mariadb, separated by commas",
    )
    parser.addini("prefiq_databases", "the same, unless the command line says it", type="args", default=[])
    parser.addini("prefiq_alembic", "the alembic.ini whose history makes the tables of the tests", default="")


def pytest_configure(config: pytest.Config) -> None:
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)


def _names(config: pytest.Config, mark: pytest.Mark | None) -> list[str]:
    """Return the databases of a test: by its marker, the command line, the ini file, or what the environment has."""
    given = config.getoption("--prefiq-databases")
    names = list(mark.args) if mark is not None else []
    names = names or ([name.strip() for name in given.split(",")] if given else list(config.getini("prefiq_databases")))
    names = names or [kind for kind in ("postgresql", "mariadb") if os.environ.get(f"PREFIQ_TEST_{kind.upper()}_URL")]
    for name in names:
        if name not in ("sqlite", "postgresql", "mariadb"):
            raise pytest.UsageError(f"databases: expected some of sqlite, postgresql, mariadb, not {name!r}")
    return names or ["sqlite"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if _FIXTURE in metafunc.fixturenames:
        names = _names(metafunc.config, metafunc.definition.get_closest_marker("databases"))
        ids = names if len(names) > 1 else [pytest.HIDDEN_PARAM]
        metafunc.parametrize(_FIXTURE, names, indirect=True, scope="session", ids=ids)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    waits: Any = nullcontext()
    if item.get_closest_marker("no_waits"):
        from prefiq_db.testing.skipped_waits import no_waits

        waits = no_waits()
    with waits:
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    records = item.stash.get(_RECORDS, [])
    if not records and not any(item.get_closest_marker(name) for name in ("max_statements", "no_n_plus_one")):
        return (yield)
    from prefiq_db.testing.isolation.pytest_support import within_budgets

    with within_budgets(item, records):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    records = item.stash.get(_RECORDS, [])
    if report.failed and records:
        from prefiq_db.testing.isolation.pytest_support import statements_of

        shown = statements_of(records)
        if shown:
            report.sections.append((f"prefiq_db: statements by the end of {report.when}, without values", shown))
    return report


# --- fixtures to override --------------------------------------------------------------------------


@pytest.fixture(scope="session")
def prefiq_migrate(pytestconfig: pytest.Config) -> Callable[[Database], None]:
    """Return a function that makes the tables of the tests, and rows that all of them need: ``migrate(db)``.

    It is called once per session, worker and kind of database. By default it runs the history of the ini option
    ``prefiq_alembic``. Override it in ``conftest.py``.
    """
    ini = str(pytestconfig.getini("prefiq_alembic"))

    def migrate(db: Database) -> None:
        if ini:
            from prefiq_db.testing.isolation.place import run_alembic

            run_alembic(pytestconfig.rootpath / ini, db)

    return migrate


@pytest.fixture(scope="session")
def prefiq_settings() -> dict[str, Any]:
    """Return further settings of the databases: ``{"statement_timeout_seconds": 5}``. Override it."""
    return {}


# --- where the tests run ---------------------------------------------------------------------------


@pytest.fixture(scope="session")
def _prefiq_places() -> Iterator[dict[str, Any]]:
    places: dict[str, Any] = {}
    yield places
    for place in places.values():
        if not isinstance(place, str):
            place.close()


@pytest.fixture(scope="session")
def prefiq_database(
    request: pytest.FixtureRequest,
    _prefiq_places: dict[str, Any],
    prefiq_migrate: Callable[[Database], None],
    prefiq_settings: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Place:
    """Where this worker's tests run on one kind of database: ``name``, ``url``, ``server``."""
    # Without a parameter where db was asked for during the test: request.getfixturevalue("db").
    name: str = getattr(request, "param", None) or _names(request.config, None)[0]
    if name not in _prefiq_places:
        _prefiq_places[name] = _make_place(name, tmp_path_factory.mktemp("prefiq_db"), prefiq_migrate, prefiq_settings)
    place = _prefiq_places[name]
    if isinstance(place, str):
        _be_without(name, place)
    made: Place = place
    return made


def _make_place(name: str, folder: Path, migrate: Callable[[Database], None], fields: dict[str, Any]) -> Any:
    """Return the place, or why there is none."""
    from prefiq_db.testing import ServerUnavailableError
    from prefiq_db.testing.isolation.place import Place

    try:
        return Place(name, folder, migrate, fields)
    except ServerUnavailableError as error:
        return str(error)


def _be_without(name: str, reason: str) -> None:
    from prefiq_db.testing.locate import REQUIRE_VARIABLE, is_required

    if is_required(name):
        pytest.fail(f"{REQUIRE_VARIABLE} demands {name}, but there is {reason}", pytrace=False)
    pytest.skip(reason)


# --- databases -------------------------------------------------------------------------------------


def _check_marker(request: pytest.FixtureRequest, place: Place) -> None:
    """Raise if the test runs elsewhere than its marker says: pytest has not parametrized it."""
    node: pytest.Item = request.node
    mark = node.get_closest_marker("databases")
    if mark is not None and place.name not in mark.args:
        pytest.fail(
            f"databases({', '.join(map(repr, mark.args))}): this test would run on {place.name}, because pytest "
            "doesn't parametrize methods of unittest.TestCase, nor fixtures that are asked for during the test. Use "
            "a plain function or class with db as an argument, or --prefiq-databases",
            pytrace=False,
        )


def _records(request: pytest.FixtureRequest) -> list[Any]:
    node: pytest.Item = request.node
    return node.stash.setdefault(_RECORDS, [])


@pytest.fixture
def db(request: pytest.FixtureRequest, prefiq_database: Place) -> Iterator[Database]:
    """A ``Database`` on which all that the test does is undone, whatever it commits."""
    from prefiq_db.testing.isolation.pytest_support import isolated

    _check_marker(request, prefiq_database)
    with isolated(prefiq_database, _records(request), is_async=False) as database:
        yield database  # type: ignore[misc]  # of the world that was asked for


@pytest.fixture
def async_db(request: pytest.FixtureRequest, prefiq_database: Place) -> Iterator[AsyncDatabase]:
    """An ``AsyncDatabase`` on which all that the test does is undone. It belongs to the loop that uses it first."""
    from prefiq_db.testing.isolation.pytest_support import isolated

    _check_marker(request, prefiq_database)
    with isolated(prefiq_database, _records(request), is_async=True) as database:
        yield database  # type: ignore[misc]  # of the world that was asked for


@pytest.fixture
def committed_url(request: pytest.FixtureRequest, prefiq_database: Place) -> Iterator[str]:
    """The URL of a database of the test's own, a copy of the migrated one: for other processes, and ``fault_proxy``."""
    _check_marker(request, prefiq_database)
    with prefiq_database.copied() as url:
        yield url


@pytest.fixture
def db_committed(request: pytest.FixtureRequest, prefiq_database: Place, committed_url: str) -> Iterator[Database]:
    """A ``Database`` on ``committed_url``, where everything is as in production."""
    from prefiq_db.testing.isolation.pytest_support import committed

    with committed(prefiq_database, committed_url, _records(request), is_async=False) as database:
        yield database  # type: ignore[misc]  # of the world that was asked for


@pytest.fixture
def async_db_committed(
    request: pytest.FixtureRequest, prefiq_database: Place, committed_url: str
) -> Iterator[AsyncDatabase]:
    """An ``AsyncDatabase`` on ``committed_url``, where everything is as in production."""
    from prefiq_db.testing.isolation.pytest_support import committed

    with committed(prefiq_database, committed_url, _records(request), is_async=True) as database:
        yield database  # type: ignore[misc]  # of the world that was asked for


# --- for the application ---------------------------------------------------------------------------


@pytest.fixture
def inject() -> Iterator[Injection]:
    """Return a function: ``inject(db)`` gives *db* to every application that starts in this test."""
    from prefiq_db.testing.injection import Injection

    with Injection() as injection:
        yield injection


@pytest.fixture
def fault_proxy(prefiq_database: Place) -> Iterator[FaultProxy]:
    """A ``FaultProxy`` before the test's server: ``Database(fault_proxy.url(committed_url))`` goes through it."""
    if prefiq_database.server is None:
        pytest.skip(
            "fault_proxy: SQLite has no network to break; @pytest.mark.databases('postgresql') chooses a server"
        )
    from prefiq_db.testing.faults import FaultProxy

    with FaultProxy(prefiq_database.server) as proxy:
        yield proxy
