"""The linter finds each planted hazard on the databases where it is one, and nothing in what is safe."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from prefiq_db.errors import UsageError
from prefiq_db.migrate import migrations_directory
from prefiq_db.migrate.lint import DIALECTS, RULE_NAMES, Finding, lint

ROOT = Path(__file__).parents[2]
PG, MARIADB, SQLITE = "postgresql", "mariadb", "sqlite"
ALL = {PG, MARIADB, SQLITE}

HEAD = """\
import sqlalchemy as sa
from alembic import op
from prefiq_db.types import Money, StrEnum

revision = {revision!r}
down_revision = {down!r}


def upgrade():
"""
FIRST = """
op.create_table("customer", sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(20)))
"""
SECOND = """
op.create_table(
    "sale",
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("customer_id", sa.Integer, sa.ForeignKey("customer.id")),
)
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a history of revisions 1, 2, ... from the bodies of their ``upgrade()``."""

    def write(*bodies: str) -> Path:
        (tmp_path / "versions").mkdir(exist_ok=True)
        for number, body in enumerate(bodies, 1):
            head = HEAD.format(revision=str(number), down=str(number - 1) if number > 1 else None)
            indented = textwrap.indent(textwrap.dedent(body).strip(), "    ")
            (tmp_path / "versions" / f"{number}.py").write_text(f"{head}{indented}\n")
        return tmp_path

    return write


def found(findings: list[Finding]) -> dict[str, set[str]]:
    """Return the databases by rule."""
    rules: dict[str, set[str]] = {}
    for finding in findings:
        rules.setdefault(finding.rule, set()).add(finding.dialect)
    return rules


# Each with the rules it breaks and where; it breaks no others.
HAZARDS: dict[str, tuple[str, dict[str, set[str]]]] = {
    "NOT NULL without default": (
        'op.add_column("sale", sa.Column("amount", sa.Integer, nullable=False))',
        {"not-null-without-default": ALL},
    ),
    "NOT NULL in a batch": (
        'with op.batch_alter_table("sale") as batch:\n'
        '    batch.add_column(sa.Column("amount", sa.Integer, nullable=False))',
        {"not-null-without-default": ALL},
    ),
    "set NOT NULL": (
        'with op.batch_alter_table("sale") as batch:\n'
        '    batch.alter_column("customer_id", existing_type=sa.Integer(), nullable=False)',
        {"set-not-null": ALL},
    ),
    "rename a table": ('op.rename_table("sale", "sales")', {"rename": ALL}),
    "rename a column": (
        'op.alter_column("customer", "name", new_column_name="title", existing_type=sa.String(20))',
        {"rename": ALL},
    ),
    "rename by SQL": ('op.execute("ALTER TABLE customer RENAME COLUMN name TO title")', {"rename": ALL}),
    "type change": (
        'with op.batch_alter_table("sale") as batch:\n'
        '    batch.alter_column("customer_id", existing_type=sa.Integer(), type_=sa.BigInteger())',
        {"type-change": ALL},
    ),
    "a shorter text": (
        'with op.batch_alter_table("sale") as batch:\n'
        '    batch.alter_column("note", existing_type=sa.String(20), type_=sa.String(10))',
        {"type-change": ALL},
    ),
    "a longer text": (
        'with op.batch_alter_table("sale") as batch:\n'
        '    batch.alter_column("note", existing_type=sa.String(20), type_=sa.String(40))',
        {"type-change": {MARIADB, SQLITE}},
    ),
    "drop a column": ('op.drop_column("customer", "name")', {"contract": ALL}),
    "drop a column by SQL": ('op.execute("alter table customer drop name")', {"contract": ALL}),
    "drop a table": ('op.drop_table("sale")', {"contract": ALL}),
    "an index": (
        'op.create_index("ix", "sale", ["customer_id"])',
        {"index-blocks": {PG}, "index-copies": {MARIADB}},
    ),
    "an index of a new column": (
        'op.add_column("sale", sa.Column("day", sa.Date, index=True))',
        {"index-blocks": {PG}, "index-copies": {MARIADB}, "several-ddl": {MARIADB}},
    ),
    "an index by SQL": (
        'op.get_bind().execute(sa.text("create index ix on sale (customer_id)"))',
        {"index-blocks": {PG}, "index-copies": {MARIADB}},
    ),
    "a dropped index": ('op.drop_index("ix", "sale")', {"index-blocks": {PG}}),
    "concurrently in a transaction": (
        'op.create_index("ix", "sale", ["customer_id"], postgresql_concurrently=True)',
        {"concurrently-in-transaction": {PG}, "index-copies": {MARIADB}},
    ),
    "a unique constraint": (
        'with op.batch_alter_table("sale") as batch:\n    batch.create_unique_constraint("uq", ["customer_id"])',
        {"unique-blocks": {PG}},
    ),
    "a foreign key": (
        'with op.batch_alter_table("sale") as batch:\n'
        '    batch.create_foreign_key("fk", "customer", ["customer_id"], ["id"])',
        {"constraint-validates": {PG}},
    ),
    "a check": (
        'with op.batch_alter_table("sale") as batch:\n    batch.create_check_constraint("ck", "id > 0")',
        {"constraint-validates": {PG}},
    ),
    "several DDL statements": (
        'op.add_column("sale", sa.Column("a", Money()))\nop.add_column("sale", sa.Column("b", Money()))',
        {"several-ddl": {MARIADB}},
    ),
    "several DDL statements by one operation": (
        'with op.batch_alter_table("sale") as batch:\n    batch.add_column(sa.Column("a", StrEnum(("x", "y"))))',
        {"several-ddl": {MARIADB}, "constraint-validates": {PG}},
    ),
    "several DDL statements in SQL": (
        'op.execute("CREATE TABLE a (id int)")\nop.execute("/* two */ CREATE TABLE b (id int)")',
        {"several-ddl": {MARIADB}},
    ),
    "backfill with DDL": (
        'op.add_column("sale", sa.Column("a", Money()))\nop.execute("update sale set a = 0")',
        {"backfill-with-ddl": ALL},
    ),
    "backfill through the connection": (
        'op.add_column("sale", sa.Column("a", Money()))\n'
        'sale = sa.table("sale", sa.column("a"))\n'
        "rows = op.get_bind().execute(sa.select(sale)).all()\n"
        "op.get_bind().execute(sale.update().values(a=1))",
        {"backfill-with-ddl": ALL},
    ),
    "rebuild of a parent": (
        'with op.batch_alter_table("customer") as batch:\n    batch.drop_column("name")',
        {"rebuild-of-parent": {SQLITE}, "contract": ALL},
    ),
    "rebuild of a parent on demand": (
        'with op.batch_alter_table("customer", recreate="always") as batch:\n'
        '    batch.add_column(sa.Column("a", Money()))',
        {"rebuild-of-parent": {SQLITE}},
    ),
    "what SQLite can't alter": (
        'op.alter_column("sale", "customer_id", existing_type=sa.Integer(), server_default="0")',
        {"cannot-alter": {SQLITE}},
    ),
    "a constraint without a batch": (
        'op.create_check_constraint("ck", "sale", "id > 0")',
        {"cannot-alter": {SQLITE}, "constraint-validates": {PG}},
    ),
    "a NOT NULL column by SQL": (
        'op.execute("ALTER TABLE sale ADD COLUMN amount integer NOT NULL")',
        {"not-null-without-default": ALL},
    ),
    "a NOT NULL column by SQL, among others": (
        'op.execute("""alter  table if exists only public."sale"\n'
        "  add a int check (a is not null) default 1 not null,\n"
        '  -- a comment; with a sign\n  add "amount" numeric(12, 2)\n not null""")',
        {"not-null-without-default": ALL, "constraint-validates": {PG}, "cannot-alter": {SQLITE}},
    ),
    "NOT NULL columns in parentheses": (
        'op.execute("ALTER TABLE sale ADD (a int DEFAULT 1, b varchar(20) NOT NULL)")',
        {"not-null-without-default": ALL, "cannot-alter": {SQLITE}},
    ),
    "set NOT NULL by SQL": (
        'op.execute("ALTER TABLE sale ALTER COLUMN customer_id SET NOT NULL")',
        {"set-not-null": ALL, "cannot-alter": {SQLITE}},
    ),
    "type change by SQL": (
        'op.get_bind().exec_driver_sql("alter table sale alter customer_id set data type bigint")',
        {"type-change": ALL, "cannot-alter": {SQLITE}},
    ),
    "MODIFY": (
        'op.execute("ALTER TABLE sale MODIFY customer_id bigint NOT NULL")',
        {"type-change": ALL, "set-not-null": ALL, "cannot-alter": {SQLITE}},
    ),
    "CHANGE": (
        'op.execute("ALTER TABLE `sale` CHANGE COLUMN `customer_id` buyer_id bigint")',
        {"type-change": ALL, "rename": ALL, "cannot-alter": {SQLITE}},
    ),
    "a unique constraint by SQL": (
        'op.execute("ALTER TABLE sale ADD CONSTRAINT uq UNIQUE (customer_id)")',
        {"unique-blocks": {PG}, "cannot-alter": {SQLITE}},
    ),
    "a unique column by SQL": ('op.execute("ALTER TABLE sale ADD code text UNIQUE")', {"unique-blocks": {PG}}),
    "a check by SQL beside one that is not validated": (
        'op.execute("ALTER TABLE sale ADD CONSTRAINT a CHECK (id > 0) NOT VALID, ADD CHECK (id > 1)")',
        {"constraint-validates": {PG}, "cannot-alter": {SQLITE}},
    ),
    "drop a column by SQL, among others": (
        'op.execute("ALTER TABLE sale DROP CONSTRAINT ck, DROP customer_id")',
        {"contract": ALL, "cannot-alter": {SQLITE}},
    ),
    "several statements in one text": (
        'op.execute("CREATE TABLE a (id int); ALTER TABLE sale ADD b int; -- the end;")',
        {"several-ddl": {MARIADB}},
    ),
    "backfill by SQL in one text": (
        'op.execute("ALTER TABLE sale ADD b int; WITH c AS (SELECT 1) UPDATE sale SET b = 1")',
        {"backfill-with-ddl": ALL},
    ),
    "not readable": ("len(sa.inspect(op.get_bind()).get_table_names())", {"not-readable": ALL}),
}


