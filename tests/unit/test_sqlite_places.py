"""Where a Decimal may stand in SQL that SQLite calculates: what isn't understood counts as wrong."""

from __future__ import annotations

import pytest

from prefiq_db.dialects.sqlite_places import right_places

RIGHT = [
    "insert into t values (?, ?), (?, ?)",
    "insert into t (a, b) values (?, q + 1)",
    "update t set n = ? where id = ?",
    "update t set q = q - 1, n = ? where n <> ?",
    "select * from t where n > ?",
    "select count(*) from t where coalesce(n, 0) <= ?",
    "select 1 where n between ? and ? and q * 2 > 3",
    "select 1 from t where n in (?, ?)",
    "select 1 where ? < t.n",
    "select round(n * ?, 2)",
    "select 1 where round(n * q, 4) >= ?",
    "select coalesce(n, ?) from t",
    "select case when n > ? then 1 else 0 end from t",
    "select case when q then ? else n end from t",
    "select max(n) from t having max(n) > ?",
    "select 1 where (n) = (?)",
    "select 1 where n >= ? or (q > 1 and n <= ?)",
    "select 1 from t where n = (select max(n) from t where n < ?)",
    "select 1 where cast(? as numeric(10,2)) < n",
    "select ? as x",
    "select 1 where n > -?",
    "select 1 where exists (select 1 from u where u.n = ?)",
    "with x as (select ? as a) select a from x",
    "select * from t where n = ? order by a * 2 limit ?",
    'select "?", \'?\' from t where "n" = ?',
    "select 1 where round(sum(n), 4) > ?",
    "select count(n) from t group by q having count(*) > ? and min(n) < ?",
    "insert into t select id, ? from t where n is not null",
    "update t set n = round(n + ?, 4) where id = 1",
    "delete from t where n = ?",
    "insert into t(a) values (?) on conflict (a) do update set a = excluded.a",
    "select n from t where q*3 > 4 and n = ?",
    "select abs(n) from t where abs(n) = ?",
]

WRONG = [
    "select 1 where n * q >= ?",
    "update t set n = n + ?",
    "select 1 where ? <= n * q",
    "select sum(n) from t having sum(n) > ?",
    "select 1 where avg(n) > ?",
    "select 1 where n * q in (?, 1)",
    "select 1 where n * q between ? and 5",
    "select 1 where n * q between 5 and ?",
    "select coalesce(n, ?) * 3 from t",
    "select 1 where (n + ?) > 4",
    "select case when q then ? else n end * 3",
    "select 1 where udf(n) = ?",
    "select n || ?",
    "select 1 where coalesce(n * 3, 0) > ?",
    "select 1 where case when q then n * 2 else 0 end > ?",
    "select 1 where (select ?) * 2 > 1",
    "select ? / 3",
    "select 1 where ? + 1 in (n)",
    "select udf(?)",
    "insert into t values (? * 2)",
    "select 1 where (n * q) > ?",
    "select 1 where round(n * 2) > coalesce(?, 0) * q",
    "select 1 where n > (select sum(n) from t) and sum(n) over () < ?",
    "select cast(? as text)",
    "select 1 where coalesce((select sum(n) from t), 0) > ?",
    "select json_extract(d, '$.a') ->> 'b' = ?",
]


@pytest.mark.parametrize("sql", RIGHT)
def test_a_decimal_is_right_where_it_is_stored_or_compared_as_it_is(sql: str) -> None:
    places = right_places(sql)
    assert places
    assert all(places)


@pytest.mark.parametrize("sql", WRONG)
def test_a_decimal_is_wrong_beside_what_is_calculated(sql: str) -> None:
    assert not any(right_places(sql))


def test_each_place_is_judged_by_itself() -> None:
    assert right_places("update t set n = ?, m = m * ? where n > ? and q + ? > 3") == (True, False, True, False)


def test_what_core_sums_is_right_and_a_decimal_in_it_is_judged_by_what_stands_around() -> None:
    assert right_places("select coalesce(prefiq_sum_4(n) filter (where q > 3), ?)") == (True,)
    assert right_places("select prefiq_sum_any(case when g = 1 then n else ? end)") == (True,)
    assert right_places("select prefiq_exact_add(?, ?)") == (True, True)
    assert right_places("select prefiq_sum_4(n * 3 + ?)") == (False,)
    assert right_places("select prefiq_sum_4(case when n * 3 > ? then n end)") == (False,)
