"""The shipped migrations: up and down on every database, from a checkout and from an installed wheel."""

from __future__ import annotations

import datetime as dt
import fcntl
import os
import socket
import subprocess
import sys
import sysconfig
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from prefiq_db.engines import make_engine
from prefiq_db.errors import SchemaError
from prefiq_db.migrate import VERSION_TABLE, migrations_directory
from prefiq_db.migrate.command_line import alembic_config, main
from prefiq_db.settings import DatabaseSettings
from prefiq_db.testing import DatabaseServer
from prefiq_db.types import UtcDateTime
from tests import interpreters
from tests.conftest import Backend

ROOT = Path(__file__).parents[2]
TOKENS = "prefiq_commit_token"


@pytest.fixture
def engine(backend: Backend) -> Iterator[sa.Engine]:
    engine = make_engine(DatabaseSettings(url=backend.url))
    yield engine
    engine.dispose()


@pytest.fixture
def configured(backend: Backend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Backend:
    """The backend as the environment's ``main`` database, in an empty working directory."""
    monkeypatch.setenv("DB_URL", backend.url)
    monkeypatch.chdir(tmp_path)
    return backend


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that nobody listens on, kept so while the test runs."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


def tables(engine: sa.Engine) -> set[str]:
    return set(sa.inspect(engine).get_table_names())


def run(arguments: list[str], directory: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    base = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "SYSTEMROOT") if name in os.environ}
    return interpreters.run(
        arguments, env={**base, **environ}, cwd=directory, capture_output=True, text=True, timeout=90, check=False
    )


# --- what the revision makes -------------------------------------------------------------------------


def test_up_and_down_and_up_again_leaves_no_trace(configured: Backend, engine: sa.Engine) -> None:
    for _ in range(2):
        assert main(["upgrade", "head"]) == 0
        assert tables(engine) == {TOKENS, VERSION_TABLE}
        assert main(["downgrade", "base"]) == 0
        assert tables(engine) == set()


def test_upgrading_twice_changes_nothing(configured: Backend, engine: sa.Engine) -> None:
    assert main(["upgrade", "head"]) == 0
    assert main(["upgrade", "head"]) == 0
    assert tables(engine) == {TOKENS, VERSION_TABLE}


def test_a_token_is_unique_and_gets_the_servers_time_in_utc(configured: Backend, engine: sa.Engine) -> None:
    assert main(["upgrade", "head"]) == 0
    token = str(uuid.uuid4())
    insert = sa.text(f"insert into {TOKENS} (token, written_as) values (:token, 'work')")
    read = sa.select(sa.column("token"), sa.column("created_at", UtcDateTime)).select_from(sa.table(TOKENS))
    before = dt.datetime.now(dt.UTC)
    with engine.begin() as connection:
        connection.execute(insert, {"token": token})
    with engine.begin() as connection:
        (row,) = connection.execute(read).all()
    assert row.token == token
    assert abs((row.created_at - before).total_seconds()) < 5
    with pytest.raises(sa.exc.IntegrityError), engine.begin() as connection:
        connection.execute(insert, {"token": token})
    with engine.begin() as connection:  # bytes are compared, not letters
        connection.execute(insert, {"token": token.upper()})


def test_times_have_a_fraction_and_are_found_by_an_index(configured: Backend, engine: sa.Engine) -> None:
    assert main(["upgrade", "head"]) == 0
    insert = sa.text(f"insert into {TOKENS} (token, written_as) values (:token, 'abandoned')")
    for _ in range(5):
        with engine.begin() as connection:
            connection.execute(insert, {"token": str(uuid.uuid4())})
    created_at = sa.column("created_at", UtcDateTime)
    read = sa.select(created_at).select_from(sa.table(TOKENS))
    with engine.begin() as connection:
        assert any(moment.microsecond for moment in connection.scalars(read))
        later = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=1)
        assert len(connection.scalars(read.where(created_at < later)).all()) == 5
        assert connection.scalars(read.where(created_at > later)).all() == []
    assert ["created_at"] in [index["column_names"] for index in sa.inspect(engine).get_indexes(TOKENS)]


