"""Servers, backends and worlds for every test.

- ``backend`` runs a test on SQLite, PostgreSQL and MariaDB (``-m sqlite``, ``-m postgresql``, ``-m mariadb``).
- ``world`` runs it sync and async (``-m sync``, ``-m async``).
- ``postgresql_server`` and ``mariadb_server`` start when the first test asks. Don't stop or kill them: other tests use
  them too. ``new_postgresql_server`` and ``new_mariadb_server`` make one for a single test.
- ``async def`` tests run in an event loop of their own; in the sync world without any, see ``twins/harness.py``.
- Temporary files, SQLite's databases and the servers' data lie in memory where there is room, see ``memory.py``.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import inspect
import os
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from prefiq_db.origin import skip_file
from prefiq_db.testing import DatabaseServer, MariaDbServer, PgBouncer, PostgresServer, ServerUnavailableError
from prefiq_db.testing.locate import REQUIRE_VARIABLE
from prefiq_db.testing.servers import SERVERS, is_required
from tests import through
from tests.memory import keep_temporary_files_in_memory
from tests.shared_servers import SharedMariaDb, SharedPostgres
from tests.twins import harness as twins_harness
from tests.twins.harness import Harness, connect_once, drive, make_database, make_harness

_MARKERS = {
    "sqlite": "runs on SQLite",
    "postgresql": "runs on PostgreSQL",
    "mariadb": "runs on MariaDB",
    "mongodb": "runs on MongoDB, or on a stand-in for it",
    "sync": "runs in the sync world",
    "async": "runs in the async world",
    "integration": "belongs to the matrix of databases and worlds (set by itself)",
}
_SERVER_FIXTURES = {
    "postgresql_server": "postgresql",
    "new_postgresql_server": "postgresql",
    "mariadb_server": "mariadb",
    "new_mariadb_server": "mariadb",
    "mongodb_server": "mongodb",
}
# Those of which a single test takes many seconds, or mostly waits; the longest first.
_LONGEST = (
    "tests/integration/test_cost_gates.py",
    "tests/integration/test_dialect_suite.py",
    "tests/docs/test_tutorial.py",
    "tests/integration/test_pytest_plugin.py",
    "tests/chaos/",
    "tests/twins/test_hand_overs.py",
    "tests/docs/test_examples.py",
    "tests/twins/test_exit.py",
    "tests/twins/test_interrupted_blocks.py",
)
# Those of a cluster that runs alone on this machine, see clusters.py: on one worker, so that no other waits for it.
_ALONE = (
    "tests/chaos/test_galera.py",
    "tests/twins/test_galera.py",
    "tests/integration/test_galera_cluster.py",
    "tests/chaos/test_patroni.py",
    "tests/integration/test_patroni_cluster.py",
)
_BACKENDS = ("sqlite", *SERVERS, "mongodb")
_STARTED = pytest.StashKey[list[str]]()


@dataclass(frozen=True, slots=True)
class Backend:
    """An empty database, for one test.

    Attributes:
        name: ``sqlite``, ``postgresql`` or ``mariadb``.
        url: the database's URL.
        server: the server it is on; ``None`` for SQLite.
        front: what the URL leads to: the server itself, or a pooler in front of it; ``None`` for SQLite.
    """

    name: str
    url: str
    server: DatabaseServer | None = None
    front: DatabaseServer | PgBouncer | None = None

    @property
    def direct_url(self) -> str:
        """The URL of the same database at the server itself, also where :attr:`url` leads through a pooler."""
        return self.url if self.server is None else self.server.url(self.url.rpartition("/")[2])


# --- pytest --------------------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    keep_temporary_files_in_memory()
    for name, meaning in _MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")
    config.stash[_STARTED] = []
    gc.disable()  # until all is collected: none of it is garbage, and looking at it takes a quarter of that time
    # The sync world's facade stands between a test and the database; the line that matters is the test's.
    skip_file(twins_harness.__file__)
    _import_own_share(config)


def _import_own_share(config: pytest.Config) -> None:
    """Import this worker's share of the test modules before it collects them all.

    In a fresh clone pytest rewrites the assertions of each module, and keeps the result beside it. Workers that all
    begin with the first module do all of that work, each of them; so every one begins at another place.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    if not worker:
        return
    names = sorted(path.relative_to(config.rootpath) for path in Path(__file__).parent.glob("*/test_*.py"))
    for path in names[int(worker) :: int(os.environ["PYTEST_XDIST_WORKER_COUNT"])]:
        with suppress(Exception):  # pytest reports it when it collects the module
            importlib.import_module(".".join(path.with_suffix("").parts))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """As one of several workers: tell the one who reports which servers were used."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["servers"] = session.config.stash[_STARTED]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    started = node.config.stash[_STARTED]
    started.extend(server for server in getattr(node, "workeroutput", {}).get("servers", ()) if server not in started)


def pytest_report_header() -> list[str]:
    required = ", ".join(name for name in SERVERS if is_required(name)) or "none, so a missing one skips its tests"
    return [
        f"databases: sqlite {sqlite3.sqlite_version}; servers start when needed; {REQUIRE_VARIABLE}: {required}",
        f"temporary files: {tempfile.gettempdir()}",
    ]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    _print_matrix(terminalreporter)
    if started := config.stash[_STARTED]:
        terminalreporter.write_line(f"databases used: sqlite {sqlite3.sqlite_version}, {', '.join(started)}")


def _print_matrix(terminalreporter: Any) -> None:
    """Show how many tests passed on which database in which world, when a run covered some of it."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, ()):
            for backend_name in _BACKENDS:
                if backend_name in getattr(report, "keywords", ()):
                    world_name = next((name for name in ("sync", "async") if name in report.keywords), "either")
                    counts[backend_name, world_name, outcome] += 1
    if not counts:
        return
    terminalreporter.section("matrix")
    worlds = ("sync", "async", "either")
    rows = [("", *worlds)]
    rows += [(name, *(_cell(counts, name, world) for world in worlds)) for name in _BACKENDS]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *cells in rows:
        line = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        terminalreporter.write_line(f"{first:{widths[0]}}  {line}")


