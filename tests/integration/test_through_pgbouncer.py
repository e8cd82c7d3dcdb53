"""A part of the twins' tests passes through pgbouncer, to a server that isn't in UTC; ``nox -s poolers`` has all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from prefiq_db.testing import DatabaseServer, PgBouncer
from tests import through
from tests.clusters import find

ROOT = Path(__file__).resolve().parents[2]
_PART = ("queries", "function_reads", "quiet_sessions", "binds")


@pytest.mark.postgresql
@pytest.mark.timeout(400)
def test_a_part_of_the_twins_passes_through_pgbouncer(postgresql_server: DatabaseServer) -> None:
    find("pgbouncer", PgBouncer, server=postgresql_server)
    files = [f"tests/twins/test_{name}.py" for name in _PART]
    command = [sys.executable, "-m", "pytest", *files, "-q", "-m", "postgresql and sync", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"],
        cwd=ROOT,
        env={**os.environ, "PREFIQ_THROUGH": "pgbouncer", "PREFIQ_REQUIRE": "postgresql,pgbouncer"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    assert int(done.stdout.rpartition(" passed")[0].split()[-1]) > 50, done.stdout[-2000:]


def test_each_test_that_is_left_out_is_there() -> None:
    for name in through.UNABLE:
        file, _, test = name.partition("*")[0].partition("::")
        assert f"def {test}" in (ROOT / file).read_text("utf-8") if test else (ROOT / file).is_file(), name
