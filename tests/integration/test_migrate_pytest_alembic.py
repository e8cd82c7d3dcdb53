"""The default tests of pytest-alembic, on prefiq_db's own history and on each database.

They take the history from the fixture ``alembic_config`` and the database from ``alembic_engine``. That the models
match is asked of a service's history only: prefiq_db's own follows no metadata.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from pytest_alembic.plugin.fixtures import alembic_runner  # noqa: F401 - the plugin itself is off, see pyproject.toml
from pytest_alembic.tests import (  # noqa: F401 - pytest collects them here
    test_model_definitions_match_ddl,
    test_single_head_revision,
    test_up_down_consistency,
    test_upgrade,
)

from prefiq_db.engines import make_engine
from prefiq_db.migrate import migrations_directory
from prefiq_db.migrate.command_line import main
from prefiq_db.settings import DatabaseSettings
from tests.conftest import Backend

CREATE = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = "0001", None
def upgrade():
    op.create_table("item", sa.Column("sku", sa.String(9), primary_key=True))
def downgrade():
    op.drop_table("item")
"""
ENV = """
from prefiq_db.migrate import run
from sqlalchemy import Column, MetaData, String, Table
metadata = MetaData()
Table("item", metadata, Column("sku", String(9), primary_key=True))
run(metadata)
"""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "alembic_config" in metafunc.fixturenames:
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
    return {"file": "alembic.ini"}


@pytest.fixture
def alembic_engine(backend: Backend) -> Iterator[sa.Engine]:
    engine = make_engine(DatabaseSettings(url=backend.url))
    yield engine
    engine.dispose()
