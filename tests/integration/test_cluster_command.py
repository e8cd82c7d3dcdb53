"""``python -m prefiq_db.testing KIND``: what it prints leads to a cluster, and nothing is left when it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prefiq_db import Database
from prefiq_db.settings import load_settings
from prefiq_db.testing import MariaDbServer, PostgresServer
from prefiq_db.testing.__main__ import main
from tests import interpreters
from tests.conftest import _find
from tests.twins.replicated import PORT

ENDS = [
    pytest.param("postgresql", signal.SIGINT, marks=pytest.mark.postgresql, id="postgresql-ctrl-c"),
    pytest.param("postgresql", signal.SIGTERM, marks=pytest.mark.postgresql, id="postgresql-sigterm"),
    pytest.param("mariadb", signal.SIGINT, marks=pytest.mark.mariadb, id="mariadb-ctrl-c"),
]
SERVERS = {"postgresql": PostgresServer, "mariadb": MariaDbServer}


@contextmanager
def running(kind: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run the command as a shell does: Ctrl-C goes to its whole group."""
    _find(SERVERS[kind])
    command = [sys.executable, "-m", "prefiq_db.testing", kind, "--nodes", "2"]
    environment = {**os.environ, "TMPDIR": str(folder)}
    with interpreters.Popen(
        command, fresh=True, env=environment, text=True, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def listens(url: str) -> bool:
    host, _, port = url.rpartition("@")[2].partition("/")[0].rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


@pytest.mark.parametrize(("kind", "how"), ENDS)
def test_what_it_prints_are_settings_and_nothing_is_left(kind: str, how: signal.Signals, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with running(kind, tmp_path) as process:
        assert process.stdout is not None
        lines = [line.strip() for _, line in zip(range(4), process.stdout, strict=False)]
        environ = dict(line.removeprefix("export ").split("=", 1) for line in lines if line.startswith("export "))
        environ = {name: value.strip("'") for name, value in environ.items()}
        settings = load_settings(environ=environ, directory=tmp_path).database
        with Database(settings) as db:
            db.execute("create table item (id integer primary key)")
            reader = db.using(replica=True)
            assert reader.fetch_value("select count(*) from item") == 0
            primary = db.fetch_value(PORT[kind])
            assert reader.fetch_value(PORT[kind]) != primary
            assert {node.role for node in db.stats().replicas} <= {"primary", "replica"}
        places = environ["DB_REPLICAS"].split(",")
        assert [listens(place) for place in places] == [True, True]
        os.killpg(process.pid, how)
        assert process.wait(60) == 0
    assert [listens(place) for place in places] == [False, False]
    assert list(tmp_path.glob("prefiq-*")) == []


@pytest.mark.postgresql
def test_nothing_is_left_when_it_is_ended_while_it_starts(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with running("postgresql", tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("# starting")
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 0
        assert "export" not in process.stdout.read()
    assert list(tmp_path.glob("prefiq-*")) == []


@pytest.mark.parametrize("wrong", [[], ["oracle"], ["galera", "--nodes", "1"], ["galera", "--nodes", "many"]])
def test_wrong_arguments_are_named(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(wrong)
    assert caught.value.code == 2
    assert "usage: python -m prefiq_db.testing" in capsys.readouterr().err


def test_without_the_programs_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PG_BIN", "/nowhere")
    assert main(["postgresql"]) == 1
    assert "PG_BIN" in capsys.readouterr().err
