"""A table rebuild on SQLite keeps the children of the table, and a revision that orphans rows is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config

from prefiq_db.engines import make_engine
from prefiq_db.errors import UnsupportedError
from prefiq_db.migrate.command_line import main
from prefiq_db.settings import DatabaseSettings
from tests.conftest import Backend
from tests.integration.migrate_support import Project

FAMILY = """
op.create_table('parent', sa.Column('id', sa.Integer, primary_key=True), sa.Column('name', sa.String(9)))
op.create_table(
    'child',
    sa.Column('id', sa.Integer, primary_key=True),
    sa.Column('parent_id', sa.Integer, sa.ForeignKey('parent.id', ondelete='CASCADE'), nullable=False),
)
op.execute("insert into parent values (1, 'a'), (2, 'b')")
op.execute("insert into child values (1, 1), (2, 2)")
"""
REBUILD = """
with op.batch_alter_table('parent') as batch:
    batch.alter_column('name', existing_type=sa.String(9), type_=sa.String(99), nullable=False)
"""
# What Alembic's own template does, on a connection as services have it: with foreign keys on.
UNGUARDED = """
from alembic import context
from prefiq_db.engines import make_engine
from prefiq_db.migrate.environment import database_settings

with make_engine(database_settings("main")).connect() as connection:
    context.configure(connection=connection, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    backend = Backend("sqlite", f"sqlite:///{tmp_path / 'test.db'}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DB_URL", backend.url)
    assert main(["init", "history"]) == 0
    project = Project(tmp_path, backend)
    project.revision(1, FAMILY)
    project.revision(2, REBUILD, REBUILD.replace("99", "9").replace("False", "True"))
    return project


def test_a_rebuild_keeps_the_children(project: Project) -> None:
    assert project("up") == 0
    assert project.rows("select id, parent_id from child order by id") == [(1, 1), (2, 2)]
    assert project("down") == 0
    assert project.rows("select id, parent_id from child order by id") == [(1, 1), (2, 2)]


def test_without_the_guard_the_same_rebuild_deletes_them(project: Project) -> None:
    """The control: what the guard is for."""
    (project.folder / "history" / "env.py").write_text(UNGUARDED)
    assert project("up") == 0
    assert project.rows("select * from child") == []


def test_a_revision_that_orphans_rows_is_refused_and_undone(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.revision(3, "op.execute('delete from parent where id = 2')")
    assert project("up") == 1
    said = capsys.readouterr().err
    assert "revision 0003 would leave rows whose foreign key leads nowhere: 1 of child (to parent)" in said
    assert project.version() == ["0002"]
    assert project.rows("select id from parent order by id") == [(1,), (2,)]


def test_orphans_from_before_do_not_stop_anybody(project: Project) -> None:
    assert project("up") == 0
    engine = make_engine(DatabaseSettings(url=project.backend.url))
    raw = engine.raw_connection()
    raw.cursor().execute("pragma foreign_keys = off")
    raw.cursor().execute("insert into child values (3, 99)")
    raw.close()
    engine.dispose()
    assert project("down") == 0
    assert project("up") == 0


@pytest.mark.parametrize("in_transaction", [False, True])
def test_a_given_connection_has_its_foreign_keys_back(project: Project, in_transaction: bool) -> None:
    engine = make_engine(DatabaseSettings(url=project.backend.url))
    config = Config(project.ini)
    assert project("up", "0001") == 0
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        if in_transaction:
            with pytest.raises(UnsupportedError, match="would delete the rows of child"), connection.begin():
                command.upgrade(config, "head")
        else:
            command.upgrade(config, "head")
        assert connection.exec_driver_sql("pragma foreign_keys").scalar() == 1
    assert project.rows("select id, parent_id from child order by id") == [(1, 1), (2, 2)]
    assert project.version() == ["0001" if in_transaction else "0002"]
    engine.dispose()


def test_a_rebuild_keeps_a_default_with_a_colon(project: Project) -> None:
    """Alembic reads the table, and what it reads is SQL: ``:start`` in it is no bind."""
    project.revision(
        3,
        r"""
        op.execute(r"create table visit (id integer primary key, name text default 'a \:start', size integer,"
                   r" shown text generated always as (name || ' \:size'))")
        with op.batch_alter_table('visit', recreate='always') as batch:
            batch.drop_column('shown')
            batch.alter_column('size', type_=sa.BigInteger())
        op.execute("insert into visit (size) values (1)")
        """,
    )
    assert project("up") == 0
    assert project.rows("select name, size from visit") == [("a :start", 1)]