def test_mariadb_keeps_tokens_in_innodb_as_bytes(
    mariadb_server: DatabaseServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    database = mariadb_server.create_database()
    monkeypatch.setenv("DB_URL", mariadb_server.url(database))
    monkeypatch.chdir(tmp_path)
    assert main(["upgrade", "head"]) == 0
    ((_, ddl),) = mariadb_server.execute(f"show create table {TOKENS}", database)
    mariadb_server.drop_database(database)
    assert "ENGINE=InnoDB" in ddl
    assert "`token` char(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL" in ddl
    assert "datetime(6)" in ddl


def test_a_service_keeps_its_own_version_table(configured: Backend, engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("create table alembic_version (version_num varchar(32) not null)")
        connection.exec_driver_sql("insert into alembic_version values ('abc123')")
    assert main(["upgrade", "head"]) == 0
    assert main(["downgrade", "base"]) == 0
    with engine.begin() as connection:
        assert connection.exec_driver_sql("select version_num from alembic_version").scalar() == "abc123"


def test_a_failing_revision_leaves_nothing_where_the_server_can_undo(
    configured: Backend, engine: sa.Engine, tmp_path: Path
) -> None:
    folder = tmp_path / "failing"
    (folder / "versions").mkdir(parents=True)
    (folder / "env.py").write_text((migrations_directory() / "env.py").read_text())
    (folder / "versions" / "0001_fails.py").write_text(
        "from alembic import op\n"
        "revision, down_revision = '0001', None\n"
        "def upgrade():\n"
        "    op.execute('create table half (id integer)')\n"
        "    op.execute('create table half (id integer)')\n"
    )
    config = alembic_config()
    config.set_main_option("script_location", str(folder))
    with pytest.raises(SchemaError) as caught:
        command.upgrade(config, "head")
    assert caught.value.__context__ is None
    # MariaDB commits at each DDL statement, and nothing can be done about it here.
    assert ("half" in tables(engine)) == (configured.name == "mariadb")


def test_an_open_connection_can_be_given(configured: Backend, engine: sa.Engine) -> None:
    config = alembic_config()
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    assert tables(engine) == {TOKENS, VERSION_TABLE}


# --- the command lines -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_alembic_upgrade_head_in_a_checkout(backend: Backend, engine: sa.Engine, mode: str) -> None:
    alembic = str(Path(sysconfig.get_path("scripts")) / "alembic")
    environ = {"DB_URL": backend.url, "DB_MODE": mode}
    done = run([alembic, "upgrade", "head"], ROOT, **environ)
    assert done.returncode == 0, done.stderr
    assert "Running upgrade  -> 0001" in done.stderr
    assert tables(engine) == {TOKENS, VERSION_TABLE}
    done = run([alembic, "current", "--check-heads"], ROOT, **environ)
    assert (done.returncode, done.stdout) == (0, "0002 (head)\n")
    with engine.begin() as connection:
        connection.execute(sa.text("create table somebody_elses (id integer)"))
    done = run([alembic, "check"], ROOT, **environ)
    assert (done.returncode, done.stdout) == (0, "No new upgrade operations detected.\n"), done.stderr
    with engine.begin() as connection:
        connection.execute(sa.text("drop table somebody_elses"))
    done = run([alembic, "downgrade", "base"], ROOT, **environ)
    assert done.returncode == 0, done.stderr
    assert tables(engine) == set()


def test_alembic_on_another_database(backend: Backend, engine: sa.Engine, tmp_path: Path) -> None:
    alembic = str(Path(sysconfig.get_path("scripts")) / "alembic")
    environ = {"DB_URL": f"sqlite:///{tmp_path / 'main.db'}", "DATABASES__ANALYTICS__URL": backend.url}
    done = run([alembic, "-x", "db=analytics", "upgrade", "head"], ROOT, **environ)
    assert done.returncode == 0, done.stderr
    assert tables(engine) == {TOKENS, VERSION_TABLE}
    assert not (tmp_path / "main.db").exists()
    done = run([alembic, "-x", "db=nobody", "upgrade", "head"], ROOT, **environ)
    assert done.returncode != 0
    assert "choose one of: main, analytics" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_alembic_writes_sql_without_a_database(backend: Backend, engine: sa.Engine) -> None:
    alembic = str(Path(sysconfig.get_path("scripts")) / "alembic")
    done = run([alembic, "upgrade", "head", "--sql"], ROOT, DB_URL=backend.url)
    assert done.returncode == 0, done.stderr
    assert f"CREATE TABLE {TOKENS}" in done.stdout
    assert tables(engine) == set()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_python_m_upgrade_head(backend: Backend, engine: sa.Engine, mode: str, tmp_path: Path) -> None:
    python = [sys.executable, "-W", "error", "-m", "prefiq_db.migrate"]
    environ = {"DB_URL": backend.url, "DB_MODE": mode}
    done = run([*python, "upgrade", "head"], tmp_path, **environ)
    assert (done.returncode, done.stdout, done.stderr) == (0, "main: upgraded to 0001\nmain: upgraded to 0002\n", "")
    assert tables(engine) == {TOKENS, VERSION_TABLE}
    done = run([*python, "downgrade", "-1"], tmp_path, **environ)
    assert (done.returncode, done.stdout, done.stderr) == (0, "main: downgraded to 0001\n", "")
    done = run([*python, "downgrade", "base"], tmp_path, **environ)
    assert (done.returncode, done.stdout, done.stderr) == (0, "main: downgraded to base\n", "")
    assert tables(engine) == set()


def test_current_heads_and_history(configured: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["current"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["upgrade", "head"]) == 0
    capsys.readouterr()
    assert main(["current"]) == 0
    assert capsys.readouterr().out == "0002 (head)\n"
    assert main(["heads"]) == 0
    assert capsys.readouterr().out == "0002 (head)\n"
    assert main(["history"]) == 0
    assert capsys.readouterr().out.startswith("0001 -> 0002 (head), prefiq_commit_token.session")


def test_another_database_by_name(
    configured: Backend,
    engine: sa.Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DB_URL", f"sqlite:///{tmp_path / 'main.db'}")
    monkeypatch.setenv("DATABASES__ANALYTICS__URL", configured.url)
    assert main(["upgrade", "head", "--database", "analytics"]) == 0
    assert capsys.readouterr().out == "analytics: upgraded to 0001\nanalytics: upgraded to 0002\n"
    assert tables(engine) == {TOKENS, VERSION_TABLE}
    assert not (tmp_path / "main.db").exists()


def test_exit_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], closed_port: int
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["upgrade", "nowhere"]) == 1
    assert "nowhere" in capsys.readouterr().err
    assert main(["upgrade", "head", "--database", "nobody"]) == 2
    assert "databases.nobody" in capsys.readouterr().err
    monkeypatch.setenv("DB_ENGINE", "oracle")
    assert main(["upgrade", "head"]) == 2
    assert "DB_ENGINE" in capsys.readouterr().err
    monkeypatch.delenv("DB_ENGINE")
    for engine in ("postgres", "mariadb"):
        monkeypatch.setenv("DB_URL", f"{engine}://user:s3cret-of-the-test@127.0.0.1:{closed_port}/ledger")
        assert main(["upgrade", "head"]) == 1
        output = capsys.readouterr()
        assert output.err
        assert "unexpected" not in output.err
        assert "s3cret-of-the-test" not in output.err + output.out
    with pytest.raises(SystemExit) as caught:
        main(["sideways"])
    assert caught.value.code == 2


# --- where the migrations are ------------------------------------------------------------------------


def test_a_checkout_has_them_at_the_top() -> None:
    assert migrations_directory() == ROOT / "migrations"
    assert Config(ROOT / "alembic.ini").get_main_option("script_location") == str(ROOT / "migrations")


@pytest.fixture(scope="session")
def installed_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, installed alone into a directory: by the first worker that needs it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "wheel"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            _install_wheel(folder)
            (folder / "ready").touch()
    return folder / "site"


def _install_wheel(folder: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=90)
    (wheel,) = folder.glob("*.whl")
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".pyc")]
    target = ["--target", str(folder / "site")]
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", *target, str(wheel)]
    subprocess.run(pip, check=True, capture_output=True, timeout=90)


