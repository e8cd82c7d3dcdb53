"""``bootstrap()`` and ``python -m prefiq_db.bootstrap`` on real databases: what they bind, print and exit with."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import make_url

from prefiq_db.bootstrap import bootstrap, bootstrap_async
from prefiq_db.bootstrap.__main__ import main
from prefiq_db.database import Database
from prefiq_db.database_async import AsyncDatabase
from prefiq_db.errors import AvailabilityError, ErrorKind, ProviderError
from prefiq_db.health import is_healthy, is_healthy_async
from prefiq_db.testing import DatabaseServer
from tests import interpreters
from tests.conftest import Backend
from tests.unit.bad_environments import BAD_ENVIRONMENTS, CANARY

SECRET = "s3cret-of-the-test"


def command(environ: Mapping[str, str], directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m prefiq_db.bootstrap`` with nothing but *environ*; a warning is an error."""
    base = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "SYSTEMROOT") if name in os.environ}
    paths = [each for each in (environ.get("PYTHONPATH"), os.environ.get("PYTHONPATH")) if each]
    base |= {**environ, **({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})}
    return interpreters.run(
        [sys.executable, "-W", "error", "-m", "prefiq_db.bootstrap", *arguments],
        env=base,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that nobody listens on, kept so while the test runs."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


@contextmanager
def _silent() -> Iterator[socket.socket]:
    """A port that accepts connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        listener.setblocking(False)
        yield listener


def _callers_of(listener: socket.socket) -> int:
    """Return how many have connected."""
    count = 0
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


# --- the container ---------------------------------------------------------------------------------


def test_db_is_db_main_and_what_health_checks_ask(backend: Backend, tmp_path: Path) -> None:
    with bootstrap(environ={"DB_URL": backend.url}, directory=tmp_path) as app:
        db = app.resolve("db", Database)
        assert app.resolve("db.main") is db
        assert db.test_connection() is True
        assert is_healthy(app.resolve("db"))
        assert db.fetch_value("select 1") == 1
    assert db.test_connection() is False


async def test_an_async_db_is_open_after_boot(backend: Backend, tmp_path: Path) -> None:
    environ = {"DB_URL": backend.url, "DB_MODE": "async"}
    async with await bootstrap_async(environ=environ, directory=tmp_path) as app:
        db = app.resolve("db", AsyncDatabase)
        assert app.resolve("db.main") is db
        assert await db.test_connection() is True
        assert await is_healthy_async(app.resolve("db"))
        assert await db.fetch_value("select 1") == 1
    assert await db.test_connection() is False


def test_two_applications_have_their_own_pools(backend: Backend, tmp_path: Path) -> None:
    one = bootstrap(environ={"DB_URL": backend.url}, directory=tmp_path)
    two = bootstrap(environ={"DB_URL": backend.url}, directory=tmp_path)
    one.shutdown()
    assert not is_healthy(one.resolve("db"))
    assert is_healthy(two.resolve("db"))
    two.shutdown()


@pytest.mark.parametrize("server_name", ["postgresql", "mariadb"])
def test_a_server_that_dies_after_boot_is_unhealthy_and_comes_back(
    server_name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    new_server: Callable[..., DatabaseServer] = request.getfixturevalue(f"new_{server_name}_server")
    server = new_server()
    environ = {"DB_URL": server.url(), "DB_CONNECT_TIMEOUT_SECONDS": "2"}
    with bootstrap(environ=environ, directory=tmp_path) as app:
        db = app.resolve("db")
        assert db.test_connection() is True
        server.kill()
        assert db.test_connection() is False
        assert not is_healthy(db)
        server.start()
        assert is_healthy(db)


@pytest.mark.parametrize("engine", ["postgres", "mariadb"])
def test_a_server_that_is_down_fails_the_boot_with_its_kind(engine: str, closed_port: int, tmp_path: Path) -> None:
    environ = {"DB_URL": f"{engine}://user:{SECRET}@127.0.0.1:{closed_port}/ledger", "DB_RETRY__ATTEMPTS": "1"}
    with pytest.raises(ProviderError) as caught:
        bootstrap(environ=environ, directory=tmp_path)
    error = caught.value
    assert error.provider == "database"
    assert (error.kind, error.database, error.is_transient) == (ErrorKind.CONNECT_FAILED, "main", True)
    assert isinstance(error.original, AvailabilityError)
    assert error.__cause__ is None
    assert error.__context__ is None
    assert SECRET not in f"{error!r} {error} {vars(error)}"


# --- the command line --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_all_is_well(backend: Backend, mode: str, tmp_path: Path) -> None:
    done = command({"DB_URL": backend.url, "DB_MODE": mode}, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    settings, database, provider = done.stdout.splitlines()
    assert settings == "provider settings: ready"
    assert database.startswith("database main: healthy in ")
    assert database.endswith(f", {mode})")
    assert make_url(backend.url).database in database
    assert (make_url(backend.url).password or "nothing") not in done.stdout
    assert provider == "provider database: ready"


def test_a_bare_environment_is_well(tmp_path: Path) -> None:
    done = command({}, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "database main: healthy" in done.stdout
    assert ", <Database main: sqlite:///app.db> (sqlite, sync)\n" in done.stdout
    assert f"\nwarning: no setting says where database main is, so it is the file {tmp_path}/app.db" in done.stdout


def test_where_an_embedded_database_is_meant_nothing_is_warned_of(tmp_path: Path) -> None:
    """Said, it is; in development it is only told."""
    assert "no setting says" not in command({"DB_URL": "sqlite:///app.db"}, tmp_path).stdout
    lines = command({"PREFIQ_ENV": "dev"}, tmp_path).stdout.splitlines()
    assert any(line.startswith("no setting says where database main is") for line in lines)


def test_what_a_module_can_not_do_is_told(tmp_path: Path) -> None:
    """A module that isn't there, that lacks another one, or that fails: which, and why; no value of it."""
    (tmp_path / "lacking.py").write_text("import not_installed_at_all\n")
    (tmp_path / "failing.py").write_text(f"x = 1\nraise KeyError('{SECRET}')\n")
    for module, code, why in (
        ("nowhere.at.all", 2, "nowhere.at.all can't be imported: there is no module nowhere"),
        ("lacking", 2, "lacking can't be imported: there is no module not_installed_at_all"),
        ("failing", 1, f"failing can't be imported: KeyError at {tmp_path}/failing.py:2"),
    ):
        done = command({}, tmp_path, module)
        assert done.returncode == code
        assert why in done.stderr
        assert SECRET not in done.stdout + done.stderr


def test_why_a_module_can_not_be_imported_has_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where it imports what isn't there, what the other module doesn't have, where it is no Python."""
    (tmp_path / "first_lacking.py").write_text("\nimport not_installed_at_all\n")
    (tmp_path / "first_other.py").write_text("from os import nothing\n")
    (tmp_path / "first_typo.py").write_text("x = 1\nx = = 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    for module, code, why in (
        ("first_lacking", 2, f"no module not_installed_at_all, which is imported at {tmp_path}/first_lacking.py:2;"),
        ("first_other", 1, f"imported: cannot import name 'nothing' from 'os' at {tmp_path}/first_other.py:1"),
        ("first_typo", 1, f"first_typo can't be imported: SyntaxError at {tmp_path}/first_typo.py:2"),
        ("./first_typo.py", 2, "./first_typo.py can't be imported: expected a module's name as in import"),
    ):
        assert main([module]) == code
        assert why in capsys.readouterr().err


@pytest.mark.parametrize(("environment", "level"), [("production", "WARNING"), ("dev", "INFO")])
def test_a_program_hears_that_nothing_says_where_main_is(
    tmp_path: Path, environment: str, level: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO", "prefiq_db.boot")
    bootstrap(environ={"PREFIQ_ENV": environment}, directory=tmp_path).shutdown()
    told = [record.levelname for record in caplog.records if "no setting says" in record.message]
    assert told == [level]
    caplog.clear()
    bootstrap(environ={"PREFIQ_ENV": environment, "DB_NAME": "app.db"}, directory=tmp_path).shutdown()
    assert "no setting says" not in caplog.text


def test_every_database_is_reported_not_only_the_first(backend: Backend, tmp_path: Path, closed_port: int) -> None:
    environ = {
        "DB_URL": f"postgres://user:{SECRET}@127.0.0.1:{closed_port}/ledger",
        "DATABASES__ANALYTICS__URL": backend.url,
        "DATABASES__ARCHIVE__URL": f"mariadb://user:{SECRET}@127.0.0.1:{closed_port}/archive",
        "DATABASES__ARCHIVE__MODE": "async",
    }
    done = command(environ, tmp_path)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert any(line.startswith("database main: down: ") for line in lines)
    assert any(line.startswith("database analytics: healthy") for line in lines)
    assert any(line.startswith("database archive: down: ") for line in lines)
    assert lines[-1] == "provider database: failed"
    assert "provider 'database' failed to boot" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("engine", ["postgres", "mariadb"])
def test_a_server_that_is_down_is_told_with_the_reason(
    engine: str, mode: str, tmp_path: Path, closed_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    environ = {"DB_URL": f"{engine}://user:{SECRET}@127.0.0.1:{closed_port}/ledger", "DB_MODE": mode}
    environ["DB_CONNECT_TIMEOUT_SECONDS"] = "100"  # nobody listens, so nobody is waited for
    assert main([], environ=environ, directory=tmp_path) == 1
    output = capsys.readouterr()
    assert "database main: down: " in output.out
    assert output.err.startswith("provider 'database' failed to boot: ")
    assert "Traceback" not in output.out + output.err
    assert SECRET not in output.out + output.err


@pytest.mark.parametrize(
    ("engine", "mode"),
    [
        ("postgres", "sync"),
        ("postgres", "async"),
        ("mariadb", "sync"),
        ("mariadb", "async"),
    ],
)
def test_a_silent_server_gets_one_attempt_within_the_connect_timeout(
    engine: str, mode: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with _silent() as listener:
        environ = {
            "DB_URL": f"{engine}://user:{SECRET}@127.0.0.1:{listener.getsockname()[1]}/ledger",
            "DB_MODE": mode,
            "DB_CONNECT_TIMEOUT_SECONDS": "2",
            "DB_STATEMENT_TIMEOUT_SECONDS": "1",
        }
        assert main([], environ=environ, directory=tmp_path) == 1
        assert _callers_of(listener) == 1
    assert "database main: down: " in capsys.readouterr().out


@pytest.mark.parametrize("server_name", ["postgresql", "mariadb"])
def test_a_wrong_password_is_told_without_it(
    server_name: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server: DatabaseServer = request.getfixturevalue(f"{server_name}_server")
    scheme, _, place = server.url().partition("://")
    user, _, host = place.partition("@")
    url = f"{scheme}://{user.partition(':')[0]}:{SECRET}@{host}"
    assert main([], environ={"DB_URL": url}, directory=tmp_path) == 1
    output = capsys.readouterr()
    assert SECRET not in output.out + output.err
    assert "database main: down: " in output.out


@pytest.mark.parametrize(("environ", "named"), BAD_ENVIRONMENTS.values(), ids=BAD_ENVIRONMENTS)
def test_a_bad_environment_is_told_in_full(
    environ: dict[str, str],
    named: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([], environ=environ) == 2
    output = capsys.readouterr()
    assert output.out == ""
    for variable in named:
        assert variable in output.err
    assert CANARY not in output.err
    assert "Traceback" not in output.err


@pytest.mark.parametrize("name", ["engine oracle", "port in words", "URL with a raw @ in the password"])
def test_a_bad_environment_in_a_process_of_its_own(name: str, tmp_path: Path) -> None:
    environ, named = BAD_ENVIRONMENTS[name]
    done = command(environ, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert all(variable in done.stderr for variable in named)
    assert "Traceback" not in done.stderr
    assert CANARY not in done.stderr


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    done = command({"DB_ENGINE": "oracle", "DB_PORT": "high", "DB_POOL_SIZE": "-1"}, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    for variable in ("DB_ENGINE", "DB_PORT", "DB_POOL_SIZE"):
        assert variable in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unexpected_exception_is_told_by_its_type(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(f"raise LookupError({SECRET!r})\n")
    done = command({"PYTHONPATH": str(tmp_path)}, tmp_path, "broken")
    told = f"broken can't be imported: LookupError at {tmp_path}/broken.py:1\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", told)


def test_providers_of_a_named_module_are_booted_and_reported(tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(
        "from pydantic import BaseModel\n"
        "from prefiq_db.providers import BaseProvider, register_provider\n"
        "class MailSettings(BaseModel):\n"
        "    port: int\n"
        "@register_provider\n"
        "class Mail(BaseProvider):\n"
        "    requires = ('db',)\n"
        "    schema_namespace = 'mail'\n"
        "    schema_model = MailSettings\n"
        "    def boot(self):\n"
        "        if self.settings.port == 1:\n"
        "            raise OSError('a value')\n"
        "@register_provider\n"
        "class Last(BaseProvider):\n"
        "    requires = ('mail',)\n"
    )
    done = command({"PYTHONPATH": str(tmp_path), "MAIL_PORT": "25"}, tmp_path, "service")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-2:] == ["provider mail: ready", "provider last: ready"]
    done = command({"PYTHONPATH": str(tmp_path), "MAIL_PORT": "1"}, tmp_path, "service")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-2:] == ["provider mail: failed", "provider last: not started"]
    assert done.stderr == "provider 'mail' failed to boot: OSError at service.py:12, in boot\n"
    done = command({"PYTHONPATH": str(tmp_path)}, tmp_path, "service")
    assert done.returncode == 2
    assert "MAIL_PORT" in done.stderr


@pytest.mark.parametrize(("engine", "extra"), [("postgres", "postgres"), ("mariadb", "mariadb")])
def test_a_missing_driver_is_told_with_its_extra(engine: str, extra: str, tmp_path: Path) -> None:
    (tmp_path / "without_drivers.py").write_text(
        "import sys\nsys.modules.update(psycopg=None, pymysql=None, asyncmy=None)\n"
    )
    done = command({"PYTHONPATH": str(tmp_path), "DB_ENGINE": engine}, tmp_path, "without_drivers")
    assert done.returncode == 2
    assert f"prefiq-db[{extra}]" in done.stderr
    assert "Traceback" not in done.stderr
