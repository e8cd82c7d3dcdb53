"""Everything that checks prefiq_db, on every Python that is here: ``nox``, ``nox -s unit-3.12``, ``nox -l``.

Arguments after ``--`` go to the tool: ``nox -s integration -- -m "mariadb and async" -x``.
"""

from __future__ import annotations

import os
from pathlib import Path

import nox

PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
PYPROJECT = nox.project.load_toml("pyproject.toml")

# What has a long form, too long for a merge.
LONG = ["tests/chaos", "tests/twins/test_hand_overs.py", "tests/twins/test_interrupted_blocks.py"]
LONG += ["tests/integration/test_request_disconnects.py", "tests/twins/test_cancelled_crowds.py"]
LONG += ["tests/twins/test_read_your_writes.py", "tests/twins/test_memory_of_texts.py"]
LONG += ["tests/twins/test_both_roads.py"]

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "types", "unit", "integration", "docs"]
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = False  # they are reported as skipped
nox.options.download_python = "never"

# pyenv's shims answer for activated versions only, so look where the versions are.
PYENV_VERSIONS = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
os.environ["PATH"] = os.pathsep.join([*map(str, sorted(PYENV_VERSIONS.glob("3.*/bin"))), os.environ["PATH"]])


def install(session: nox.Session, *groups: str) -> None:
    """Install the package as people get it, and the dependency groups."""
    requirements = [line for group in groups for line in nox.project.dependency_groups(PYPROJECT, group)]
    session.install("-e", ".[all]", *requirements)


@nox.session(python=PYTHONS)
def unit(session: nox.Session) -> None:
    """Run the tests that need no server."""
    install(session, "test")
    session.run("pytest", "tests/unit", "-m", "not integration", *session.posargs)


@nox.session(python=PYTHONS)
def integration(session: nox.Session) -> None:
    """Run the matrix {sqlite, postgresql, mariadb} x {sync, async}, and show it."""
    install(session, "test")
    # A later -m wins, so that one can choose: -- -m "postgresql and async"
    session.run("pytest", "-m", "integration", "-n", "4", "--dist", "worksteal", *session.posargs)


@nox.session
def chaos(session: nox.Session) -> None:
    """Run the long version of the chaos tests, for hours, and print what they found."""
    install(session, "test")
    # Transfers with faults, steps of the hand-over machine for each driver, every how many lines one is interrupted.
    long_forms = {"PREFIQ_CHAOS_TRANSFERS": "10000", "PREFIQ_HAND_OVER_STEPS": "20000", "PREFIQ_INJECT_EVERY": "1"}
    long_forms["PREFIQ_CUT_REQUESTS"] = "1000"  # whose client goes away
    long_forms["PREFIQ_REPLICA_PAIRS"] = "10000"  # of a write and a read
    long_forms["PREFIQ_CANCELLED_STATEMENTS"] = "100000"  # of tasks that are cancelled
    long_forms["PREFIQ_DISTINCT_TEXTS"] = "200000"  # in one process
    long_forms["PREFIQ_ROAD_SCRIPTS"] = "1000"  # played on either road
    environment = {name: os.environ.get(name) or value for name, value in long_forms.items()}
    session.run("pytest", *LONG, "--timeout=14400", *session.posargs, env=environment)


@nox.session
def poolers(session: nox.Session) -> None:
    """Run the tests of both worlds through pgbouncer in transaction mode, to a server that isn't in UTC."""
    install(session, "test")
    environment = {"PREFIQ_THROUGH": "pgbouncer", "PREFIQ_REQUIRE": "postgresql,pgbouncer"}
    session.run(
        *("pytest", "tests/twins", "-m", "postgresql", "-n", "4", "--dist", "worksteal"),
        *session.posargs,
        env={name: os.environ.get(name) or value for name, value in environment.items()},
    )


@nox.session(name="dialect-suite")
def dialect_suite(session: nox.Session) -> None:
    """Run the whole of SQLAlchemy's own dialect suite on our engines; ``-- plain``: on SQLAlchemy's dialects."""
    install(session, "test")
    arguments = [argument for argument in session.posargs if argument != "plain"]
    how = "all" if arguments == session.posargs else "plain"
    environment = {"PREFIQ_DIALECT_SUITE": how}
    session.run("pytest", "tests/integration/test_dialect_suite.py", "-rP", *arguments, env=environment)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure what a statement costs, beside the drivers and other libraries: ``-- sqlite --quick``."""
    install(session, "bench")
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and the import contract."""
    install(session, "test", "lint")
    session.run("ruff", "check", *(session.posargs or ["."]))
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, with the two checkers that users have."""
    install(session, "test", "lint")
    session.run("mypy", *session.posargs)
    session.run("pyright", "--pythonpath", f"{session.bin}/python")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation's site into site/, and run every block, command and example of it."""
    install(session, "test", "docs")
    session.run("mkdocs", "build", "--clean", env={"NO_MKDOCS_2_WARNING": "1"})
    session.run("pytest", "tests/docs", *session.posargs)