def test_a_wheel_carries_its_own(backend: Backend, engine: sa.Engine, installed_wheel: Path, tmp_path: Path) -> None:
    environ = {"DB_URL": backend.url, "PYTHONPATH": str(installed_wheel)}
    ask = "from prefiq_db.migrate import migrations_directory as d; print(d())"
    where = Path(run([sys.executable, "-c", ask], tmp_path, **environ).stdout.strip())
    assert where == installed_wheel.resolve() / "prefiq_db" / "_migrations"
    done = run([sys.executable, "-W", "error", "-m", "prefiq_db.migrate", "upgrade", "head"], tmp_path, **environ)
    assert (done.returncode, done.stdout, done.stderr) == (0, "main: upgraded to 0001\nmain: upgraded to 0002\n", "")
    assert tables(engine) == {TOKENS, VERSION_TABLE}
    assert (installed_wheel / "prefiq_db" / "docs" / "settings.md").is_file(), "errors point to it"
    assert (installed_wheel / "prefiq_db" / "docs" / "dashboards" / "alerts.yaml").is_file(), "pool-sizing.md says so"


def test_a_wheel_has_the_heads_of_the_checkout_and_writes_a_history(installed_wheel: Path, tmp_path: Path) -> None:
    environ = {"PYTHONPATH": str(installed_wheel)}
    python = [sys.executable, "-W", "error", "-m", "prefiq_db.migrate"]
    heads = run([*python, "heads"], tmp_path, **environ).stdout
    assert heads == run([*python, "heads"], ROOT).stdout == "0002 (head)\n"
    assert run([*python, "init", "history"], tmp_path, **environ).returncode == 0
    done = run([*python, "-c", "alembic.ini", "up"], tmp_path, **environ)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_folder_that_is_not_there_is_named_as_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DB_URL", "sqlite:///nowhere/app.db")
    assert main(["upgrade", "head"]) == 1
    assert "its folder must exist" in capsys.readouterr().err
