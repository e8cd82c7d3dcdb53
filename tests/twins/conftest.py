"""Fixtures that several suites of both worlds share."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from prefiq_db.testing.faults import FaultProxy
from prefiq_db.testing.machine import free_port
from prefiq_db.testing.processes import account_for_root, wait_until
from tests.conftest import Backend
from tests.twins.harness import drive


@pytest.fixture
def run(world: str, loop_runner: asyncio.Runner) -> Callable[[Any], Any]:
    """Run a coroutine to its end, in this test's world."""
    return loop_runner.run if world == "async" else drive


@pytest.fixture
def proxy(backend: Backend) -> Iterator[FaultProxy]:
    """A proxy in front of the backend's server, for faults."""
    assert backend.server is not None
    with FaultProxy(backend.server) as made:
        yield made


@pytest.fixture
def pooler(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running pgbouncer in transaction mode in front of the server; yields the URL through it."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("needs pgbouncer: apt-get install pgbouncer")
    url = make_url(backend.url)
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="prefiq-pgbouncer-") as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "users.txt").write_text(f'"{url.username}" "{url.password}"\n')
        (Path(folder) / "pgbouncer.ini").write_text(
            f"[databases]\n* = host={url.host} port={url.port}\n"
            f"[pgbouncer]\nlisten_addr=127.0.0.1\nlisten_port={port}\nunix_socket_dir=\nauth_type=scram-sha-256\n"
            f"auth_file={folder}/users.txt\npool_mode=transaction\ndefault_pool_size=2\n"
        )
        account = account_for_root("postgres", "nobody")
        identity = {} if account is None else {"user": account.uid, "group": account.gid, "extra_groups": []}
        process = subprocess.Popen([program, "-q", f"{folder}/pgbouncer.ini"], cwd="/", **identity)  # type: ignore[call-overload]
        try:
            assert wait_until(lambda: _accepts(port), timeout_seconds=10), "pgbouncer did not start"
            yield url.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
        finally:
            process.terminate()
            process.wait(10)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