@pytest.mark.parametrize("hazard", HAZARDS)
def test_a_planted_hazard_is_found_where_it_is_one(write: Write, hazard: str) -> None:
    body, expected = HAZARDS[hazard]
    findings = lint(write(FIRST, SECOND, body))
    assert found(findings) == expected
    for finding in findings:
        assert finding.revision == "3"
        assert finding.file.endswith("3.py")
        assert finding.message
        assert finding.safe_way
        assert finding.rule in RULE_NAMES


def test_a_foreign_key_in_a_text_makes_a_parent(write: Write) -> None:
    child = 'op.execute("create table item (id int primary key, sale_id int references sale (id))")'
    rebuild = 'with op.batch_alter_table("sale", recreate="always") as batch:\n    batch.alter_column("a")'
    assert [each.rule for each in lint(write(FIRST, SECOND, rebuild), [SQLITE])] == []
    assert [each.rule for each in lint(write(FIRST, SECOND, child, rebuild), [SQLITE])] == ["rebuild-of-parent"]


def test_each_rule_has_a_hazard() -> None:
    assert {rule for _, expected in HAZARDS.values() for rule in expected} == set(RULE_NAMES) - {
        "waiver-without-reason"
    }


def test_each_rule_is_told_in_the_docs() -> None:
    page = (ROOT / "docs" / "layering-alembic.md").read_text("utf-8")
    assert set(re.findall(r"^\| `([a-z-]+)` \| (?:all|any|PostgreSQL|MariaDB|SQLite) \|", page, re.M)) == set(
        RULE_NAMES
    )


