"""What a text costs grows with its length and not with the square of it, whatever is in it and left unclosed."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import pytest

from prefiq_db.dialects.mariadb import _kind_of
from prefiq_db.dialects.rules import RULES
from prefiq_db.dialects.sqlite_places import _found as _decimal_places
from prefiq_db.execution.in_places import find_places
from prefiq_db.execution.sql_tokens import scan
from prefiq_db.execution.statement_facts import _judged, facts_of_text
from prefiq_db.insight.summary import describe, fingerprint
from prefiq_db.masking import LONGEST_SHOWN, head_of, mask_for_tables, mask_literals, mask_statement

_DIALECTS = ("postgresql", "mariadb", "sqlite")

# A part to be repeated; what stands before it once.
_TEXTS = {
    "comments": ("select 1 ", "/* "),
    "closed comments": ("select 1 ", "/* a */ "),
    "comment ends": ("select 1 ", "*/ /"),
    "code comments": ("select 1 ", "/*!5 "),
    "line comments": ("select 1 ", "-- a\n"),
    "dollar tags": ("select ", "$a$ $b$ "),
    "a long tag": ("select $", "a"),
    "numbered tags": ("select ", "$tag1 "),
    "escaped quotes": ("select '", "''"),
    "escapes": ("select '", "\\'"),
    "escapes of E": ("select E'", "\\' '' "),
    "strings in lines": ("select E'a'", "\n'a'"),
    "blanks after E": ("select E'a'", "\n "),
    "double quotes": ('select "', '""'),
    "backticks": ("select `", "``"),
    "backticks open": ("select ", "` "),
    "brackets": ("select ", "["),
    "a long word": ("select ", "a"),
    "a dotted name": ("select * from ", "aaaaaaaaaa."),
    "dots": ("select * from a", " . b"),
    "parentheses": ("select ", "("),
    "closing ones": ("select ", ") in :a "),
    "calls": ("select ", "f(x, "),
    "session questions": ("select nextval('s'), ", "currval(x), "),
    "set_config": ("select ", "set_config('a', b, ("),
    "begins": ("create procedure p() ", "begin "),
    "cases": ("select ", "case x end case "),
    "statements": ("", "select 1; "),
    "structures": ("if a then ", "end if; "),
    "values": ("insert into t values ", "(1, 'a', null), "),
    "binds": ("select * from t where a in ", "(?, :a, %(a)s), "),
    "decimals": ("insert into t values ", "(?, ? + 1, round(?)), "),
    "rows of binds": ("select * from t where ", "(a, b) in :c and "),
    "numbers": ("select 1 in (0", ", 1.5e3"),
    "unions": ("select 1", " union all select a from b where c = 'd'"),
    "commas": ("select * from a", ", b"),
    "accounts": ("grant a to b", "@c"),
    "numbers and words": ("select ", "1a2b "),
}


def _work(act: Callable[[], object], times: int = 3) -> int:
    """Return the processor time of this thread in ns, the least of some: what others do beside it doesn't count."""
    least = []
    for _ in range(times):
        before = time.thread_time_ns()
        act()
        least.append(time.thread_time_ns() - before)
    return max(1, min(least))


# 16,000 times 16,000 steps, of which no machine does ten in a nanosecond.
_A_SQUARE = 25_000_000


def _readers(dialect: str) -> dict[str, Callable[[str], object]]:
    readers: dict[str, Callable[[str], object]] = {
        "facts": lambda sql: _judged(sql, dialect),
        "binds": lambda sql: find_places(sql, dialect),
        "mask": lambda sql: mask_literals(sql, dialect),
        "mask for tables": lambda sql: mask_for_tables(sql, dialect),
        "describe": lambda sql: describe(sql, None, dialect),
    }
    if dialect == "sqlite":
        readers |= {"decimals": _decimal_places, "mask of any": mask_literals}
    if dialect == "mariadb":
        readers["kind"] = _kind_of
    return readers


