"""A comment says who sent a statement, and changes nothing else."""

from __future__ import annotations

import re
import sqlite3
from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefiq_db.errors import UsageError
from prefiq_db.execution.comments import comment

# A busy machine is no failure.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

_MARKS = ("*/", "/*")
_texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20).filter(
    lambda text: not any(mark in text for mark in _MARKS)
)
_tags = st.dictionaries(_texts, _texts, max_size=5)
_statements = st.sampled_from(
    ["select 1", "select 1;", " select 'it''s' , \"a\" ;\n", "insert into t (a) values (%s)", "select '%' || ?", "x"]
)


def _read_back(sql: str) -> dict[str, str]:
    found = re.fullmatch(r".* /\*(.*)\*/[;\s]*", sql, re.S)
    assert found is not None
    pairs = (pair.partition("=") for pair in found[1].split(","))
    return {unquote(key): unquote(value.removeprefix("'").removesuffix("'")) for key, _, value in pairs}


def test_it_looks_as_sqlcommenter_writes_it() -> None:
    tags = {"route": "/orders/{id}", "app": "shop", "framework": "it's"}
    assert comment("select 1", tags) == ("select 1 /*app='shop',framework='it%27s',route='%2Forders%2F%7Bid%7D'*/")


@patient
@given(_statements, _tags)
def test_what_is_in_the_tags_can_be_read_back(sql: str, tags: dict[str, str]) -> None:
    shown = {key: value for key, value in tags.items() if key and value}
    made = comment(sql, tags)
    assert (made == sql) if not shown else (_read_back(made) == shown)


@patient
@given(_statements, _tags)
def test_the_statement_stays_as_it_is(sql: str, tags: dict[str, str]) -> None:
    assert re.sub(r" /\*.*\*/", "", comment(sql, tags), flags=re.S) == sql


@patient
@given(_statements, _tags)
def test_nothing_in_the_tags_ends_the_comment_or_the_quotes(sql: str, tags: dict[str, str]) -> None:
    made = comment(sql, tags)
    added = made.replace(sql.rstrip().rstrip(";"), "", 1)
    assert (added.count("/*"), added.count("*/")) in ((0, 0), (1, 1))
    assert added.count("'") == 2 * sum(1 for key, value in tags.items() if key and value)
    assert "\n" not in added.strip()


@patient
@given(_statements, _tags)
def test_a_second_comment_is_never_added(sql: str, tags: dict[str, str]) -> None:
    once = comment(sql, tags)
    assert comment(once, {**tags, "more": "tags"}) == once or once == sql


@patient
@given(_tags)
def test_the_order_of_tags_does_not_matter(tags: dict[str, str]) -> None:
    backwards = dict(reversed(tags.items()))
    assert comment("select 1", tags) == comment("select 1", backwards)


@patient
@given(_tags)
def test_a_server_reads_past_it(tags: dict[str, str]) -> None:
    with_comment = comment("select 'it''s' ;", tags)
    connection = sqlite3.connect(":memory:")
    try:
        assert connection.execute(with_comment).fetchall() == [("it's",)]
    finally:
        connection.close()


@patient
@given(_tags)
def test_a_driver_with_percent_markers_gets_them_doubled(tags: dict[str, str]) -> None:
    """What such a driver sends after filling in its binds is what the others send."""
    doubled = comment("select %s", tags, percent="%%")
    assert doubled % ("1",) == comment("select 1", tags)


@pytest.mark.parametrize(
    "sql", ["select 1 /* mine */", "select 1 -- mine", "/*+ hint */ select 1", "select '/*'", "", "  ", ";"]
)
def test_a_statement_that_has_a_comment_or_nothing_at_all_is_left_alone(sql: str) -> None:
    assert comment(sql, {"app": "shop"}) == sql


@pytest.mark.parametrize("tags", [{"a": "*/ drop table t"}, {"*/": "a"}, {"a": "/*"}, {"a": 1}, {1: "a"}])
def test_what_tries_to_break_out_is_refused(tags: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        comment("select 1", tags)