SAFE = {
    "a new table with all it needs": """
        op.create_table(
            "item",
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("name", sa.String(20), nullable=False),
            sa.Column("state", StrEnum(("new", "old"))),
            sa.ForeignKeyConstraint(["id"], ["sale.id"]),
            sa.CheckConstraint("id > 0", name="ck"),
        )
        """,
    "a new table with rows": """
        item = op.create_table("item", sa.Column("id", sa.Integer, primary_key=True))
        op.bulk_insert(item, [{"id": 1}])
        op.get_bind().execute(item.update().values(id=2))
        """,
    "a nullable column": 'op.add_column("sale", sa.Column("a", Money()))',
    "NOT NULL with a default": """
        op.add_column("sale", sa.Column("a", Money(), nullable=False, server_default="0.0000"))
        """,
    "a nullable column of a parent": """
        with op.batch_alter_table("customer") as batch:
            batch.add_column(sa.Column("a", Money()))
        """,
    "only rows": """
        sale = sa.table("sale", sa.column("id"))
        while op.get_bind().execute(sale.update().values(id=1)).rowcount:
            pass
        op.execute("delete from sale where id = 0")
        """,
    "an index the safe way": """
        if op.get_context().dialect.name == "postgresql":
            with op.get_context().autocommit_block():
                op.create_index("ix", "sale", ["id"], postgresql_concurrently=True, if_not_exists=True)
        elif op.get_context().dialect.name == "mariadb":
            op.execute("CREATE INDEX ix ON sale (id) ALGORITHM=INPLACE LOCK=NONE")
        else:
            op.create_index("ix", "sale", ["id"])
        """,
    "a foreign key the safe way": """
        with op.batch_alter_table("sale") as batch:
            batch.create_foreign_key("fk", "customer", ["customer_id"], ["id"], postgresql_not_valid=True)
        """,
    "a constraint dropped": """
        with op.batch_alter_table("sale") as batch:
            batch.drop_constraint("ck", type_="check")
        """,
    "by SQL": """
        op.execute("ALTER TABLE sale ADD COLUMN note text DEFAULT 'SET NOT NULL; DROP x' NOT NULL")
        """,
    "by SQL on each database": """
        if op.get_context().dialect.name == "postgresql":
            op.execute("ALTER TABLE sale DROP CONSTRAINT ck, ALTER a DROP NOT NULL, ALTER a SET DEFAULT 'a, TYPE b'")
            op.execute("ALTER TABLE sale ADD CONSTRAINT uq UNIQUE USING INDEX ix, RENAME CONSTRAINT a TO b")
        elif op.get_context().dialect.name == "mariadb":
            op.execute("ALTER TABLE sale DROP KEY ix, ADD COLUMN id int NOT NULL AUTO_INCREMENT")
        """,
    "a new table by SQL": """
        op.execute("create table if not exists item (id int primary key)")
        if op.get_context().dialect.name != "mariadb":
            op.execute("ALTER TABLE item ADD a int NOT NULL UNIQUE")
        """,
    "the body of a trigger": """
        op.execute("CREATE TRIGGER t AFTER INSERT ON sale FOR EACH ROW BEGIN DELETE FROM log; UPDATE log SET a=1; END")
        """,
    "nothing": "pass",
}


