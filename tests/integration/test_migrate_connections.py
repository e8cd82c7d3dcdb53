"""Migrations on a connection that the caller gives: sync, async in a running loop, in a transaction, of any engine."""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.config import main as alembic_main

from prefiq_db import AsyncDatabase, Database
from prefiq_db.engines import make_engine
from prefiq_db.errors import LockTimeoutError, UsageError
from prefiq_db.migrate import LOG_TABLE, MigrateOptions
from prefiq_db.migrate.command_line import main
from prefiq_db.migrate.file_lock import FileLock
from prefiq_db.migrate.locks import server_lock
from prefiq_db.settings import DatabaseSettings
from tests.conftest import Backend
from tests.integration.migrate_support import Project

#: SQLAlchemy's own drivers for the same databases: what people have who don't use our engines.
PLAIN = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "mariadb": "mariadb+pymysql"}


@pytest.fixture
def project(backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DB_URL", "sqlite:////nowhere/at/all.db")  # a given connection needs no settings
    assert main(["init", "history"]) == 0
    project = Project(tmp_path, backend)
    project.revision(1, "op.create_table('item', sa.Column('sku', sa.String(9), primary_key=True))")
    project.revision(2, "op.execute(\"insert into item values ('A1')\")")
    return project


def upgrade(connection: Any, project: Project, **options: Any) -> None:
    config = Config(project.ini)
    config.attributes["connection"] = connection
    config.attributes["options"] = MigrateOptions(**options)
    command.upgrade(config, "head")


async def test_an_async_engine_in_a_running_loop(project: Project) -> None:
    async with AsyncDatabase(project.backend.url, pool_size=1, max_overflow=0) as db:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1

        ticking = asyncio.create_task(tick())
        async with db.engine.connect() as connection:
            await connection.run_sync(upgrade, project)
        ticking.cancel()
        assert ticks  # the loop went on meanwhile
        assert [row.sku for row in await db.fetch_all("select sku from item")] == ["A1"]
    assert project.version() == ["0002"]


async def test_waiting_for_the_lock_does_not_block_the_loop(project: Project) -> None:
    """The lock is given back by the loop that waits for it."""
    waiting = asyncio.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "waiting for the migration lock" in record.getMessage():
                waiting.set()

    listener = Listener()
    logging.getLogger("prefiq_db.migrate").addHandler(listener)
    with make_engine(DatabaseSettings(url=project.backend.url)).connect() as other:
        lock = server_lock(other) or FileLock(project.backend.url.removeprefix("sqlite:///"))
        assert lock.take()
        async with AsyncDatabase(project.backend.url) as db, db.engine.connect() as connection:
            deploying = asyncio.create_task(connection.run_sync(upgrade, project))
            await waiting.wait()
            lock.release()
            await deploying
    other.engine.dispose()
    logging.getLogger("prefiq_db.migrate").removeHandler(listener)
    assert project.version() == ["0002"]


def test_in_a_transaction_it_is_the_callers_to_commit(project: Project) -> None:
    with Database(project.backend.url) as db:
        with db.engine.connect() as connection:
            transaction = connection.begin()
            upgrade(connection, project)
            transaction.rollback()
        exists = "item" in sa.inspect(db.engine).get_table_names()
        assert exists == (project.backend.name == "mariadb")  # whose DDL is committed by the server
        with db.engine.begin() as connection:
            upgrade(connection, project)
        assert set(sa.inspect(db.engine).get_table_names()) == {"item", "alembic_version"}
    assert project.version() == ["0002"]
    assert project.rows("select sku from item") == [("A1",)]


def test_nobody_comes_in_before_the_caller_commits(project: Project) -> None:
    """On MariaDB somebody may: everything is committed when the command ends."""
    with Database(project.backend.url, lock_timeout_seconds=0.2) as db, db.engine.connect() as second:
        with db.engine.begin() as first:
            upgrade(first, project)
            if project.backend.name == "mariadb":
                upgrade(second, project, lock_wait=0.0)
            else:
                with pytest.raises(LockTimeoutError):
                    upgrade(second, project, lock_wait=0.0)
        upgrade(second, project, lock_wait=0.0)
    assert project.rows("select sku from item") == [("A1",)]


def test_a_plain_engine_of_sqlalchemy(backend: Backend, project: Project) -> None:
    url = sa.make_url(backend.url.replace("mariadb://", "mariadb+pymysql://"))
    engine = sa.create_engine(url.set(drivername=PLAIN[backend.name]))
    project.revision(3, "op.execute('create table shelf (id integer)'); op.execute('create table item (id integer)')")
    with engine.connect() as connection, pytest.raises(Exception, match="item"):
        upgrade(connection, project)
    assert project.version() == ["0002"]
    left = {"shelf", LOG_TABLE} if backend.name == "mariadb" else set()
    assert set(sa.inspect(engine).get_table_names()) == {"item", "alembic_version", *left}
    project.revision(3, "op.execute('create table shelf (id integer)')")
    with engine.connect() as connection:
        upgrade(connection, project, resume=True)
        assert not connection.in_transaction()
    assert project.version() == ["0003"]
    assert set(sa.inspect(engine).get_table_names()) == {"item", "shelf", "alembic_version"}
    engine.dispose()


def test_a_session_goes_back_to_the_pool_without_the_lock(project: Project) -> None:
    settings = DatabaseSettings(url=project.backend.url, pool_size=1, max_overflow=0)
    engine, other = make_engine(settings), make_engine(settings)
    with engine.connect() as connection:
        upgrade(connection, project)
    with other.connect() as connection:
        upgrade(connection, project, lock_wait=0.0)
    engine.dispose()
    other.dispose()


def test_something_else_is_refused(project: Project) -> None:
    with pytest.raises(UsageError, match="run_sync"):
        upgrade(object(), project)


# --- inside a service --------------------------------------------------------------------------------


class Kept(logging.Handler):
    """What a service set up for itself."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record.getMessage())


@pytest.fixture
def of_the_service() -> Iterator[Kept]:
    handler, root = Kept(), logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield handler
    root.removeHandler(handler)
    root.setLevel(before)


def as_alembic_main(project: Project) -> None:
    alembic_main(["-c", project.ini, "upgrade", "head"])


def as_flask_migrate(project: Project) -> None:
    config = Config(project.ini)
    config.cmd_opts = argparse.Namespace(x=None)  # which it makes for a call from Python, too
    command.upgrade(config, "head")


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize("call", [as_alembic_main, as_flask_migrate])
def test_a_call_inside_a_service_leaves_its_logging(
    project: Project, of_the_service: Kept, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_URL", project.backend.url)
    before = [*logging.getLogger().handlers]
    call(project)
    assert logging.getLogger().handlers == before
    assert logging.getLogger().level == logging.INFO
    assert "Running upgrade 0001 -> 0002" in " ".join(of_the_service.heard)
    assert project.version() == ["0002"]


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize("program", ["/usr/bin/alembic", "alembic.exe", "alembic-script.py", "lib/alembic/__main__.py"])
def test_control_the_alembic_command_reads_logging_from_its_ini(
    project: Project, of_the_service: Kept, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_URL", project.backend.url)
    monkeypatch.setattr("sys.argv", [program])
    root = logging.getLogger()
    before = [*root.handlers]
    try:
        as_alembic_main(project)
        assert of_the_service not in root.handlers
        assert root.level == logging.WARNING
    finally:
        root.handlers[:] = before
