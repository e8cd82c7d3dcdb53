"""The tests of pytest-alembic, on prefiq_db's own history and on each database; also by an async engine.

They take the history from the fixture ``alembic_config`` and the database from ``alembic_engine``. That the models
match is asked of a service's history only: prefiq_db's own follows no metadata.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pytest_alembic.plugin import fixtures
from pytest_alembic.tests import (  # noqa: F401 - pytest collects them here
    test_model_definitions_match_ddl,
    test_single_head_revision,
    test_up_down_consistency,
    test_upgrade,
)
from pytest_alembic.tests.experimental import all_models_register_on_metadata, downgrade_leaves_no_trace
from sqlalchemy.ext.asyncio import AsyncEngine

from prefiq_db.engines import make_async_engine, make_engine
from prefiq_db.migrate import migrations_directory
from prefiq_db.migrate.command_line import main
from prefiq_db.settings import DatabaseSettings
from tests.conftest import Backend

alembic_runner = fixtures.alembic_runner  # the plugin itself is off, see pyproject.toml

CREATE = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = "0001", None
def upgrade():
    op.create_table("item", sa.Column("sku", sa.String(9), primary_key=True))
def downgrade():
    op.drop_table("item")
"""
ADD = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = "0002", "0001"
def upgrade():
    op.add_column("item", sa.Column("note", sa.String(20)))
def downgrade():
    op.drop_column("item", "note")
"""
ENV = """
from prefiq_db.migrate import run
from sqlalchemy import Column, MetaData, String, Table
metadata = MetaData()
Table("item", metadata, Column("sku", String(9), primary_key=True), Column("note", String(20)))
run(metadata)
"""
MODELS = """
from sqlalchemy import Column, MetaData, String, Table
metadata = MetaData()
Table("item", metadata, Column("sku", String(9), primary_key=True))
"""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marks = {mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")}
    if "alembic_config" in metafunc.fixturenames and "alembic_config" not in marks:
        follows_models = metafunc.function is test_model_definitions_match_ddl
        metafunc.parametrize("alembic_config", ["service", *([] if follows_models else ["ours"])], indirect=True)


@pytest.fixture
def alembic_config(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    if request.param == "ours":
        return {"script_location": str(migrations_directory())}
    monkeypatch.chdir(tmp_path)
    assert main(["init", "history"]) == 0
    (tmp_path / "history" / "env.py").write_text(ENV)
    (tmp_path / "history" / "versions" / "0001.py").write_text(CREATE)
    (tmp_path / "history" / "versions" / "0002.py").write_text(ADD)
    return {"file": "alembic.ini"}


@pytest.fixture
def alembic_engine(backend: Backend, request: pytest.FixtureRequest) -> Iterator[sa.Engine | AsyncEngine]:
    settings = DatabaseSettings(url=backend.url)
    engine = make_async_engine(settings) if "in_a_loop" in request.fixturenames else make_engine(settings)
    yield engine
    if isinstance(engine, sa.Engine):
        engine.dispose()


@pytest.fixture
def in_a_loop() -> None:
    """Ask for an ``AsyncEngine``."""


@pytest.mark.usefixtures("in_a_loop")
def test_an_async_engine_goes_up_and_down_and_matches(alembic_runner: Any, alembic_config: dict[str, str]) -> None:
    """It is Alembic's ``connection`` as it is, and no loop runs yet."""
    test_up_down_consistency(alembic_runner)
    if "file" in alembic_config:
        alembic_runner.migrate_up_to("heads")
        test_model_definitions_match_ddl(alembic_runner)


@pytest.mark.parametrize("alembic_config", ["service"], indirect=True)
@pytest.mark.parametrize("backend", ["sqlite", "postgresql"], indirect=True)  # MariaDB's DDL commits its savepoints
def test_a_downgrade_leaves_no_trace(alembic_runner: Any) -> None:
    """The experimental test hands over what only stands for an engine, in an open transaction of its own."""
    downgrade_leaves_no_trace.test_downgrade_leaves_no_trace(alembic_runner)


@pytest.mark.parametrize("alembic_config", ["service"], indirect=True)
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)  # it looks at the env.py
def test_all_models_are_registered(
    alembic_runner: Any, backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The experimental test reads the env.py in a process of its own, and the models in this one."""
    monkeypatch.setenv("DB_URL", backend.url)
    monkeypatch.syspath_prepend(tmp_path)
    Path("models_of_a_service.py").write_text(MODELS)
    env = "from prefiq_db.migrate import run\nfrom models_of_a_service import metadata\nrun(metadata)\n"
    Path("history/env.py").write_text(env)
    all_models_register_on_metadata.test_all_models_register_on_metadata(alembic_runner)
