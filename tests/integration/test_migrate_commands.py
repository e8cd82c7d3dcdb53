"""The commands of ``prefiq_db.migrate`` for a service's own history, limits while they work, and ``at_head``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from prefiq_db import AsyncDatabase, Database
from prefiq_db.engines import make_engine
from prefiq_db.errors import UsageError
from prefiq_db.migrate import VERSION_TABLE, Revisions, at_head, at_head_async
from prefiq_db.migrate.command_line import main
from prefiq_db.settings import DatabaseSettings
from tests.conftest import Backend
from tests.integration.migrate_support import Project, finished

CREATE = "op.create_table('item', sa.Column('sku', sa.String(9), primary_key=True))"
TABLES = """
from sqlalchemy import Column, MetaData, String, Table
metadata = MetaData()
Table("item", metadata, Column("sku", String(9), primary_key=True){more})
"""


@pytest.fixture
def project(backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DB_URL", backend.url)
    assert main(["init", "history"]) == 0
    project = Project(tmp_path, backend)
    project.revision(1, CREATE, "op.drop_table('item')")
    return project


@pytest.fixture
def engine(backend: Backend) -> Iterator[sa.Engine]:
    engine = make_engine(DatabaseSettings(url=backend.url))
    yield engine
    engine.dispose()


def with_metadata(project: Project, more: str = "") -> None:
    """Let the history's env.py follow a metadata with a table ``item`` and *more* columns."""
    env = project.folder / "history" / "env.py"
    text = env.read_text().partition("from prefiq_db")
    env.write_text(f"{text[0]}from prefiq_db.migrate import run\n{TABLES.format(more=more)}\nrun(metadata)\n")


# --- a history of one's own --------------------------------------------------------------------------


def test_init_writes_what_alembic_needs_and_keeps_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "service/history"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "wrote service/history/env.py",
        "wrote service/history/script.py.mako",
        "wrote alembic.ini",
    ]
    assert len((tmp_path / "service/history/env.py").read_text().splitlines()) < 12
    assert main(["init", "service/history"]) == 2
    assert "is empty" in capsys.readouterr().err
    assert main(["init", "other"]) == 0
    assert "kept alembic.ini" in capsys.readouterr().out
    assert main(["new", "-c", "alembic.ini", "first table"]) == 0
    (made,) = (tmp_path / "service/history/versions").glob("*.py")
    assert '"""first table.' in made.read_text()
    assert main(["new", "without a history"]) == 2
    assert main(["up", "-c", "nowhere.ini"]) == 2


def test_both_histories_live_in_one_database(project: Project, engine: sa.Engine) -> None:
    assert main(["up"]) == 0
    assert project("up") == 0
    assert set(sa.inspect(engine).get_table_names()) == {
        "prefiq_commit_token",
        VERSION_TABLE,
        "item",
        "alembic_version",
    }
    assert project("down", "base") == 0
    assert set(sa.inspect(engine).get_table_names()) == {"prefiq_commit_token", VERSION_TABLE}
    assert project("up") == 0
    assert main(["down", "base"]) == 0
    assert set(sa.inspect(engine).get_table_names()) == {"item", "alembic_version"}


