"""What a deployer reads when a revision fails: what is wrong, the server's own words about names, and what is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefiq_db.migrate.command_line import main
from tests.conftest import Backend
from tests.integration.migrate_support import Project, write_module

VALUE = "hunter2canary"
TABLES = """
op.create_table('parent', sa.Column('id', sa.Integer, primary_key=True), sa.Column('sku', sa.String(40)))
op.create_table(
    'child',
    sa.Column('id', sa.Integer, primary_key=True),
    sa.Column('parent_id', sa.Integer),
    sa.ForeignKeyConstraint(['parent_id'], ['parent.id'], name='fk_parent'),
)
op.create_index('ix_sku', 'parent', ['sku'])
"""


@pytest.fixture
def project(backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DB_URL", backend.url)
    assert main(["init", "history"]) == 0
    made = Project(tmp_path, backend)
    made.revision(1, TABLES)
    assert made("up") == 0
    return made


def _said(project: Project, capsys: pytest.CaptureFixture[str], body: str) -> str:
    project.revision(2, body)
    capsys.readouterr()
    assert project("up") == 1
    said = capsys.readouterr().err
    where, _, error = said.partition("\n")
    assert where.startswith("revision 0002, up, statement 1: ")
    assert VALUE not in error
    assert "are all migrations applied?" not in error
    return said


def test_mistakes_with_names_are_told_with_the_servers_sentence(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """Missing, there already: what it is, its name, and what the server said of it, in definitions and in data."""
    for body, words, name in (
        ("op.execute('alter table nowhere add column a integer')", "a table is missing", "table nowhere"),
        ("op.drop_column('parent', 'absent')", "a column is missing", "column absent"),
        ("op.execute('drop table nowhere')", "a table is missing", "table nowhere"),
        (
            "op.create_table('child', sa.Column('id', sa.Integer))",
            "a table of that name is there already",
            "table child",
        ),
        (
            "op.add_column('parent', sa.Column('sku', sa.Integer))",
            "a column of that name is there already",
            "column sku",
        ),
        ("op.create_index('ix_sku', 'parent', ['id'])", "an index of that name is there already", "index ix_sku"),
    ):
        said = _said(project, capsys, body)
        assert words in said
        assert f"{name}," in said
        assert "The server says: " in said
        assert name.partition(" ")[2] in said.partition("The server says: ")[2]
    said = _said(project, capsys, f"op.execute(\"update nowhere set a = '{VALUE}'\")")
    assert "a table is missing (table nowhere," in said
    assert "what the revisions before this one leave" in said
    assert "The server says" not in said  # triggers may speak there


def test_what_is_depended_on_is_told(project: Project, capsys: pytest.CaptureFixture[str], backend: Backend) -> None:
    """With who depends on it, and the hint, where the server knows them."""
    if backend.name == "sqlite":
        body = "op.execute('create table t (a integer unique, b integer)'); op.execute('alter table t drop column a')"
        project.revision(2, body)
        assert project("up") == 1
        said = capsys.readouterr().err
        assert "other objects depend on a column (column a," in said
        return
    said = _said(project, capsys, "op.drop_table('parent')")
    assert "other objects depend on a table" in said
    if backend.name == "postgresql":
        assert "(table parent, code 2BP01)" in said
        assert "constraint fk_parent on table child depends on table parent" in said
        assert "Use DROP ... CASCADE to drop the dependent objects too" in said


def test_values_of_a_definition_are_left_out(
    project: Project, capsys: pytest.CaptureFixture[str], backend: Backend
) -> None:
    """Of its literals, of bare words where a value would stand, and of rows."""
    _said(project, capsys, f"op.execute(\"create table child (a varchar(20) default '{VALUE}')\")")
    _said(project, capsys, f'op.execute("create table t (a integer, check (a > {VALUE}))")')
    project.rows(f"insert into parent (id, sku) values (1, '{VALUE}'), (2, '{VALUE}')")
    said = _said(project, capsys, "op.create_index('uq_sku', 'parent', ['sku'], unique=True)")
    assert "a unique constraint was violated" in said
    if backend.name == "postgresql":
        assert 'The server says: could not create unique index "uq_sku"' in said
    if backend.name == "postgresql":
        said = _said(project, capsys, "op.execute('alter table parent alter column sku type integer')")
        assert "what is given to a column has the wrong type (column sku, cannot be cast automatically" in said
        assert 'You might need to specify "USING sku::integer"' in said


@pytest.mark.parametrize("backend", ["postgresql", "mariadb"], indirect=True)
def test_a_foreign_key_that_can_not_be(project: Project, capsys: pytest.CaptureFixture[str], backend: Backend) -> None:
    """It is a mistake in the schema, which PostgreSQL and MariaDB's 1005 (150) tell alike."""
    said = _said(
        project,
        capsys,
        "op.execute('create table t (a varchar(9), constraint fk_t foreign key (a) references parent (id))')",
    )
    assert "a foreign key can't be made" in said
    assert "have the same type" in said
    assert {"postgresql": '"fk_t" cannot be implemented', "mariadb": "errno: 150"}[backend.name] in said
    assert "failed inside" not in said