def _cell(counts: Counter[tuple[str, str, str]], backend_name: str, world_name: str) -> str:
    parts = [
        f"{counts[backend_name, world_name, outcome]} {outcome}"
        for outcome in ("passed", "failed", "error", "skipped")
        if counts[backend_name, world_name, outcome]
    ]
    return ", ".join(parts) or "-"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the matrix, and begin with the longest tests: a run ends when its last one does."""
    for item in items:
        _mark(item)
    if through.IS_ON:
        through.choose(config, items)
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    items[:] = _longest_first(items, workers)


def _mark(item: pytest.Item) -> None:
    fixtures = set(getattr(item, "fixturenames", ()))
    for fixture, name in _SERVER_FIXTURES.items():
        if fixture in fixtures and "backend" not in fixtures:  # the backend's parameters are marked already
            item.add_marker(name)
    in_matrix = any(item.get_closest_marker(name) for name in ("sqlite", *SERVERS))
    if in_matrix or item.nodeid.startswith(("tests/integration/", "tests/twins/", "tests/chaos/", "tests/mongo/")):
        item.add_marker("integration")


def _longest_first(items: list[pytest.Item], workers: int) -> list[pytest.Item]:
    """Return *items* with the longest at the head of each worker's share; a share is an equal part of the list.

    The clusters that run alone are the head of the first worker's share. Others take from a share's end.
    """
    alone = [item for item in items if item.nodeid.startswith(_ALONE)]
    alone.sort(key=lambda item: next(at for at, name in enumerate(_ALONE) if item.nodeid.startswith(name)))
    kept = [item for item in items if not item.nodeid.startswith(_ALONE)]
    longest = [item for item in kept if item.nodeid.startswith(_LONGEST)]
    longest.sort(key=lambda item: next(at for at, name in enumerate(_LONGEST) if item.nodeid.startswith(name)))
    others = iter([item for item in kept if not item.nodeid.startswith(_LONGEST)])
    rest = max(workers - 1, 1)
    heads = [longest] if workers == 1 else [[], *(longest[number::rest] for number in range(rest))]
    heads[0] = [*alone, *heads[0]]
    ordered: list[pytest.Item] = []
    for worker, head in enumerate(heads):
        end = len(items) * (worker + 1) // workers
        ordered += head
        ordered += islice(others, max(end - len(ordered), 0))
    return ordered


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what lives as long as the run: thousands of tests and their parameters."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run ``async def`` tests: one event loop each, or none at all in the sync world."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    test = pyfuncitem.obj(**arguments)
    if pyfuncitem.funcargs.get("world") == "sync":
        drive(test)
    elif runner := pyfuncitem.funcargs.get("loop_runner"):
        runner.run(test)
    else:
        with asyncio.Runner(debug=False) as runner:
            runner.run(test)
    return True


# --- servers -------------------------------------------------------------------------------------


def _find(kind: type[DatabaseServer]) -> DatabaseServer:
    """Return a server that isn't started yet; skip the test when there is none, or fail when it is required."""
    try:
        return kind.locate()
    except ServerUnavailableError as error:
        reason = str(error)
    name = kind.kind.name
    if is_required(name):
        pytest.fail(f"{REQUIRE_VARIABLE} demands {name}, but there is {reason}", pytrace=False)
    pytest.skip(reason)


def _shared_server(kind: type[DatabaseServer], config: pytest.Config) -> Iterator[DatabaseServer]:
    with _find(kind) as server:
        config.stash[_STARTED].append(f"{server.name} {server.version} ({server.source})")
        yield server


def _server_factory(kind: type[DatabaseServer]) -> Iterator[Callable[..., DatabaseServer]]:
    with ExitStack() as stack:

        def new_server(**options: Any) -> DatabaseServer:
            _find(kind)
            try:
                server = kind(**options)
            except ServerUnavailableError as error:
                reason = str(error)
            else:
                return stack.enter_context(server)
            # There is one by URL or in Docker, but a test of its own life needs the programs.
            pytest.skip(f"needs a private server: {reason}")

        yield new_server


