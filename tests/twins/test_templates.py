"""Template strings as statements: values are binds, lists expand, constructs stay constructs.

Before Python 3.14 the templates here are SQLAlchemy's stand-in, which takes the same road through our code. Python's
own syntax is tried where the interpreter has it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.util.compat import Template

from prefiq_db.dialects.rules import RULES
from prefiq_db.errors import ErrorKind, PrefiqDbError, ResourceError, StatementRefusedError, UsageError
from tests.conftest import Backend
from tests.twins.support import assert_silent

if sys.version_info >= (3, 14):
    from string.templatelib import Interpolation
else:

    @dataclass
    class Interpolation:
        """As string.templatelib has it."""

        value: Any
        expression: str = ""
        conversion: str | None = None
        format_spec: str = ""


def template(*parts: Any) -> Any:
    """Return ``t"..."`` of strings and of (value, expression) pairs."""
    return Template(*(part if isinstance(part, str) else Interpolation(*part) for part in parts))


item = sa.table("item", sa.column("sku", sa.String), sa.column("qty", sa.Integer))
NASTY = "it's 100% \\ \" :x %(y)s -- /* é"


async def filled(db: Any) -> Any:
    await db.execute("create table item (sku varchar(40) primary key, qty integer)")
    rows = [{"sku": "A1", "qty": 1}, {"sku": "B2", "qty": 2}, {"sku": NASTY, "qty": None}]
    await db.execute_many(sa.insert(item), rows)
    return db


async def test_values_are_binds(db: Any) -> None:
    """In every verb, outside and inside a transaction, with into= and types=; nothing of a value is ever SQL."""
    await filled(db)
    for sku, qty in (("A1", 1), (NASTY, None)):
        select = template("select sku, qty from item where sku = ", (sku, "sku"))
        async with db.transaction() as tx:
            for each in (db, tx):
                assert await each.fetch_all(select) == [(sku, qty)]
        assert await db.fetch_exactly_one(select, into=dict) == {"sku": sku, "qty": qty}
        assert await db.fetch_value(select, types={"sku": sa.Text, "qty": sa.Integer}) == sku
    changed = await db.execute(
        template("update item set qty = ", (5, "n + 1"), " where sku = ", ("B2", "sku"), " or 1=0")
    )
    assert changed.rowcount == 1
    assert (await db.execute(template("insert into item values (", ("C3", ""), ", ", (None, "qty"), ")"))).rowcount == 1
    assert await db.fetch_all("select sku, qty from item where sku in ('B2', 'C3') order by sku") == [
        ("B2", 5),
        ("C3", None),
    ]
    same = template("select ", ("x", "name"), " as a, ", ("y", "name"), " as b, ':x', '100%'")
    assert tuple(await db.fetch_one(same)) == ("x", "y", ":x", "100%")


async def test_lists_expand(db: Any) -> None:
    """Behind IN, with and without parentheses, empty ones, two at once, beside plain values."""
    await filled(db)
    for skus, numbers, expected in (
        (["A1", "B2"], (1,), ["A1"]),
        (("A1", NASTY), (1, 2, 3), ["A1"]),
        ([], (1,), []),
        (["A1"], (), []),
    ):
        for before, after in (("", ""), ("(", ")"), ("( ", " )")):
            statement = template(
                f"select sku from item where sku in {before}", (skus, "theSkus"),
                f"{after} and qty in {before}", (numbers, "numbers"), f"{after} and ", (1, "one"), " = 1 order by sku",
            )  # fmt: skip
            assert [row.sku for row in await db.fetch_all(statement)] == expected
    assert len(await db.fetch_all(template("select sku from item where sku not in ", ([], "none")))) == 3
    pairs = [("A1", 1), ("B2", 9)]
    assert await db.fetch_all(template("select sku from item where (sku, qty) in ", (pairs, "pairs"))) == [("A1",)]
    same = template("select sku from item where sku in ", (["A1"], "x"), " or sku in ", (["B2"], "x"), " order by sku")
    assert await db.fetch_all(same) == [("A1",), ("B2",)]
    assert (await db.execute(template("delete from item where sku in ", (["A1", "B2"], "skus")))).rowcount == 2


async def test_constructs_and_templates_stay_what_they_are(db: Any) -> None:
    """Columns, tables, binds of one's own and other templates in a template."""
    await filled(db)
    wanted = template("sku = ", ("B2", "sku"), " or qty in ", ([1], "few"))
    statement = template(
        "select ", (item.c.sku, "item.c.sku"), " from ", (item, "item"), " where (", (wanted, "wanted"), ") and qty < ",
        (sa.bindparam("most"), "most"), " order by ", (item.c.sku.desc(), "order"),
    )  # fmt: skip
    assert await db.fetch_all(statement, {"most": 9}) == [("B2",), ("A1",)]
    with pytest.raises(UsageError, match="no column or bind called mots"):
        await db.fetch_all(statement, {"mots": 9})


