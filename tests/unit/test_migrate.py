"""What the migrations decide without a database: options, comparisons, explanations, what is a statement."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefiq_db.errors import SchemaError, UnsupportedError, UsageError
from prefiq_db.migrate import MigrateOptions
from prefiq_db.migrate.half_applied import describe_half_applied, find_resumption
from prefiq_db.migrate.recorder import show_statement
from prefiq_db.migrate.revisions import compare
from prefiq_db.migrate.run_log import DONE, FAILED, STARTED, Logged, Step, Unfinished
from prefiq_db.migrate.traits import MARIADB, POSTGRESQL, traits_of

LINE = {"a": (), "b": ("a",), "c": ("b",)}
DIAMOND = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")}


def unfinished(*states: str) -> Unfinished:
    statements = tuple(Logged(number, f"statement {number}", state, "schema") for number, state in enumerate(states, 1))
    return Unfinished(Step("alembic_version", "0002", "up"), statements)


# --- options -----------------------------------------------------------------------------------------


def test_x_arguments_are_read_and_others_left_alone() -> None:
    assert MigrateOptions.from_x({}) == MigrateOptions()
    said = {"lock": "no", "lock_wait": "0", "lock_timeout": "0.5", "resume": "", "resume_at": "3", "tenant": "x"}
    assert MigrateOptions.from_x(said) == MigrateOptions(
        lock=False, lock_wait=0.0, lock_timeout=0.5, resume=True, resume_at=3
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lock", "maybe"),
        ("lock_wait", "soon"),
        ("lock_wait", "-1"),
        ("lock_timeout", "0"),
        ("statement_timeout", "inf"),
        ("lock_wait", "nan"),
        ("resume_at", "0"),
        ("resume_at", "1.5"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(UsageError, match=f"{name}: expected"):
        MigrateOptions.from_x({name: text})


def test_a_database_that_we_do_not_speak_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="expected one of postgresql, mariadb, mysql, sqlite"):
        traits_of("oracle")


# --- the code's revisions and the database's ---------------------------------------------------------


def test_behind_at_head_and_ahead() -> None:
    assert compare(LINE, (), "v").missing == ("a", "b", "c")
    assert compare(LINE, ("b",), "v").missing == ("c",)
    assert compare(LINE, ("b",), "v").behind
    assert not compare(LINE, ("c",), "v").behind
    ahead = compare(LINE, ("z",), "v")
    assert (ahead.unknown, ahead.behind) == (("z",), False)
    assert not compare({}, (), "v").behind


def test_branches_are_followed_through_merges() -> None:
    assert compare(DIAMOND, ("b",), "v").missing == ("c", "d")
    assert compare(DIAMOND, ("b", "c"), "v").missing == ("d",)
    assert compare(DIAMOND, ("d",), "v").missing == ()


@given(st.sets(st.sampled_from(sorted(DIAMOND))))
def test_applied_and_missing_are_the_whole_history(current: set[str]) -> None:
    found = compare(DIAMOND, current, "v")
    assert set(found.missing).isdisjoint(current)
    assert [each for each in DIAMOND if each in found.missing] == list(found.missing)


# --- half applied ------------------------------------------------------------------------------------


def test_nothing_half_applied_needs_no_resumption() -> None:
    assert find_resumption(None, MigrateOptions(), MARIADB, "main") is None
    assert find_resumption(None, MigrateOptions(resume=True), MARIADB, "main") is None


@pytest.mark.parametrize(
    ("states", "position"), [((DONE,), 2), ((DONE, FAILED), 2), ((FAILED,), 1), ((DONE, DONE, FAILED), 3)]
)
def test_resume_goes_on_at_the_first_that_is_not_applied(states: tuple[str, ...], position: int) -> None:
    with pytest.raises(SchemaError, match="--resume "):
        find_resumption(unfinished(*states), MigrateOptions(), MARIADB, "main")
    found = find_resumption(unfinished(*states), MigrateOptions(resume=True), MARIADB, "main")
    assert found is not None
    assert found.position == position


def test_a_statement_in_flight_needs_a_number() -> None:
    half = unfinished(DONE, STARTED)
    for options in (MigrateOptions(), MigrateOptions(resume=True)):
        with pytest.raises(SchemaError, match="--resume-at 2; if it is, behind it: --resume-at 3"):
            find_resumption(half, options, MARIADB, "main")
    for position in (1, 2, 3):
        found = find_resumption(half, MigrateOptions(resume_at=position), MARIADB, "main")
        assert found is not None
        assert found.position == position
    with pytest.raises(UsageError, match="up to 3"):
        find_resumption(half, MigrateOptions(resume_at=4), MARIADB, "main")


def test_the_explanation_says_why_for_each_traits_of_database() -> None:
    assert "MariaDB commits each DDL statement by itself" in describe_half_applied(unfinished(DONE), MARIADB, "main")
    assert "autocommit_block" in describe_half_applied(unfinished(DONE), POSTGRESQL, "main")


@given(st.text(alphabet=st.characters(exclude_characters="'\\\x00", categories=("L", "N", "P", "Z"))))
def test_a_statement_is_shown_without_values(secret: str) -> None:
    assert show_statement(f"insert into item\n    values ('{secret}', 12345)") == "insert into item values (?, ?)"
