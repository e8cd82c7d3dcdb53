"""Which texts may stand in a block of MariaDB's: those that are seen to end where they end."""

from __future__ import annotations

import pytest

from prefiq_db.execution.enclosable import enclosed

FITS = {
    "select 1": "select 1",
    "select 1;": "select 1",
    "select 1 ; ; ": "select 1 ",
    "select 1 -- a comment; with an end": "select 1 -- a comment; with an end",
    "select 1; -- a comment": "select 1",
    "select 1 # a comment": "select 1 # a comment",
    "insert into t values ('a;b', \"c;d\", `e;f`)": "insert into t values ('a;b', \"c;d\", `e;f`)",
    "(select 1) union (select 2)": "(select 1) union (select 2)",
    "with a as (select 1) select * from a": "with a as (select 1) select * from a",
    "update t set a = %s where b = '100 %%'": "update t set a = %s where b = '100 %%'",
}
DOESNT_FIT = [
    "select 1; commit",
    "select 'open",
    'select "open',
    "select `open",
    "select 1 /* open",
    "select 1 /* closed */",
    "select 1 /*! 2 */",
    "select 1 /*M! commit */",
    "select '\\'; commit; -- '",
    "begin not atomic select 1; end",
    "if 1 then select 1; end if",
    "call p()",
    "set @a = 1",
    "end",
    "",
    ";",
    "create table t (a int)",
    "select 1 --\x7f '\n; drop table t -- '",  # to MariaDB a comment: DEL is a control character
    "select 1 from (select 1 as `\u00a0x`) q where 1 --\u00a0x; drop table t",  # and this is none
    "select 1 --1",
    "select 1 as prefiq_end_of_text",
    "select 'prefiq_end_of_text",
]


@pytest.mark.parametrize("text", FITS)
def test_a_statement_that_ends_is_enclosed(text: str) -> None:
    assert enclosed(text, "mariadb") == FITS[text]


@pytest.mark.parametrize("text", DOESNT_FIT)
def test_whatever_could_reach_out_is_sent_by_itself(text: str) -> None:
    assert enclosed(text, "mariadb") is None
