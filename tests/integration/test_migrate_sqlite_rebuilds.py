"""A table rebuild on SQLite keeps the children of the table, and a revision that orphans rows is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext

from prefiq_db.engines import make_engine
from prefiq_db.errors import ForeignKeyViolationError, UnsupportedError
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
# What Alembic's own template does, on one of our engines, whose foreign keys are on.
FOREIGN = """
from alembic import context
from prefiq_db.engines import make_engine
from prefiq_db.migrate.environment import database_settings

engine = make_engine(database_settings("main"))
with engine.connect() as connection:
    context.configure(connection=connection, {options})
    with context.begin_transaction():
        context.run_migrations()
with engine.connect() as connection:
    assert connection.exec_driver_sql("pragma foreign_keys").scalar() == 1
"""
# The same on SQLAlchemy's own engine, with foreign keys on.
UNGUARDED = """
import sqlalchemy as sa
from alembic import context
from prefiq_db.migrate.environment import database_settings

engine = sa.create_engine(f"sqlite:///{database_settings('main').target.database}")
sa.event.listen(engine, "connect", lambda connection, record: connection.execute("pragma foreign_keys = on"))
with engine.connect() as connection:
    context.configure(connection=connection, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()
"""
# And on an async engine, as Alembic's template for asyncio does it.
FOREIGN_ASYNC = """
import asyncio
from alembic import context
from prefiq_db.engines import make_async_engine
from prefiq_db.migrate.environment import database_settings

def run(connection):
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()

async def main():
    engine = make_async_engine(database_settings("main"))
    async with engine.connect() as connection:
        await connection.run_sync(run)
    await engine.dispose()

asyncio.run(main())
"""
ENVIRONMENTS = {
    "as templates": FOREIGN.format(options=""),
    "in one transaction": FOREIGN.format(options="transactional_ddl=True"),
    "in one transaction each": FOREIGN.format(options="transactional_ddl=True, transaction_per_migration=True"),
    "async": FOREIGN_ASYNC,
}


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


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_somebody_elses_env_py_keeps_them_too_and_orphans_nobody(project: Project, environment: str) -> None:
    """A test above shows what the same does on an engine that is none of ours."""
    (project.folder / "history" / "env.py").write_text(ENVIRONMENTS[environment])
    assert project("up") == 0
    assert project.rows("select id, parent_id from child order by id") == [(1, 1), (2, 2)]
    assert project("down", "0001") == 0
    assert project.rows("select id, parent_id from child order by id") == [(1, 1), (2, 2)]
    project.revision(3, "op.execute('delete from parent where id = 2')")
    with pytest.raises(ForeignKeyViolationError, match=r"leads nowhere: 1 of child \(to parent\)"):
        command.upgrade(Config(project.ini), "head")
    assert project.rows("select id from parent order by id") == [(1,), (2,)]


def test_a_rebuild_in_a_transaction_that_began_before_is_refused(project: Project) -> None:
    """There foreign keys can't be switched off: by an env.py that begins first, or without any env.py."""
    assert project("up", "0001") == 0
    engine = make_engine(DatabaseSettings(url=project.backend.url))
    with engine.connect() as connection:
        operations = Operations(MigrationContext.configure(connection))
        with (
            pytest.raises(UnsupportedError, match="this rebuild of parent would delete the rows of child"),
            operations.batch_alter_table("parent") as batch,
        ):
            batch.alter_column("name", existing_type=sa.String(9), type_=sa.String(99))
        connection.rollback()
        with operations.batch_alter_table("child") as batch:  # nobody refers to it
            batch.alter_column("parent_id", existing_type=sa.Integer(), type_=sa.BigInteger())
        connection.commit()
    engine.dispose()
    assert project.rows("select id, parent_id from child order by id") == [(1, 1), (2, 2)]


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


def test_an_env_py_that_does_not_hear_its_database_is_not_asked_for_one(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It opens its own, whatever was asked for; and what it did, it doesn't tell."""
    monkeypatch.setenv("DATABASES__SHOP__URL", f"sqlite:///{project.folder / 'shop.db'}")
    (project.folder / "history" / "env.py").write_text(FOREIGN.format(options=""))
    capsys.readouterr()
    for asked in (("--database", "shop"), ("--all",)):
        for words in ("up", "down base", "stamp head"):
            assert project(*words.split(), *asked) == 2
            assert "does not call prefiq_db.migrate.run" in capsys.readouterr().err
    assert not (project.folder / "shop.db").exists()
    assert project("up") == 0
    assert "nothing was done" not in capsys.readouterr().out