@pytest.fixture(scope="session")
def postgresql_server(pytestconfig: pytest.Config) -> Iterator[DatabaseServer]:
    """A running PostgreSQL that the whole session shares."""
    yield from _shared_server(SharedPostgres, pytestconfig)


@pytest.fixture(scope="session")
def postgresql_pooler(postgresql_server: DatabaseServer) -> Iterator[PgBouncer]:
    """The pooler through which the backend is reached, if ``PREFIQ_THROUGH`` says so."""
    yield from through.pooler(postgresql_server)


@pytest.fixture(scope="session")
def mariadb_server(pytestconfig: pytest.Config) -> Iterator[DatabaseServer]:
    """A running MariaDB that the whole session shares."""
    yield from _shared_server(SharedMariaDb, pytestconfig)


@pytest.fixture(scope="session")
def mongodb_server(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A running MongoDB, or a stand-in that speaks its protocol, see ``mongo/servers.py``."""
    from tests.mongo.servers import NoMongoError, find_server

    try:
        found = find_server(tmp_path_factory.mktemp("mongodb"))
    except NoMongoError as error:
        if is_required("mongodb"):
            pytest.fail(f"{REQUIRE_VARIABLE} demands mongodb, but there is {error}", pytrace=False)
        pytest.skip(str(error))
    with found as server:
        kind = server.name if server.is_real else f"{server.name} STAND-IN (mongoeco), which says"
        pytestconfig.stash[_STARTED].append(f"{kind} {server.version} ({server.source})")
        yield server


@pytest.fixture
def new_postgresql_server() -> Iterator[Callable[..., DatabaseServer]]:
    """Make running private PostgreSQL servers, to be stopped, killed or frozen: ``new_postgresql_server(tls=True)``."""
    yield from _server_factory(PostgresServer)


@pytest.fixture
def new_mariadb_server() -> Iterator[Callable[..., DatabaseServer]]:
    """Make running private MariaDB servers, to be stopped, killed or frozen: ``new_mariadb_server(durable=True)``."""
    yield from _server_factory(MariaDbServer)


# --- backends ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def free_databases() -> dict[str, list[str]]:
    """Empty databases by server, used again and again: making one costs PostgreSQL ten times what emptying it does."""
    return {name: [] for name in SERVERS}


@pytest.fixture(params=[pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("sqlite", *SERVERS)])
def backend(request: pytest.FixtureRequest, free_databases: dict[str, list[str]]) -> Iterator[Backend]:
    """An empty database on each of SQLite, PostgreSQL and MariaDB."""
    name: str = request.param
    if name == "sqlite":
        yield Backend(name, f"sqlite:///{request.getfixturevalue('tmp_path') / 'test.db'}")
        return
    server: DatabaseServer = request.getfixturevalue(f"{name}_server")
    free = free_databases[name]
    database = free.pop() if free else server.create_database()
    front = request.getfixturevalue("postgresql_pooler") if through.IS_ON and name == "postgresql" else server
    yield Backend(name, front.url(database), server, front)
    through.part_with(front, database)
    server.empty_database(database)
    free.append(database)  # not reached when it could not be emptied


@pytest.fixture(params=[pytest.param(world, marks=getattr(pytest.mark, world)) for world in ("sync", "async")])
def world(request: pytest.FixtureRequest) -> str:
    """Sync or async."""
    return str(request.param)


@pytest.fixture
def loop_runner() -> Iterator[asyncio.Runner]:
    """The event loop of this test, shared by its fixtures and its body."""
    with asyncio.Runner(debug=False) as runner:
        yield runner


# --- databases of both worlds --------------------------------------------------------------------


@pytest.fixture
def harness(world: str) -> Harness:
    """Workers and events of this world."""
    return make_harness(world)


@pytest.fixture
def make_db(backend: Backend, world: str, loop_runner: asyncio.Runner) -> Iterator[Callable[..., Any]]:
    """Make databases on the backend: ``make_db(pool_size=1)``. They open at first use and are closed after the test."""
    run = loop_runner.run if world == "async" else drive
    made: list[Any] = []

    def make(**fields: Any) -> Any:
        made.append(make_database(world, backend.url, **fields))
        return made[-1]

    yield make
    checked_out = [database.stats().pool.checked_out for database in made]
    for database in reversed(made):
        run(database.close())
    assert not any(checked_out), f"connections left checked out: {checked_out}"


@pytest.fixture
def db(make_db: Callable[..., Any], world: str, loop_runner: asyncio.Runner) -> Any:
    """A connected database, for each backend and world; its verbs are awaited, see ``twins/harness.py``.

    ``open()`` would make the pool's five connections, of which nearly every test uses one.
    """
    database = make_db()
    (loop_runner.run if world == "async" else drive)(connect_once(database))
    return database
