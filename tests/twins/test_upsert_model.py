"""Random upserts into random tables do what a model in Python does, with a second and a third unique key in the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from prefiq_db.dialects import upsert_sql
from prefiq_db.dialects.upsert_sql import MariadbUpsert
from prefiq_db.errors import UniqueViolationError, UsageError
from prefiq_db.execution import upsert_request
from prefiq_db.memory import Memory
from tests.conftest import Backend
from tests.twins.support import in_engine_begin

meta = sa.MetaData()
part = sa.Table(
    "part",
    meta,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("sku", sa.String(10), nullable=False, unique=True),
    sa.Column("code", sa.Integer, unique=True),
    sa.Column("qty", sa.Integer, nullable=False),
    sa.Column("total", sa.Integer),
)

Row = dict[str, Any]
UNIQUE = ("id", "sku", "code")
UPDATES: dict[str, Any] = {
    "all": None,
    "nothing": (),
    "one": ("qty",),
    "another key": ("code", "qty"),
    "calculated": {
        "qty": lambda stored, given: stored.qty + given.qty,
        "total": lambda stored, given: stored.qty * 100 + given.qty,
    },
    "literal": {"qty": 7, "total": None},
}


@dataclass
class Model:
    """The table as it should be.

    Attributes:
        first_met_decides: MariaDB looks at the unique keys in their order, and a row that another key meets first is an
            error there, even if the row with the given key would have been updated.
    """

    first_met_decides: bool
    rows: list[Row] = field(default_factory=list)

    def upsert(self, rows: list[Row], key: str, form: str) -> tuple[int, list[Row]]:
        """Change the rows; return how many are new, and the row of each given row.

        Raises:
            UsageError, UniqueViolationError: as the verb does; then nothing was changed.
        """
        if len({row[key] for row in rows}) < len(rows) or any(row[key] is None for row in rows):
            raise UsageError("two rows with one key")
        state, new, touched = [dict(row) for row in self.rows], 0, []
        for row in rows:
            met = self._met(state, row, key)
            if met is None:
                met = {**row, "total": None}
                state.append(met)
                new += 1
            else:
                met.update(_changes(met, row, key, form))
            _check(state)
            touched.append(met)
        self.rows = state
        return new, touched

    def _met(self, state: list[Row], row: Row, key: str) -> Row | None:
        if not self.first_met_decides:
            return next((each for each in state if each[key] == row[key]), None)
        for name in UNIQUE:
            for each in state:
                if row[name] is not None and each[name] == row[name]:
                    if each[key] != row[key]:
                        raise UniqueViolationError("another key")
                    return each
        return None


def _changes(met: Row, row: Row, key: str, form: str) -> Row:
    if form == "all":
        return {name: value for name, value in row.items() if name != key}
    if form == "calculated":
        return {"qty": met["qty"] + row["qty"], "total": met["qty"] * 100 + row["qty"]}
    update = UPDATES[form]
    return dict(update) if isinstance(update, Mapping) else {name: row[name] for name in update}


def _check(state: list[Row]) -> None:
    for name in UNIQUE:
        values = [row[name] for row in state if row[name] is not None]
        if len(set(values)) < len(values):
            raise UniqueViolationError(name)


@st.composite
def tables(draw: st.DrawFn) -> list[Row]:
    count = draw(st.integers(0, 4))
    ids = draw(st.permutations(range(1, 5)))
    skus = draw(st.permutations("abcd"))
    codes = draw(st.permutations((1, 2, 3, 4)))
    empty = draw(st.lists(st.booleans(), min_size=4, max_size=4))
    return [
        {"id": ids[n], "sku": skus[n], "code": None if empty[n] else codes[n], "qty": n, "total": None}
        for n in range(count)
    ]


given_rows = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.integers(1, 5),
            "sku": st.sampled_from("abcde"),
            "code": st.none() | st.integers(1, 5),
            "qty": st.integers(0, 9),
        }
    ),
    min_size=1,
    max_size=3,
)
calls = st.tuples(given_rows, st.sampled_from(UNIQUE), st.sampled_from(sorted(UPDATES)), st.booleans())


def check_all(db: Any, run: Callable[[Any], Any], backend: Backend, **options: Any) -> None:
    """Compare random upserts with the model."""
    run(in_engine_begin(db, meta.create_all))

    @settings(deadline=None, suppress_health_check=list(HealthCheck), database=None, **options)
    @given(tables(), st.lists(calls, min_size=1, max_size=3), st.booleans())
    def check(table: list[Row], several: list[Any], in_transaction: bool) -> None:
        run(_check_calls(db, backend, table, several, in_transaction))

    check()


async def _check_calls(db: Any, backend: Backend, table: list[Row], several: list[Any], in_transaction: bool) -> None:
    await db.execute(sa.delete(part))
    if table:
        await db.execute_many(sa.insert(part), table)
    model = Model(backend.name == "mariadb", table)
    for rows, key, form, returns in several:
        expected: Any = None
        try:
            expected = model.upsert(rows, key, form)
        except (UsageError, UniqueViolationError) as error:
            expected = type(error)
        got = await _upsert(db, rows, key, form, returns, in_transaction)
        stored = [dict(row._mapping) for row in await db.fetch_all(sa.select(part).order_by(part.c.id))]
        assert stored == sorted(model.rows, key=lambda row: row["id"]), "stored other rows than the model"
        if isinstance(expected, type):
            assert got is expected
            continue
        new, touched = expected
        assert not isinstance(got, type), got
        assert (got.row_count, got.inserted) == (len(rows), new)
        assert got.updated == (0 if form == "nothing" else len(rows) - new)
        wanted = [(row["qty"], row["sku"], row["id"], row["total"]) for row in touched] if returns else []
        assert list(map(tuple, got.rows)) == wanted


async def _upsert(db: Any, rows: list[Row], key: str, form: str, returns: bool, in_transaction: bool) -> Any:
    returning = ["qty", "sku", "id", "total"] if returns else None
    try:
        if not in_transaction:
            return await db.upsert(part, rows, key=key, update=UPDATES[form], returning=returning)
        async with db.transaction() as tx:
            return await tx.upsert(part, rows, key=[key], update=UPDATES[form], returning=returning)
    except (UsageError, UniqueViolationError) as error:
        return type(error)


def test_random_upserts_do_what_the_model_does(db: Any, run: Callable[[Any], Any], backend: Backend) -> None:
    check_all(db, run, backend, max_examples=40)


@pytest.mark.mariadb
@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)
def test_the_form_without_a_guard_is_caught(
    db: Any, run: Callable[[Any], Any], backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: what everybody writes updates a row that another key meets, and the property test finds it."""

    monkeypatch.setattr(MariadbUpsert, "_has_the_key", lambda self, wanted, given: sa.true())
    monkeypatch.setattr(upsert_sql, "_kept", Memory(8))
    with pytest.raises(AssertionError, match="stored"):
        check_all(
            db, run, backend, max_examples=200, derandomize=True, phases=[Phase.generate], report_multiple_bugs=False
        )


