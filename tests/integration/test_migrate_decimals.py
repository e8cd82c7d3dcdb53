"""Columns that held decimals as texts on SQLite become numbers, with everything else as it was."""

from __future__ import annotations

import sqlite3
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa

from prefiq_db import Database
from prefiq_db.errors import SchemaError, UniqueViolationError
from prefiq_db.migrate.command_line import main
from prefiq_db.migrate.text_decimals import rewrite
from prefiq_db.types import Money
from tests.conftest import Backend
from tests.integration.migrate_support import Project

# As earlier versions made it, by hand in places.
OLD = '''
op.execute("""
CREATE TABLE "acc" (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, -- the key, of course
    "n" VARCHAR(21) DEFAULT '0.0000' NOT NULL CONSTRAINT positive CHECK (n <> 'x, (y'),
    tax VARCHAR(14), parent INTEGER REFERENCES acc (id) ON DELETE CASCADE,
    doubled INTEGER GENERATED ALWAYS AS (id * 2) VIRTUAL,
    CONSTRAINT uq_acc_tax UNIQUE (tax),
    CHECK (tax >= -100 AND n >= -1000 AND n <= 99999999999)
)
""")
op.execute("CREATE INDEX ix_acc_n ON acc (n)")
op.execute("CREATE UNIQUE INDEX ix_acc_part ON acc (n) WHERE tax IS NOT NULL")
op.execute("CREATE VIEW rich AS SELECT id FROM acc WHERE n > 5")
op.execute("CREATE TABLE log (id INTEGER, child INTEGER REFERENCES acc (id) ON DELETE CASCADE)")
op.execute("CREATE TRIGGER noted AFTER DELETE ON acc BEGIN INSERT INTO log (id) VALUES (old.id); END")
op.execute("PRAGMA ignore_check_constraints = ON")
op.execute("INSERT INTO acc (id, n, tax) VALUES (1, '-999.9999', NULL), (2, '0.3', '0.19'), (3, '10.0000', '-9.50')")
op.execute("INSERT INTO acc (id, n, parent) VALUES (40, '99999999998.9999', 1)")
op.execute("DELETE FROM acc WHERE id = 40")
op.execute("INSERT INTO acc (id, n, parent) VALUES (4, '99999999998.9999', 1)")
op.execute("INSERT INTO log VALUES (7, 4)")
op.execute("PRAGMA ignore_check_constraints = OFF")
'''
MOVE = """
from prefiq_db.migrate import decimals_to_numbers
from prefiq_db.types import ExactDecimal, Money
decimals_to_numbers('acc', {'n': Money(), 'tax': ExactDecimal(12, 2)})
"""
acc = sa.table("acc", sa.column("id", sa.Integer), sa.column("n", Money()), sa.column("parent", sa.Integer))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    backend = Backend("sqlite", f"sqlite:///{tmp_path / 'test.db'}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DB_URL", backend.url)
    assert main(["init", "history"]) == 0
    project = Project(tmp_path, backend)
    project.revision(1, OLD)
    assert project("up") == 0
    return project


def test_until_it_has_run_the_columns_are_refused(project: Project) -> None:
    with Database(project.backend.url) as db, pytest.raises(SchemaError, match="decimals_to_numbers"):
        db.fetch_all(sa.select(acc.c.id).where(acc.c.n > 5))