async def test_what_is_quoted_or_formatted_is_refused(db: Any, backend: Backend) -> None:
    """Before anything is sent: some drivers would put the value there, and its quotes would end the quotes."""
    await filled(db)
    before = db.stats().statement_count
    for parts in (
        ("select sku from item where sku = '", ("planted", "sku"), "'"),
        ("select sku from item where sku like '%", ("planted", "sku"), "%'"),
        ('select "', ("planted", "sku"), '" from item'),
        ("select 1 /* ", ("planted", "sku"), " */"),
        ("select 1 -- ", ("planted", "sku"), "\n"),
        *([("select $$", ("planted", "sku"), "$$")] if backend.name == "postgresql" else []),
        *([("select `", ("planted", "sku"), "`")] if backend.name != "postgresql" else []),
    ):
        with pytest.raises(UsageError, match="stands in quotes or in a comment") as failure:
            await db.fetch_all(template(*parts))
        assert_silent(failure.value, "planted")
    for more in (("r", ""), (None, ">10")):
        with pytest.raises(UsageError, match="format it before") as failure:
            await db.fetch_all(template("select ", ("planted", "sku", *more)))
        assert_silent(failure.value, "planted")
    for value in ({"planted"}, (each for each in ["planted"]), "planted"):
        with pytest.raises(UsageError, match="skus stands in IN :skus: expected a list or tuple") as failure:
            await db.fetch_all(template("select sku from item where sku in ", (value, "skus")))
        assert_silent(failure.value, "planted")
    most = RULES[backend.name].most_binds
    if most is not None:
        with pytest.raises(ResourceError, match="skus has"):
            await db.fetch_all(template("select sku from item where sku in ", (["planted"] * (most() + 1), "skus")))
    assert db.stats().statement_count == before


async def test_the_rules_for_statements_hold(db: Any) -> None:
    """Transaction control, several statements, locks outside a transaction; read_only; reads are known as reads."""
    await filled(db)
    for parts in (("commit",), ("select ", (1, "n"), "; select 2"), ("begin",)):
        with pytest.raises((StatementRefusedError, UsageError)):
            await db.execute(template(*parts))
        async with db.transaction() as tx:
            with pytest.raises((StatementRefusedError, UsageError)):
                await tx.execute(template(*parts))
            assert await tx.fetch_value("select count(*) from item") == 3
    reader = db.using(read_only=True)
    async with db.transaction():
        assert await reader.fetch_value(template("select count(*) from item where qty > ", (1, "n"))) == 1
        with pytest.raises(StatementRefusedError):
            await reader.execute(template("delete from item where qty > ", (1, "n")))
    assert await reader.fetch_value(template("select qty from item where sku = ", ("A1", "sku"))) == 1
    with pytest.raises(PrefiqDbError) as failure:
        await db.execute(template("insert into item values (", ("A1", "sku"), ", ", (1, "qty"), ")"))
    assert failure.value.kind is ErrorKind.UNIQUE
    assert_silent(failure.value, "A1")


async def test_a_template_is_one_statement_whatever_its_values(db: Any) -> None:
    """In SQLAlchemy's cache and in the statistics; a parameter has the name of its expression, where that is one."""
    await filled(db)
    told: list[Any] = []
    db.hooks.after(told.append)
    cache = getattr(db, "_wrapped", db)._core.instance.engine._compiled_cache
    before = len(cache)
    for number in range(5):
        parts = (
            "select sku from item where sku = ",
            (f"x{number}", "sku"),
            " and qty in ",
            (list(range(number + 1)), "a+b"),
        )
        await db.fetch_all(template(*parts))
    assert len(cache) == before + 1
    assert len({(event.fingerprint, event.statement) for event in told}) == 1
    assert "x1" not in str(told)
    assert any(name.startswith("sku") for name in told[0].parameters)
    assert told[0].summary == "SELECT item"


@pytest.mark.skipif(sys.version_info < (3, 14), reason="template strings are a syntax of Python 3.14")
async def test_pythons_own_syntax(db: Any) -> None:
    """t"..." itself, and an f-string beside it is a text."""
    await filled(db)
    places: dict[str, Any] = {"sku": NASTY, "skus": ["A1", "B2"]}
    one = eval('t"select sku, qty from item where sku = {sku}"', places)
    assert await db.fetch_all(one) == [(NASTY, None)]
    many = eval('t"select count(*) from item where sku in {skus}"', places)
    assert await db.fetch_value(many) == 2
    with pytest.raises(UsageError, match="format it before"):
        await db.fetch_all(eval('t"select {sku!r}"', places))
    with pytest.raises(UsageError, match="stands in quotes"):
        await db.fetch_all(eval("t\"select '{sku}'\"", places))