# --- calls of many shapes, one after the other, on a table whose columns have values of their own ------------------

gauge = sa.Table(
    "gauge",
    meta,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("sku", sa.Integer, nullable=False, unique=True),
    sa.Column("a", sa.Integer),
    sa.Column("b", sa.Integer, default=5, onupdate=lambda: 77),
    sa.Column("c", sa.Integer, onupdate=sa.literal_column("88")),
    sa.Column("d", sa.Integer, default=lambda: 6),
    sa.Column("e", sa.Integer, default=4, onupdate=99),
)
DEFAULTS: Row = {"a": None, "b": 5, "c": None, "d": 6, "e": 4}
ON_UPDATE: Row = {"b": 77, "c": 88, "e": 99}


@dataclass(frozen=True)
class Shape:
    """One call: the columns that its rows give, and those that it updates; ``None``: all that are given."""

    given: tuple[str, ...]
    update: tuple[str, ...] | None
    calculated: bool
    key: str
    ids: tuple[int, ...]
    returns: bool

    def rows(self, base: int) -> list[Row]:
        """Return rows of values that no other call gives."""
        return [
            {"id": number, "sku": number, **{name: base + 10 * number + place for place, name in enumerate(self.given)}}
            for number in self.ids
        ]

    def apply(self, state: dict[int, Row], rows: list[Row]) -> None:
        updated = self.given if self.update is None else self.update
        for row in rows:
            met = state.get(row["id"])
            if met is None:
                state[row["id"]] = DEFAULTS | row
            elif self.calculated:
                met |= ON_UPDATE | {name: row[name] + 1 for name in updated}
            elif updated or self.update is None:  # all that are given include the other unique key
                met |= ON_UPDATE | {name: row[name] for name in updated}

    @property
    def argument(self) -> Any:
        if self.calculated and self.update:
            return {name: lambda stored, given, name=name: given[name] + 1 for name in self.update}
        return self.update


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    given = tuple(draw(st.lists(st.sampled_from("abcde"), unique=True, max_size=5)))
    update = draw(st.none() | st.lists(st.sampled_from(given), unique=True).map(tuple)) if given else None
    ids = tuple(draw(st.lists(st.integers(1, 3), unique=True, min_size=1, max_size=2)))
    calculated = bool(update) and draw(st.integers(0, 3)) == 0
    return Shape(given, update, calculated, draw(st.sampled_from(("id", "sku"))), ids, draw(st.booleans()))


def check_shapes(db: Any, run: Callable[[Any], Any], **options: Any) -> None:
    """Compare random calls, each of another shape, with the model."""
    run(in_engine_begin(db, meta.create_all))

    @settings(deadline=None, suppress_health_check=list(HealthCheck), database=None, **options)
    @given(st.lists(shapes(), min_size=2, max_size=6))
    def check(several: list[Shape]) -> None:
        run(_check_shapes(db, several))

    check()


async def _check_shapes(db: Any, several: list[Shape]) -> None:
    await db.execute(sa.delete(gauge))
    state: dict[int, Row] = {}
    for number, shape in enumerate(several):
        rows = shape.rows(1000 * (number + 1))
        shape.apply(state, rows)
        columns = ["e", "b", "a"] if shape.returns else None
        done = await db.upsert(gauge, rows, key=shape.key, update=shape.argument, returning=columns)
        stored = [dict(row._mapping) for row in await db.fetch_all(sa.select(gauge).order_by(gauge.c.id))]
        assert stored == [state[name] for name in sorted(state)], "stored other rows than the model"
        expected = [(state[each]["e"], state[each]["b"], state[each]["a"]) for each in shape.ids]
        assert list(map(tuple, done.rows)) == (expected if shape.returns else [])


def test_no_call_takes_the_statement_of_a_call_of_another_shape(db: Any, run: Callable[[Any], Any]) -> None:
    check_shapes(db, run, max_examples=25)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_statements_known_by_the_names_of_their_columns_alone_are_caught(
    db: Any, run: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the names alone don't say whether a column's new value is the given one or its own."""
    monkeypatch.setattr(upsert_request, "_signature", lambda key, new: (key, tuple(new)))
    monkeypatch.setattr(upsert_sql, "_kept", Memory(512))
    with pytest.raises(AssertionError, match="stored"):
        check_shapes(db, run, max_examples=200, derandomize=True, phases=[Phase.generate], report_multiple_bugs=False)