@pytest.mark.parametrize("what", SAFE)
def test_what_is_safe_is_let_alone(write: Write, what: str) -> None:
    assert lint(write(FIRST, SECOND, SAFE[what])) == []


# --- waivers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        'op.drop_table("sale")  # prefiq: safe nobody uses it since release 3',
        '# prefiq: safe nobody uses it since release 3\nop.drop_table("sale")',
        '# prefiq: safe: nobody uses it\nop.drop_table(\n    "sale",\n)',
        'with op.batch_alter_table("sale") as batch:  # prefiq: safe nobody uses it\n'
        '    batch.drop_column("customer_id")',
    ],
)
def test_a_waiver_with_a_reason_waives_the_operation(write: Write, body: str) -> None:
    assert lint(write(FIRST, SECOND, body)) == []


def test_a_waiver_without_a_reason_is_a_finding_and_waives_nothing(write: Write) -> None:
    findings = lint(write(FIRST, SECOND, 'op.drop_table("sale")  # prefiq: safe'))
    assert found(findings) == {"contract": ALL, "waiver-without-reason": {""}}
    assert {finding.line for finding in findings} == {10}


def test_a_waiver_is_for_one_operation_and_a_string_is_no_waiver(write: Write) -> None:
    body = """
    op.drop_column("sale", "a")  # prefiq: safe nobody uses it
    text = "# prefiq: safe it is not"

    op.execute("drop table sale")
    """
    findings = lint(write(FIRST, SECOND, body), dialects=["postgresql"])
    assert [(finding.rule, finding.line) for finding in findings] == [("contract", 13)]


def test_a_helper_is_waived_where_it_is_called(write: Write) -> None:
    helper = """
    def drop():
        op.drop_table("sale")

    # prefiq: safe nobody uses it
    drop()
    """
    assert lint(write(FIRST, SECOND, helper)) == []


# --- what is asked for ---------------------------------------------------------------------------------


def test_findings_come_in_the_order_of_the_revisions_and_only_those_asked_for(write: Write) -> None:
    drop = 'op.drop_table("sale")'
    path = write(FIRST, SECOND, drop, "pass", drop)
    assert [finding.revision for finding in lint(path, [PG])] == ["3", "5"]
    assert [finding.revision for finding in lint(ScriptDirectory(str(path)), [PG], "5")] == ["5"]
    assert [finding.revision for finding in lint(path, [PG], "3:head")] == ["5"]
    assert [finding.revision for finding in lint(path, [PG], ":4")] == ["3"]
    assert str(lint(path, [PG], "5")[0]).endswith(
        "5.py:10: postgresql: contract: sale is dropped: code that still runs may use it, and no downgrade brings its "
        "data back. Safe: in a release after the one that stopped using it; then waive it and say so"
    )


def test_an_unknown_database_is_refused(write: Write) -> None:
    with pytest.raises(UsageError, match="expected dialects of postgresql, mariadb, sqlite, mysql; got oracle"):
        lint(write(FIRST), dialects=["oracle"])


def test_an_error_in_a_revision_tells_its_kind_and_no_value(write: Write) -> None:
    (finding,) = lint(write('raise ValueError("secret")'), [PG])
    assert (finding.rule, finding.line) == ("not-readable", 10)
    assert "ValueError" in finding.message
    assert "secret" not in str(finding)


def test_the_shipped_and_example_migrations_are_clean() -> None:
    assert lint(migrations_directory()) == []
    assert lint(ROOT / "examples" / "shop" / "migrations") == []
    assert set(DIALECTS) == ALL
