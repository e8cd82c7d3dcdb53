"""A revision that stops half-way: undone where the database can, else found, explained and finished."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefiq_db.migrate import LOG_TABLE
from prefiq_db.migrate.command_line import main
from prefiq_db.testing import DatabaseServer
from prefiq_db.testing.processes import wait_until
from tests.conftest import Backend
from tests.integration.migrate_support import HERE, Project, finished, wait_for_here

FIRST = "op.create_table('item', sa.Column('sku', sa.String(9), primary_key=True))"
BREAKS = """
op.create_table('shelf', sa.Column('id', sa.Integer, primary_key=True, autoincrement=False))
op.execute("insert into shelf values (7)")
op.create_index('ix_shelf', 'shelf', ['id'])
op.execute("insert into shelf values (8)")
op.execute("alter table nowhere add column secret varchar(9) default 's3cret'")
"""
MENDED = BREAKS.replace("nowhere", "shelf")


@pytest.fixture
def project(backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return make_project(backend, tmp_path, monkeypatch)


@pytest.fixture
def on_mariadb(mariadb_server: DatabaseServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    database = mariadb_server.create_database()
    return make_project(Backend("mariadb", mariadb_server.url(database), mariadb_server), tmp_path, monkeypatch)


def make_project(backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DB_URL", backend.url)
    assert main(["init", "history"]) == 0
    project = Project(tmp_path, backend)
    project.revision(1, FIRST)
    return project


def tables(project: Project) -> set[str]:
    sql = {
        "sqlite": "select name from sqlite_master where type = 'table'",
        "postgresql": "select tablename from pg_tables where schemaname = current_schema()",
        "mariadb": "select table_name from information_schema.tables where table_schema = database()",
    }
    return {str(name) for (name,) in project.rows(sql[project.backend.name])}


def test_a_failing_revision_is_undone_or_stops_the_next_run_until_resumed(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.revision(2, BREAKS)
    assert project("up") == 1
    said = capsys.readouterr().err
    assert "revision 0002, up, statement 5: alter table nowhere add column secret varchar(?) default ?\n" in said
    assert "s3cret" not in said
    assert project.version() == ["0001"]
    if project.backend.name != "mariadb":
        assert tables(project) == {"item", "alembic_version"}
        project.revision(2, MENDED)
        assert project("up") == 0
        assert project.rows("select id from shelf order by id") == [(7,), (8,)]
        return
    assert tables(project) == {"item", "shelf", "alembic_version", LOG_TABLE}
    project.revision(2, MENDED)
    assert project("up") == 1
    said = capsys.readouterr().err
    assert "revision 0002 stopped half-way up, and MariaDB commits each DDL statement by itself" in said
    assert "  1. applied: CREATE TABLE shelf" in said
    assert "  2. applied: insert into shelf values (?)\n  3. applied: CREATE INDEX ix_shelf" in said
    assert "  4. applied: insert into shelf values (?)\n  5. failed (schema, code 1146), not applied: alter" in said
    assert "go on at statement 5: add --resume" in said
    assert "stamp 0002" in said
    assert project("status") == 1
    assert "  3. applied: CREATE INDEX ix_shelf" in capsys.readouterr().out
    assert project("down") == 1
    assert "stopped half-way" in capsys.readouterr().err
    assert project("up", "--resume") == 0
    assert capsys.readouterr().out == "main: upgraded to 0002\n"
    assert project.version() == ["0002"]
    assert project.rows("select id from shelf order by id") == [(7,), (8,)]
    assert tables(project) == {"item", "shelf", "alembic_version"}
    assert project("status") == 0


def test_the_alembic_command_explains_and_resumes_as_well(on_mariadb: Project) -> None:
    on_mariadb.revision(2, BREAKS)
    assert finished(on_mariadb.start("upgrade", "head"))[0] != 0
    on_mariadb.revision(2, MENDED)
    code, said = finished(on_mariadb.start("upgrade", "head"))
    assert code != 0
    assert "revision 0002 stopped half-way up" in said
    assert "-x resume=yes" in said
    assert "Traceback" not in said
    code, said = finished(on_mariadb.start("-x", "resume=yes", "upgrade", "head"))
    assert code == 0, said
    assert on_mariadb.rows("select id from shelf order by id") == [(7,), (8,)]


def test_what_is_applied_may_not_change_before_it_is_resumed(
    on_mariadb: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    on_mariadb.revision(2, BREAKS)
    assert on_mariadb("up") == 1
    on_mariadb.revision(2, MENDED.replace("shelf", "rack"))
    assert on_mariadb("up", "--resume") == 1
    said = capsys.readouterr().err
    assert "its statement 1 is applied as\n    CREATE TABLE shelf" in said
    assert "and reads now\n    CREATE TABLE rack" in said
    on_mariadb.revision(2, MENDED)
    assert on_mariadb("up", "--resume") == 0


def test_a_first_statement_that_fails_leaves_nothing_to_resume(on_mariadb: Project) -> None:
    on_mariadb.revision(2, "op.execute('alter table nowhere add column a integer')")
    assert on_mariadb("up") == 1
    assert tables(on_mariadb) == {"item", "alembic_version"}
    on_mariadb.revision(2, "op.execute('alter table item add column a integer')")
    assert on_mariadb("up") == 0


def test_a_revision_without_ddl_is_all_or_nothing_everywhere(project: Project) -> None:
    project.revision(2, "op.execute(\"insert into item values ('A1')\"); op.execute('insert into nowhere values (1)')")
    assert project("up") == 1
    assert project.rows("select * from item") == []
    assert tables(project) == {"item", "alembic_version"}
    project.revision(2, "op.execute(\"insert into item values ('A1')\")")
    assert project("up") == 0


def test_what_a_rollback_undid_is_not_taken_for_applied(
    on_mariadb: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows written after the last DDL statement go with the failure, so they are written again."""
    create = "op.create_table('shelf', sa.Column('id', sa.Integer, primary_key=True))\n"
    insert = "op.execute('insert into shelf values (7)')\n"
    on_mariadb.revision(2, f"{create}{insert}op.execute('insert into shelf values (7)')")
    assert on_mariadb("up") == 1
    assert on_mariadb("up") == 1
    said = capsys.readouterr().err
    assert "  1. applied: CREATE TABLE shelf" in said
    assert "  2." not in said
    on_mariadb.revision(2, f"{create}{insert}")
    assert on_mariadb("up", "--resume") == 0
    assert on_mariadb.rows("select id from shelf") == [(7,)]


