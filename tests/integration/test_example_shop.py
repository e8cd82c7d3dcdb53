"""The example's three revisions on every database: what release 1 wrote, release 3 reads."""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from prefiq_db import Database
from prefiq_db.errors import CheckViolationError, UniqueViolationError
from prefiq_db.types import Json, StrEnum, UtcDateTime, Uuid, misfit_names
from tests.conftest import Backend

SHOP = Path(__file__).parents[2] / "examples" / "shop"
HISTORY = ["0001", "0002", "0003"]

#: What release 1 knew of the table.
release_1 = sa.table(
    "product",
    sa.column("id", Uuid()),
    sa.column("name", sa.String()),
    sa.column("kind", StrEnum(("tea", "ware"))),
    sa.column("price_cents", sa.Integer()),
    sa.column("details", Json()),
    sa.column("added_at", UtcDateTime()),
)
NOW = dt.datetime(2024, 2, 29, 12, tzinfo=dt.timezone(dt.timedelta(hours=14)))


@pytest.fixture
def config(backend: Backend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Config:
    """The example's own alembic.ini, on the backend as the environment configures it."""
    monkeypatch.setenv("DB_URL", backend.url)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(SHOP.parent))
    return Config(SHOP / "alembic.ini")


def rows_of_release_1(count: int) -> list[dict[str, object]]:
    return [
        {
            "id": uuid.uuid4(),
            "name": f"tea {n}",
            "kind": "tea",
            "price_cents": n * 10 + 5,
            "details": None,
            "added_at": NOW,
        }
        for n in range(count)
    ]


def test_what_release_1_wrote_release_3_reads(config: Config, backend: Backend) -> None:
    """Expand, backfill in more than one step, contract: no row and no cent is lost."""
    command.upgrade(config, "0001")
    with Database(backend.url) as db:
        db.execute_many(sa.insert(release_1), rows_of_release_1(1100))
        command.upgrade(config, "0002")
        db.execute_many(sa.insert(release_1), [{**rows_of_release_1(1)[0], "name": "late", "price_cents": 1}])
        command.downgrade(config, "0001")  # and once more, for what came late
        command.upgrade(config, "head")

        from shop.catalogue import Line, add, price_list
        from shop.tables import Kind

        cheap = price_list(db, at_most=Decimal("0.16"))
        assert cheap == [
            Line("late", Kind.TEA, Decimal("0.01")),
            Line("tea 0", Kind.TEA, Decimal("0.05")),
            Line("tea 1", Kind.TEA, Decimal("0.15")),
        ]
        assert len(price_list(db, at_most=Decimal(1000))) == 1101
        add(db, "pot", Kind.WARE, Decimal("39.0001"), {"colour": "blue"})
        assert Line("pot", Kind.WARE, Decimal("39.0001")) in price_list(db, at_most=Decimal("39.0001"))
        with pytest.raises(UniqueViolationError):
            add(db, "pot", Kind.WARE, Decimal(1))
        with pytest.raises(CheckViolationError) as caught:
            db.execute("update product set kind = 'car' where name = 'pot'")
        assert caught.value.constraint == "ck_product_kind"


def test_the_history_and_the_tables_agree(config: Config, backend: Backend) -> None:
    """Also after going down and up again; nothing is left at the bottom, and every name fits every database."""
    command.upgrade(config, "head")
    command.check(config)
    command.downgrade(config, "base")
    with Database(backend.url) as db:
        assert {name for name in sa.inspect(db.engine).get_table_names() if not name.startswith("prefiq_")} <= {
            "alembic_version"
        }
    command.upgrade(config, "head")
    command.check(config)

    from shop.tables import metadata

    assert misfit_names(metadata) == []


def test_it_has_three_revisions_in_a_row(config: Config) -> None:
    from alembic.script import ScriptDirectory

    revisions = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    assert list(reversed(revisions)) == HISTORY