_CONCURRENTLY = (
    "with op.get_context().autocommit_block():\n    op.create_index('uq_sku', 'parent', ['sku'], unique=True,"
)
_CONCURRENTLY += " postgresql_concurrently=True)"


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
@pytest.mark.parametrize("first", ["", "op.execute('create table rack (id integer)')\n"])
def test_an_index_that_was_left_invalid_is_named(
    project: Project, capsys: pytest.CaptureFixture[str], first: str
) -> None:
    """CONCURRENTLY undoes nothing: the message says what to drop, and so does the next run until it is gone."""
    project.rows(f"insert into parent values (1, '{VALUE}'), (2, '{VALUE}')")
    project.revision(2, f"{first}{_CONCURRENTLY}")
    capsys.readouterr()
    assert project("up") == 1
    said = capsys.readouterr().err
    assert VALUE not in said
    assert 'The server says: could not create unique index "uq_sku"' in said
    assert "It left the invalid index uq_sku of parent. Before you go on: DROP INDEX CONCURRENTLY public.uq_sku" in said
    assert project("up") == 1
    said = capsys.readouterr().err
    assert "failed (unique, code 23505; leaves an invalid index), not applied: CREATE UNIQUE INDEX CONCURRENTLY" in said
    assert "drop the invalid index of statement" in said
    project.rows("drop index uq_sku")
    project.rows("delete from parent where id = 2")
    assert project("up", "--resume") == 0
    assert project.rows("select indisvalid from pg_index where indexrelid = 'uq_sku'::regclass") == [(True,)]


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_an_index_that_somebody_else_builds_is_not_the_statements(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is invalid too, until it is ready: nobody must be told to drop it."""
    project.rows("create index ix_my on parent (sku)")
    project.rows("create index being_built on parent (sku)")
    project.rows("update pg_index set indisvalid = false where indexrelid = 'being_built'::regclass")
    project.revision(
        2,
        "with op.get_context().autocommit_block():\n    op.execute('create index concurrently ix_my on parent (sku)')",
    )
    capsys.readouterr()
    assert project("up") == 1
    said = capsys.readouterr().err
    assert "there already" in said
    assert "being_built" not in said
    project.rows("drop index ix_my")
    assert project("up") == 0


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_what_fails_alone_outside_a_transaction_leaves_nothing(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server said that it failed: nobody has to look whether it is applied."""
    block = "with op.get_context().autocommit_block():\n    op.execute({})"
    project.revision(2, block.format("'create index concurrently ix on nowhere (id)'"))
    assert project("up") == 1
    assert "It left" not in capsys.readouterr().err
    project.revision(2, block.format("'create index concurrently ix on child (id)'"))
    assert project("up") == 0


LONG = "a" * 33


def _rename(project: Project, name: str) -> None:
    write_module(
        project.folder / "history" / "versions" / "0003.py",
        f"from alembic import op\nrevision, down_revision = '{name}', '0002'\n"
        "def upgrade():\n    op.execute('create table late (id integer)')\ndef downgrade(): pass\n",
    )


def test_an_id_that_is_too_long_is_refused_before_anything_is_applied(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.revision(2, "op.execute('create table early (id integer)')")
    _rename(project, LONG)
    capsys.readouterr()
    for command in (("up",), ("sql",), ("stamp", LONG)):
        assert project(*command) != 0
        said = capsys.readouterr()
        assert f"revision {LONG}: expected an id of at most 32 characters" in said.err
        assert "CREATE" not in said.out.upper() or "early" not in said.out
    assert project.version() == ["0001"]
    _rename(project, LONG[:32])
    assert project("up") == 0
    assert project.version() == [LONG[:32]]


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_a_column_that_somebody_made_wider_has_room(project: Project) -> None:
    project.rows("alter table alembic_version alter column version_num type varchar(64)")
    project.revision(2, "pass")
    _rename(project, LONG)
    assert project("up") == 0
    assert project.version() == [LONG]