def test_an_error_of_the_revisions_own_code_is_found_as_well(
    on_mariadb: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    create = "op.create_table('shelf', sa.Column('id', sa.Integer))"
    on_mariadb.revision(2, f"{create}\nraise RuntimeError('s3cret')")
    assert on_mariadb("up") == 1
    said = capsys.readouterr().err
    assert "unexpected RuntimeError in upgrade() at" in said
    assert "s3cret" not in said
    assert on_mariadb("up") == 1
    assert "  1. applied: CREATE TABLE shelf" in capsys.readouterr().err
    on_mariadb.revision(2, create)
    assert on_mariadb("up", "--resume") == 0


def test_statements_through_the_bind_are_recorded_too(on_mariadb: Project) -> None:
    through = "bind = op.get_bind()\nbind.exec_driver_sql('create table shelf (id integer)')\n"
    insert = "bind.execute(sa.text('insert into shelf values (:id)'), [{'id': 7}, {'id': 8}])\n"
    fails = "op.execute('create index ix on nowhere (id)')"
    on_mariadb.revision(2, f"{through}{insert}op.execute('create table rack (id integer)')\n{fails}")
    assert on_mariadb("up") == 1
    on_mariadb.revision(2, f"{through}{insert}op.execute('create table rack (id integer)')")
    assert on_mariadb("up", "--resume") == 0
    assert on_mariadb.rows("select id from shelf order by id") == [(7,), (8,)]


def test_a_downgrade_is_resumed_likewise(on_mariadb: Project, capsys: pytest.CaptureFixture[str]) -> None:
    on_mariadb.revision(2, MENDED, "op.drop_index('ix_shelf', 'shelf')\nop.execute('drop table nowhere')")
    assert on_mariadb("up") == 0
    assert on_mariadb("down") == 1
    assert on_mariadb("up", "--resume") == 1
    assert "does not lead down through revision 0002" in capsys.readouterr().err
    on_mariadb.revision(2, MENDED, "op.drop_index('ix_shelf', 'shelf')\nop.execute('drop table shelf')")
    assert on_mariadb("down", "--resume") == 0
    assert tables(on_mariadb) == {"item", "alembic_version"}


@pytest.mark.parametrize("by", ["stamp", "alembic"])
def test_a_stamp_ends_it(on_mariadb: Project, by: str) -> None:
    on_mariadb.revision(2, BREAKS)
    assert on_mariadb("up") == 1
    on_mariadb.rows("drop table shelf") if by == "alembic" else None
    if by == "stamp":
        assert on_mariadb("stamp", "0002") == 0
        assert on_mariadb.version() == ["0002"]
    else:
        code, said = finished(on_mariadb.start("stamp", "0001"))
        assert code == 0, said
        assert on_mariadb.version() == ["0001"]
        on_mariadb.revision(2, MENDED)
    assert on_mariadb("up") == 0
    assert LOG_TABLE not in tables(on_mariadb)


# --- killed ------------------------------------------------------------------------------------------


def test_killed_between_two_statements(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.revision(2, f"op.create_table('shelf', sa.Column('id', sa.Integer))\n{HERE}\n")
    process = project.start("upgrade", "head")
    wait_for_here(process)
    process.kill()
    process.communicate()
    rest = "op.create_table('rack', sa.Column('id', sa.Integer))"
    project.revision(2, f"op.create_table('shelf', sa.Column('id', sa.Integer))\n{rest}")
    if project.backend.name == "mariadb":
        assert project("up") == 1
        assert "  1. applied: CREATE TABLE shelf" in capsys.readouterr().err
        assert project("up", "--resume") == 0
    else:
        assert project("up") == 0
    assert tables(project) == {"item", "shelf", "rack", "alembic_version"}


def test_killed_in_a_statement_nobody_can_tell_on_mariadb(
    on_mariadb: Project, mariadb_server: DatabaseServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """The orphan of a killed client goes on at the server, so it keeps the lock; then the log says unknown."""
    import pymysql

    on_mariadb.revision(
        2, "op.create_table('shelf', sa.Column('id', sa.Integer))\nop.execute('alter table item add a int')"
    )
    assert on_mariadb("up", "0001") == 0
    url = on_mariadb.backend.url
    database = url.rpartition("/")[2]
    reader = pymysql.connect(
        host="127.0.0.1",
        port=mariadb_server.port,
        user=mariadb_server.user,
        password=url.split("@")[0].rpartition(":")[2],
        database=database,
    )
    reader.cursor().execute("select * from item")  # its transaction stays open, so ALTER TABLE waits
    process = on_mariadb.start("-x", "lock_timeout=60", "upgrade", "head")
    waiting = (
        f"select id from information_schema.processlist where db = '{database}' and state like 'Waiting for table%'"
    )
    assert wait_until(lambda: bool(mariadb_server.execute(waiting)), timeout_seconds=30)
    process.kill()
    process.communicate()
    assert on_mariadb("up", "--lock-wait", "0") == 1
    ((orphan,),) = mariadb_server.execute(waiting)
    assert f"held by connection {orphan}" in capsys.readouterr().err
    mariadb_server.execute(f"kill {orphan}")
    reader.close()

    assert on_mariadb("up") == 1
    said = capsys.readouterr().err
    assert "  1. applied: CREATE TABLE shelf" in said
    assert "  2. UNKNOWN: the process or connection ended while it ran: alter table item add a int" in said
    assert on_mariadb("up", "--resume") == 1
    assert "--resume-at 2" in capsys.readouterr().err
    assert on_mariadb("up", "--resume-at", "4") == 2
    assert "expected a number up to 3" in capsys.readouterr().err
    assert on_mariadb("up", "--resume-at", "2") == 0
    assert on_mariadb.version() == ["0002"]
    assert on_mariadb.rows("select a from item") == []


def test_a_part_that_commits_by_itself_is_found_on_postgresql_too(
    postgresql_server: DatabaseServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    database = postgresql_server.create_database()
    backend = Backend("postgresql", postgresql_server.url(database), postgresql_server)
    project = make_project(backend, tmp_path, monkeypatch)
    concurrently = (
        "with op.get_context().autocommit_block():\n    op.execute('create index concurrently ix on item (sku)')\n"
    )
    project.revision(2, f"{concurrently}op.execute('drop table nowhere')")
    assert project("up") == 1
    assert project("up") == 1
    said = capsys.readouterr().err
    assert "it commits before its end (autocommit_block)" in said
    assert "  1. applied: create index concurrently ix on item (sku)" in said
    project.revision(2, f"{concurrently}op.execute('drop table if exists nowhere')")
    assert project("up", "--resume") == 0
    assert tables(project) == {"item", "alembic_version"}
    postgresql_server.drop_database(database)