def test_texts_become_numbers_and_all_else_stays(project: Project) -> None:
    """Negatives, NULLs, the CHECKs, indexes, triggers, views, children, AUTOINCREMENT, defaults; a second run too."""
    others = "select name, sql from sqlite_master where name <> 'acc' and sql is not null"
    before = dict(project.rows(others))
    project.revision(2, MOVE + "decimals_to_numbers('acc', {'n': Money(), 'tax': ExactDecimal(12, 2)})")
    assert project("up") == 0
    assert dict(project.rows(others)) == before
    assert project.rows("select n, tax, typeof(n), doubled from acc order by id") == [
        (-999.9999, None, "real", 2),
        (0.3, 0.19, "real", 4),
        (10.0, -9.5, "real", 6),
        (99999999998.9999, None, "real", 8),
    ]
    assert project.rows("select * from log") == [(40, None), (7, 4)]
    assert project.rows("select seq from sqlite_sequence where name = 'acc'") == [(40,)]
    assert project.rows("select count(*) from rich") == [(2,)]
    with Database(project.backend.url) as db:
        assert [row[0] for row in db.fetch_all(sa.select(acc.c.n).order_by(acc.c.n))] == [
            Decimal("-999.9999"), Decimal("0.3"), Decimal(10), Decimal("99999999998.9999"),
        ]  # fmt: skip
        assert "ix_acc_n" in str(db.fetch_all("explain query plan select n from acc where n = 10"))
        db.execute("insert into acc (parent) values (1)")
        assert db.fetch_value(sa.select(acc.c.n).where(acc.c.id == 41)) == Decimal("0.0000")
        with pytest.raises(UniqueViolationError):
            db.execute("insert into acc (tax) values (0.19)")
    assert project.rows("pragma foreign_key_check") == []
    plain = sqlite3.connect(project.folder / "test.db")
    for bad in ("n = -1001", "tax = -101", "n = 0.1 + 0.2", "n = '?'"):
        with pytest.raises(sqlite3.IntegrityError):
            plain.execute(f"update acc set {bad} where id = 2")
    plain.close()


def test_what_the_column_cannot_keep_stops_it_before_anything_changes(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """A float's text of an earlier version, or more digits: told by number, never by value."""
    for bad in ("100000000000000.0", "4711.00001", "no number"):
        project.rows("pragma ignore_check_constraints = on")
        plain = sqlite3.connect(project.folder / "test.db")
        plain.execute("pragma ignore_check_constraints = on")
        plain.execute("update acc set n = ? where id = 2", (bad,))
        plain.commit()
        plain.close()
        project.revision(2, MOVE)
        assert project("up") == 1
        said = capsys.readouterr().err
        assert "acc.n: 1 rows hold what isn't a number of 19 digits" in said
        assert bad not in said
        assert project.rows("select typeof(n) from acc where id = 2") == [("text",)]


def test_an_unknown_column_is_named(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.revision(2, MOVE.replace("'tax'", "'vat'"))
    assert project("up") == 1
    assert "acc has no column vat" in capsys.readouterr().err


MAKE = """
import prefiq_db.types
op.create_table(
    'pay',
    sa.Column('id', sa.Integer, primary_key=True),
    sa.Column('n', prefiq_db.types.Money(), nullable=False, server_default='0.5000'),
    sa.CheckConstraint('n >= 0 AND n <= 1000', name='ck_pay_n'),
)
op.execute("insert into pay (id, n) values (1, 5)")
op.add_column('pay', sa.Column('tax', prefiq_db.types.ExactDecimal(12, 2)))
"""
REBUILD = "with op.batch_alter_table('pay') as batch:\n    batch.alter_column('id', type_=sa.BigInteger)"


def test_a_rebuild_by_alembic_keeps_the_column_and_its_check(project: Project) -> None:
    """``batch_alter_table`` reads the table anew; the type it finds brings its CHECK. So does a new column."""
    for number, body in ((2, MAKE), (3, REBUILD)):
        project.revision(number, body)
        assert project("up") == 0
        ((sql,),) = project.rows("select sql from sqlite_master where name = 'pay'")
        assert str(sql).count("CHECK (abs(") == 2
        assert str(sql).count("ck_pay_n") == 1
        assert "DECIMAL_REAL(19, 4)" in str(sql)
        project.rows(f"insert into pay (id, tax) values ({number}, 0.19)")
        assert project.rows(f"select n, tax from pay where id = {number}") == [(0.5, 0.19)]
        plain = sqlite3.connect(project.folder / "test.db")
        for bad in ("n = 1001", "tax = 0.191", "n = 0.1 + 0.2"):
            with pytest.raises(sqlite3.IntegrityError):
                plain.execute(f"update pay set {bad} where id = 1")
        plain.close()


def test_a_definition_is_rewritten_word_by_word() -> None:
    create = 'CREATE TABLE t("a" text COLLATE nocase, [n] VARCHAR (21), b DEFAULT (max(1, 2)), `m` varchar(9) NOT NULL)'
    found = rewrite(create, "new", {"N": Money(), "m": Money()})
    assert found.startswith('CREATE TABLE new("a" text COLLATE nocase, [n] DECIMAL_REAL(19, 4) CHECK (abs("n") <')
    assert "b DEFAULT (max(1, 2)), `m` DECIMAL_REAL(19, 4) NOT NULL CHECK (abs(" in found
