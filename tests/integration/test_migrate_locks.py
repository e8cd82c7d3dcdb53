"""Any number of deployers run at once: one works, the others wait, and who it is can be seen."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from prefiq_db.migrate.command_line import main
from prefiq_db.migrate.file_lock import FileLock
from prefiq_db.testing import DatabaseServer
from tests.conftest import Backend
from tests.integration.migrate_support import HERE, Project, finished, processes, wait_for_here

# The history stops between two of its revisions: the first one has committed, the next has not begun.
BETWEEN = f"""
import sys
import sqlalchemy as sa
from sqlalchemy import event

applied = []

@event.listens_for(sa.Engine, "begin")
def stop(connection):
    if applied == ["0001"]:
        applied.append("stopped")
        {HERE}

def note(ctx, step, heads, run_args):
    applied.append(step.up_revision_id)
"""


@pytest.fixture
def project(backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DB_URL", backend.url)
    assert main(["init", "history"]) == 0
    project = Project(tmp_path, backend)
    project.revision(1, "op.create_table('item', sa.Column('sku', sa.String(9), primary_key=True))")
    project.revision(2, "op.execute(\"insert into item (sku) values ('A1')\")")
    project.revision(3, "op.add_column('item', sa.Column('qty', sa.Integer))")
    yield project
    # An env.py that ran in this process has left its listener on the class of all engines.
    with sa.create_engine("sqlite://").connect() as connection:
        for listener in list(connection.dispatch.begin):
            sa.event.remove(sa.Engine, "begin", listener)


def stopping_between(project: Project) -> None:
    env = project.folder / "history" / "env.py"
    text = env.read_text()
    env.write_text(BETWEEN + text.replace("run(metadata)", "run(metadata, on_version_apply=note)"))


def test_eight_deployers_at_once_apply_the_history_once(project: Project) -> None:
    outcomes = list(processes(project, 8, "upgrade", "head"))
    assert [code for code, _ in outcomes] == [0] * 8, [said for code, said in outcomes if code]
    assert sum(said.count("Running upgrade") for _, said in outcomes) == 3
    assert project.version() == ["0003"]
    assert project.rows("select sku, qty from item") == [("A1", None)]


def test_nobody_comes_in_between_two_revisions(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    stopping_between(project)
    first = project.start("upgrade", "head")
    wait_for_here(first)
    code, said = finished(project.start("-x", "lock_wait=0", "upgrade", "head"))
    assert code != 0
    assert "the migration lock was not free within 0 s" in said
    assert "Traceback" not in said
    who = {"sqlite": f"pid {first.pid} on", "postgresql": f"migrate, pid {first.pid} on", "mariadb": "connection "}
    assert who[project.backend.name] in said
    assert project("lock") == 1
    assert who[project.backend.name] in capsys.readouterr().out
    assert finished(first)[0] == 0
    assert project.version() == ["0003"]
    assert project("lock") == 0
    assert project("status") == 0
    assert "main: alembic_version at 0003 (head)\n" in capsys.readouterr().out


def test_without_the_lock_the_same_history_fails(project: Project) -> None:
    """The control: what the lock is for."""
    stopping_between(project)
    first = project.start("-x", "lock=no", "upgrade", "head")
    wait_for_here(first)
    second = project.start("-x", "lock=no", "upgrade", "head")
    assert finished(second)[0] == 0
    assert project.rows("select sku from item") == [("A1",)]
    code, said = finished(first)
    assert code != 0
    assert "revision 0002, up, statement 1: insert into item (sku) values (?)\n" in said
    assert "unique" in said


def test_who_waits_goes_on_when_the_first_is_done(project: Project) -> None:
    stopping_between(project)
    first = project.start("upgrade", "head")
    wait_for_here(first)
    second = project.start("upgrade", "head")
    assert second.stderr is not None
    assert any("waiting for the migration lock" in line for line in second.stderr)
    code, said = finished(first)
    assert code == 0, said
    code, said = finished(second)
    assert code == 0, said
    assert "Running upgrade" not in said


def test_a_killed_deployer_leaves_no_lock(project: Project) -> None:
    stopping_between(project)
    first = project.start("upgrade", "head")
    wait_for_here(first)
    first.kill()
    first.communicate()
    # A server takes a moment to see that the client is gone; the default patience covers that.
    assert project("up") == 0
    assert project.version() == ["0003"]
    assert list(project.folder.glob("*lock*")) == []


def test_with_nothing_to_do_it_is_a_success(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert project("up") == 0
    capsys.readouterr()
    assert project("up") == 0
    assert capsys.readouterr().out.endswith("(head); nothing was done\n")


@pytest.mark.parametrize("name", ["postgresql", "mariadb"])
def test_behind_a_transaction_pooler_it_refuses_and_names_the_ways_out(
    name: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server: DatabaseServer = request.getfixturevalue(f"{name}_server")
    database = server.create_database()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DB_URL", server.url(database))
    monkeypatch.setenv("DB_PGBOUNCER", "true")
    assert main(["up"]) == 2
    said = capsys.readouterr().err
    assert "direct URL" in said
    assert "--no-lock" in said
    assert main(["up", "--no-lock"]) == 0
    monkeypatch.setenv("DB_PGBOUNCER", "false")
    assert main(["up"]) == 0
    server.drop_database(database)


# --- the lock file of SQLite -------------------------------------------------------------------------


def test_a_lock_file_is_gone_with_its_lock(tmp_path: Path) -> None:
    first, second = FileLock(str(tmp_path / "app.db")), FileLock(str(tmp_path / "app.db"))
    assert first.take()
    assert not second.take()
    assert f"pid {os.getpid()} on" in second.holder()
    first.release()
    assert list(tmp_path.iterdir()) == []
    assert second.holder() == ""
    assert second.take()
    second.release()


def test_two_names_of_one_database_are_one_lock(tmp_path: Path) -> None:
    (tmp_path / "app.db").touch()
    (tmp_path / "link.db").symlink_to(tmp_path / "app.db")
    first = FileLock(str(tmp_path / "app.db"))
    assert first.take()
    assert not FileLock(str(tmp_path / "link.db")).take()
    first.release()


def test_whoever_opened_the_file_before_it_was_removed_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the open and the lock of one, another may release: the file that was opened is nobody's then."""
    first, second = FileLock(str(tmp_path / "app.db")), FileLock(str(tmp_path / "app.db"))
    assert first.take()
    real_open = os.open
    opened: list[int] = []

    def open_then_release(*arguments: object) -> int:
        opened.append(real_open(*arguments))  # type: ignore[arg-type]
        if len(opened) == 1:
            first.release()
        return opened[-1]

    monkeypatch.setattr(os, "open", open_then_release)
    assert second.take()
    monkeypatch.undo()
    assert len(opened) == 2
    assert not first.take()
    second.release()