def test_a_services_history_never_sees_our_tables(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    with_metadata(project)
    assert main(["up"]) == 0
    assert project("check") == 1
    assert "behind, 1 to apply: 0001" in capsys.readouterr().out
    assert project("up") == 0
    assert project("check") == 0
    assert "at head, and nothing differs" in capsys.readouterr().out


def test_check_names_what_differs_and_new_writes_it(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    with_metadata(project, more=", Column('name', String(40))")
    assert project("up") == 0
    assert project("check") == 1
    assert "name" in capsys.readouterr().out
    assert project("new", "names", "--autogenerate") == 0
    (made,) = (project.folder / "history" / "versions").glob("*names.py")
    assert "add_column" in made.read_text()
    assert "prefiq_" not in made.read_text()
    assert project("up") == 0
    assert project("check") == 0


def test_sql_writes_without_a_database(project: Project, engine: sa.Engine, capsys: pytest.CaptureFixture[str]) -> None:
    assert project("sql") == 0
    out = capsys.readouterr().out
    assert "CREATE TABLE item" in out
    assert ("BEGIN" in out) == (project.backend.name != "mariadb")
    assert project("sql", "--down", "0001:base") == 0
    assert "DROP TABLE item" in capsys.readouterr().out
    assert sa.inspect(engine).get_table_names() == []


def test_every_database_one_after_the_other(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = project.folder / "analytics.db"
    monkeypatch.setenv("DATABASES__ANALYTICS__URL", f"sqlite:///{other}")
    capsys.readouterr()
    assert project("up", "--all") == 0
    assert capsys.readouterr().out == "main: upgraded to 0001\nanalytics: upgraded to 0001\n"
    assert project("status", "--all") == 0
    assert capsys.readouterr().out.splitlines() == [
        "main: alembic_version at 0001 (head)",
        "analytics: alembic_version at 0001 (head)",
    ]
    there = f"sqlite:///{other}"
    code, said = finished(project.start("-x", "db=all", "downgrade", "base", DATABASES__ANALYTICS__URL=there))
    assert code == 0, said
    assert said.count("Running downgrade 0001") == 2


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)  # the settings choose it, not the database
def test_a_history_that_names_its_database_goes_to_no_other(
    project: Project, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever forgets ``--database`` gets the right one, and whoever names another is refused."""
    there = f"sqlite:///{project.folder / 'analytics.db'}"
    monkeypatch.setenv("DATABASES__ANALYTICS__URL", there)
    env = project.folder / "history" / "env.py"
    env.write_text(env.read_text().replace("run(metadata)", "run(metadata, database='analytics')"))
    capsys.readouterr()
    assert project("up") == project("status") == project("up", "--database", "analytics") == 0
    assert capsys.readouterr().out.splitlines() == [
        "analytics: upgraded to 0001",
        "analytics: alembic_version at 0001 (head)",
        "analytics: alembic_version at 0001 (head); nothing was done",
    ]
    for command, *wrong in (("up", "--database", "main"), ("check", "--all"), ("sql", "--database", "main")):
        assert project(command, *wrong) == 2
        assert "database: expected analytics" in capsys.readouterr().err
    code, said = finished(project.start("-x", "db=main", "downgrade", "base", DATABASES__ANALYTICS__URL=there))
    assert code != 0
    assert "database: expected analytics, for which" in said
    assert sa.inspect(engine).get_table_names() == []


def test_wrong_words_are_usage(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert project("up", "--lock-wait", "-1") == 2
    assert "lock_wait: expected seconds, at least 0" in capsys.readouterr().err
    code, said = finished(project.start("-x", "lock_wait=soon", "upgrade", "head"))
    assert code != 0
    assert "-x lock_wait: expected seconds" in said


# --- a table that is in use --------------------------------------------------------------------------


def test_ddl_gives_up_soon_behind_a_long_query(
    project: Project, engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    """And whoever comes after it is served; later the same migration succeeds."""
    assert project("up") == 0
    project.revision(2, "op.add_column('item', sa.Column('qty', sa.Integer))")
    with Database(project.backend.url, lock_timeout_seconds=1) as db:
        with engine.connect() as reader, reader.begin():
            if project.backend.name == "sqlite":
                reader.exec_driver_sql("insert into item values ('A1')")  # readers stop nobody there
            else:
                reader.exec_driver_sql("select * from item").all()
            assert project("up", "--lock-timeout", "0.2") == 1
            assert "code" in capsys.readouterr().err
            assert db.fetch_all("select sku from item") == []
        assert project("status") == 0
    assert project("up", "--lock-timeout", "0.2") == 0
    assert project.version() == ["0002"]


# --- readiness ---------------------------------------------------------------------------------------


def test_at_head_means_both_histories_and_not_behind(project: Project) -> None:
    history = project.folder / "history"
    with Database(project.backend.url) as db:
        report = at_head(db, history)
        assert not report
        assert report.reason.split("; ") == [
            "prefiq_alembic_version is at base, and the code has 0002",
            "alembic_version is at base, and the code has 0001",
        ]
        assert main(["up"]) == 0
        assert at_head(db)
        assert not at_head(db, history)
        assert project("up") == 0
        assert at_head(db, history)
        assert at_head(db, project.ini).reason == ""
        db.execute("update alembic_version set version_num = 'newer'")
        ahead = at_head(db, Revisions(history))
        assert ahead
        assert ahead.histories[1].unknown == ("newer",)
        with pytest.raises(UsageError, match="expected an alembic"):
            at_head(db, project.folder / "nowhere")


async def test_at_head_of_an_async_database(project: Project) -> None:
    async with AsyncDatabase(project.backend.url) as db:
        assert not await at_head_async(db, project.folder / "history")
        with pytest.raises(UsageError, match="at_head_async"):
            at_head(db)  # type: ignore[arg-type]
        async with db.engine.connect() as connection:
            from alembic import command
            from alembic.config import Config

            config = Config(project.ini)

            def upgrade(given: sa.Connection) -> None:
                config.attributes["connection"] = given
                command.upgrade(config, "head")

            await connection.run_sync(upgrade)
        assert (await at_head_async(db, project.folder / "history")).histories[1].missing == ()


def test_behind_names_every_missing_revision(project: Project) -> None:
    assert project("up") == 0
    project.revision(2, "pass")
    project.revision(3, "pass")
    with Database(project.backend.url) as db:
        assert at_head(db, project.folder / "history").histories[1].missing == ("0002", "0003")


def test_when_nothing_is_left_to_do_it_says_so(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    for command, said in (
        (["up"], "main: upgraded to 0001\n"),
        (["up"], "main: alembic_version at 0001 (head); nothing was done\n"),
        (["down", "base"], "main: downgraded to base\n"),
        (["down", "base"], "main: alembic_version at base (behind, 1 to apply: 0001); nothing was done\n"),
    ):
        capsys.readouterr()
        assert main(["-c", "alembic.ini", *command]) == 0
        assert capsys.readouterr().out == said