@pytest.mark.parametrize("dialect", _DIALECTS)
@pytest.mark.parametrize("name", list(_TEXTS))
def test_work_grows_with_the_length(dialect: str, name: str) -> None:
    """Sixteen times the text is about sixteen times the work, where a square would be 256 times."""
    start, part = _TEXTS[name]
    short, long = (start + part * (size // len(part)) for size in (1_000, 16_000))
    for reader, read in _readers(dialect).items():
        if _work(partial(read, long), 1) < _A_SQUARE:
            continue
        ratio = _work(partial(read, long)) / _work(partial(read, short))
        assert ratio < 80, f"{reader} of {name}: {ratio:.0f} times the work for 16 times the text"


def test_control_a_square_is_found() -> None:
    """What looks at all the rest from each place is not let through."""

    def square(text: str) -> object:
        return [text.count("b", place) for place in range(len(text))]

    assert _work(lambda: square("a" * 32_000)) / _work(lambda: square("a" * 2_000)) > 80


def test_a_generated_list_is_one_step() -> None:
    """Rows of literals tell nothing: a megabyte of them costs a few pieces, and what stands behind is still read."""
    rows = ", ".join(f"({number}, 'it''s {number}', null, -1.5)" for number in range(5000))
    for dialect in _DIALECTS:
        tokens = scan(f"insert into t values {rows} returning id", RULES[dialect].lexis)
        assert len(tokens.texts) < 50
        assert tokens.texts[:4] == ["insert", "into", "t", "values"]
        assert tokens.words[-2:] == ["returning", "id"]
        assert facts_of_text(f"insert into t values {rows} returning id", dialect).returning
        assert facts_of_text(f"insert into t values {rows}; commit", dialect).several
        assert not facts_of_text(f"select pg_sleep(1), {rows}", dialect).reads_only


@pytest.mark.parametrize(
    "tail",
    [
        "(1, f(2))",
        "(1, :bind)",
        "(1, 'a' 'b')",
        r"(1, 'a\')",
        "(2)) union select f(1",
        "('it''s', \"x\")",
        "1 + g(2)",
    ],
)
def test_what_is_no_literal_is_still_read(tail: str) -> None:
    """A list ends where something else comes, which is read as it is behind a short list."""
    many = ", ".join(["(1, 'a')"] * 30)
    for dialect in _DIALECTS:
        short, long = (
            scan(f"select * from t where (a, b) in ({rows}, {tail})", RULES[dialect].lexis)
            for rows in ("(1, 'a')", many)
        )
        behind = scan(tail + ")", RULES[dialect].lexis).texts
        assert long.texts[-len(behind) :] == short.texts[-len(behind) :] == behind
        assert long.doubtful == short.doubtful


def test_a_long_text_is_shown_by_its_head() -> None:
    """What leaves the process is bounded, says that it is cut, and has no value, wherever the cut goes through."""
    for secret in ("'{}'", "$tag${}$tag$", "E'{}'", "/* {} */", "0x{}"):
        canary = "70915c4321"
        for before in range(LONGEST_SHOWN - 25, LONGEST_SHOWN + 1):
            sql = "select".ljust(before) + secret.format(canary) + " from customer" + " " * 100
            text = mask_statement(sql, "postgresql")
            assert len(text) <= LONGEST_SHOWN + 50
            assert text.endswith(f" ... (cut: it has {len(sql)} characters)")
            assert "7091" not in text.removesuffix(f"{len(sql)} characters)")
    assert mask_statement("select 1", "sqlite", masked=False) == "select 1"
    assert head_of("select 1") == "select 1"


def test_long_texts_of_a_kind_have_one_fingerprint() -> None:
    """A list that goes on behind the cut has any length there."""
    texts = [f"insert into t values {', '.join(['(?, ?)'] * count)}" for count in (1, 3, 5000, 9000)]
    lists = [
        f"select * from t where a in ({', '.join(map(str, range(10**9, 10**9 + count)))})" for count in (5000, 9000)
    ]
    assert len({fingerprint(text) for text in texts}) == 1
    assert len({fingerprint(text) for text in lists}) == 1
    assert describe(texts[-1], None, "sqlite").summary == "INSERT t"
