"""The tutorial is done, step by step, in a bare virtual environment, and its controls are found.

The environment is made by the page's own commands. It sees no package of the tests' environment: ``pip`` installs from
wheels of the same versions (`wheelhouse.py`), so it resolves the names, extras and dependencies that the page relies on
as from the registry, without a network. The shell finds no other Python program than ``python3``.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from prefiq_db.testing.machine import free_port
from tests.docs.pages import ROOT
from tests.docs.walkthrough import Command, File, MismatchError, Shell, Step, Walkthrough, steps
from tests.docs.wheelhouse import build_wheelhouse

PAGE = ROOT / "docs" / "tutorial.md"
STEPS = list(steps(PAGE))
SECTIONS = list(dict.fromkeys(step.section for step in STEPS))
INSTALL, DEPLOY = SECTIONS[0], SECTIONS[-1]
SQLITE_ONLY = SECTIONS[1:6]
_SERVER = "127.0.0.1:5432/shop"

pytestmark = pytest.mark.timeout(900)  # some 50 programs run, maybe on a busy machine


def _requirements() -> list[str]:
    """Return what the page installs."""
    (command,) = [step.text for step in STEPS if isinstance(step, Command) and step.text.startswith("pip install")]
    return shlex.split(command)[2:]


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the first section was done: by the first worker that needs it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "tutorial"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            _install(folder)
            (folder / "ready").touch()
    return folder


def _install(folder: Path) -> None:
    (folder / "wheels").mkdir()
    build_wheelhouse(folder / "wheels", _requirements())
    (folder / "bin").mkdir()
    for name in ("python3", "python"):
        # Not a link: the interpreter would take the folder of the link for its own.
        (folder / "bin" / name).write_text(f'#!/bin/sh\nexec "{sys._base_executable}" "$@"\n')  # type: ignore[attr-defined]
        (folder / "bin" / name).chmod(0o755)
    with Shell(folder, _environment(folder)) as shell:
        reader = Walkthrough(shell, replaced={}, instead={})
        for step in STEPS:
            if step.section == INSTALL:
                if isinstance(step, Command) and step.text.startswith("pip "):
                    assert shell.run("python -c 'import sqlalchemy'")[1] == 1, "the environment isn't bare"
                reader.do(step)


def _environment(folder: Path) -> dict[str, str]:
    """Return a new user's environment: no settings, no packages, and pip finds only our wheels."""
    return {
        "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(folder / "wheels"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


@pytest.fixture
def shell(installed: Path, tmp_path: Path) -> Iterator[Shell]:
    """A shell in an empty folder, with the virtual environment of the page's first section activated."""
    with Shell(tmp_path, _environment(installed)) as shell:
        assert shell.run(f". {installed}/shop/.venv/bin/activate") == ("", 0)
        yield shell


def _started(command: Command) -> None:
    """Stand for ``docker run``: a private server runs, and the user and password must be those of the setting."""
    assert command.text.startswith("docker run ")
    given = dict(re.findall(r"-e POSTGRES_(USER|PASSWORD)=(\S+)", command.text))
    url = f"postgres://{given['USER']}:{given['PASSWORD']}@{_SERVER}"
    assert "-p 5432:5432" in command.text
    assert any(isinstance(step, Command) and step.text == f"export DB_URL={url}" for step in STEPS)


def _left_to_the_cluster(command: Command) -> None:
    """Stand for a registry and a cluster; what they would run is run by `_deploy`."""
    assert command.section == DEPLOY


def _reader(shell: Shell, port: int, server: str) -> Walkthrough:
    replaced = {
        _SERVER: server,
        "uvicorn service:service": f"uvicorn service:service --port {port}",
        "http://127.0.0.1:8000": f"http://127.0.0.1:{port}",
    }

    def docker(command: Command) -> None:
        (_left_to_the_cluster if command.section == DEPLOY else _started)(command)

    return Walkthrough(shell, replaced=replaced, instead={"docker": docker, "kubectl": _left_to_the_cluster})


@pytest.fixture
def shop_server(postgresql_server: Any) -> Iterator[Callable[[], str]]:
    """Makes a database of the user that the page names; gives its place."""
    made: list[str] = []
    postgresql_server.execute("create role shop login password 'secret'")

    def make() -> str:
        made.append(postgresql_server.create_database())
        postgresql_server.execute(f"alter database {made[-1]} owner to shop")
        return f"127.0.0.1:{postgresql_server.port}/{made[-1]}"

    yield make
    for database in made:
        postgresql_server.execute(f"drop database {database} with (force)")
    postgresql_server.execute("drop role shop")


@pytest.mark.postgresql
@pytest.mark.integration
def test_the_tutorial_is_done_in_a_bare_environment(shell: Shell, shop_server: Callable[[], str]) -> None:
    port = free_port()
    reader = _reader(shell, port, shop_server())
    for step in STEPS:
        if step.section != INSTALL:
            reader.do(step)
    _deploy(shell, reader, port, shop_server())


def _deploy(shell: Shell, reader: Walkthrough, port: int, server: str) -> None:
    """Run what the image and the manifests say, as a cluster would, on an empty database."""
    files = {step.name: step.text for step in STEPS if isinstance(step, File)}
    image = files["Dockerfile"]
    # The image needs no extra and no package that the reader hasn't installed.
    wanted = [Requirement(text) for text in shlex.split(re.findall(r"pip install --no-cache-dir (.+)", image)[0])]
    given = {found.name: found.extras for found in map(Requirement, _requirements())}
    assert all(each.extras <= given[each.name] for each in wanted)
    for name in " ".join(re.findall(r"^COPY (.+) \S+$", image, re.M)).split():
        assert (reader.folder() / name).exists(), f"{name} is copied into the image"
    job, deployment = yaml.safe_load(files["migrate.yaml"]), yaml.safe_load(files["shop.yaml"])
    (migrate,) = job["spec"]["template"]["spec"]["containers"]
    (serve,) = deployment["spec"]["template"]["spec"]["containers"]
    assert migrate["image"] == serve["image"]
    assert [each["name"] for each in migrate["env"] + serve["env"]] == ["DB_URL", "DB_URL"]

    shell.run(f"export DB_URL=postgres://shop:secret@{server}")
    command = json.loads(re.findall(r"^CMD (.+)$", image, re.M)[0])
    assert command[-1] == str(serve["ports"][0]["containerPort"]) == str(serve["livenessProbe"]["httpGet"]["port"])
    reader.serve(shlex.join([*command[:-1], str(port)]))
    reader.wait_for_log("Application startup complete.")
    alive, ready = (serve[f"{probe}Probe"]["httpGet"]["path"] for probe in ("liveness", "readiness"))

    def status(path: str) -> str:
        return shell.run(f"curl -s -o body -w '%{{http_code}}' http://127.0.0.1:{port}{path}; cat body")[0]

    assert status(alive).startswith("200")
    assert status(ready).startswith("503"), "the migrations have not run"
    assert "the schema is behind the code" in status(ready)
    printed, code = shell.run(shlex.join(migrate["command"]))
    assert (code, printed[:18]) == (0, "main: upgraded to ")
    shell.run("sleep 1.1")  # a probe's result is reused for a second
    assert status(ready).startswith("200")
    reader.stop_server()


def _planted(old: str, new: str) -> list[Step]:
    """Return the steps on SQLite with *old* replaced at its one place."""
    planted: list[Step] = []
    places = 0
    for step in STEPS:
        if step.section not in SQLITE_ONLY:
            continue
        if isinstance(step, File):
            places += step.text.count(old)
            planted.append(replace(step, text=step.text.replace(old, new)))
        else:
            places += step.text.count(old) + step.output.count(old)
            planted.append(replace(step, text=step.text.replace(old, new), output=step.output.replace(old, new)))
    assert places == 1, f"{old!r} stands {places} times in the page"
    return planted


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        pytest.param("15\n[('CUP',)]", "16\n[('CUP',)]", "`python first.py` should print", id="output"),
        pytest.param("sqlite:///shop.db\n", "sqlite:///nowhere/shop.db\n", "bootstrap` exited with 1", id="settings"),
        pytest.param("  # an error status rolls back\n", "\n    oops\n", "quantity=4'` should print", id="service"),
    ],
)
def test_control_a_planted_mistake_is_found(shell: Shell, old: str, new: str, told: str) -> None:
    reader = _reader(shell, free_port(), _SERVER)
    with pytest.raises(MismatchError, match=re.escape(told)):
        for step in _planted(old, new):
            reader.do(step)


def test_the_tutorial_has_the_steps_that_it_promises() -> None:
    """An empty page passes each comparison."""
    assert len(SECTIONS) == 8
    assert {step.name for step in STEPS if isinstance(step, File)} >= {
        "settings.yaml",
        "tables.py",
        "migrations/env.py",
        "service.py",
        "pytest.ini",
        "test_service.py",
        "Dockerfile",
        "migrate.yaml",
        "shop.yaml",
    }
    compared = [step for step in STEPS if isinstance(step, Command) and step.output.strip(".\n")]
    assert len(compared) >= 20
