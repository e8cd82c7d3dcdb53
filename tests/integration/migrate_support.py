"""Histories for the tests of migrations: written by ``init``, run in this process or in others."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prefiq_db.engines import make_engine
from prefiq_db.migrate.command_line import main
from prefiq_db.settings import DatabaseSettings
from tests import interpreters
from tests.conftest import Backend

ALEMBIC = str(Path(sysconfig.get_path("scripts")) / "alembic")


def write_module(path: Path, text: str) -> None:
    """Write a module, and forget its bytecode: Python takes that for up to date within a second, if the size is."""
    path.write_text(text)
    Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)


@dataclass(frozen=True)
class Project:
    """A service's history in *folder*, on the database *backend*."""

    folder: Path
    backend: Backend

    @property
    def ini(self) -> str:
        return str(self.folder / "alembic.ini")

    def revision(self, number: int, upgrade: str, downgrade: str = "pass") -> None:
        """Write revision ``000<number>``, which follows the one before."""
        before = f"{number - 1:04}" if number > 1 else None
        bodies = [textwrap.indent(textwrap.dedent(body).strip(), "    ") for body in (upgrade, downgrade)]
        write_module(
            self.folder / "history" / "versions" / f"{number:04}.py",
            "import sys\nimport sqlalchemy as sa\nfrom alembic import op\n"
            f"revision, down_revision = '{number:04}', {before!r}\n"
            f"def upgrade():\n{bodies[0]}\ndef downgrade():\n{bodies[1]}\n",
        )

    def __call__(self, command: str, *arguments: str) -> int:
        """Run a command of ``prefiq_db.migrate`` in this process; return its exit code."""
        return main([command, "-c", self.ini, *arguments])

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start the ``alembic`` command in a process of its own, with pipes to talk through."""
        names = ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH")
        kept = {name: os.environ[name] for name in names if name in os.environ}
        return interpreters.Popen(
            [sys.executable, ALEMBIC, *arguments],
            cwd=self.folder,
            env={**kept, "DB_URL": self.backend.url, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        engine = make_engine(DatabaseSettings(url=self.backend.url))
        with engine.begin() as connection:
            result = connection.exec_driver_sql(sql)
            rows = [tuple(row) for row in result] if result.returns_rows else []
        engine.dispose()
        return rows

    def version(self) -> list[str]:
        return [str(row[0]) for row in self.rows("select version_num from alembic_version")]


#: In a revision: say that we are here, and wait until the test lets us go on.
HERE = "print('here', flush=True); sys.stdin.readline()"


def wait_for_here(process: subprocess.Popen[str]) -> None:
    """Return when the process says that it is there; fail with its words if it ended instead."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line == "here\n", process.communicate()


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Let the process go on; return its exit code and everything that it said since."""
    out, err = process.communicate("\n", timeout=90)
    return process.returncode, out + err


def processes(project: Project, count: int, *arguments: str) -> Iterator[tuple[int, str]]:
    """Run the same command in so many processes at once; yield what came of each."""
    started = [project.start(*arguments) for _ in range(count)]
    for process in started:
        yield finished(process)
