"""What SQLAlchemy itself says of a session's objects and of stored values: without keys and values."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, make_transient_to_detached, mapped_column

from prefiq_db import ErrorKind
from prefiq_db.errors import DataError
from tests.conftest import Backend
from tests.twins.harness import drive
from tests.twins.support import on_engine

PLANTED = "planted@example.org), None) (here"


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Base(DeclarativeBase):
    pass


class Person(Base):
    __tablename__ = "person"
    email: Mapped[str] = mapped_column(sa.String(80), primary_key=True)


paints = sa.Table(
    "paint",
    Base.metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("colour", sa.Enum(Colour, native_enum=False, length=40)),
)


@pytest.fixture
def store(db: Any, world: str, loop_runner: Any) -> Any:
    run = loop_runner.run if world == "async" else drive
    for table in (Person.__table__, paints):
        run(db.execute(sa.schema.CreateTable(table)))  # type: ignore[arg-type]
    return db


def _twin() -> Person:
    made = Person(email=PLANTED)
    make_transient_to_detached(made)
    return made


async def _said(call: Callable[[], Awaitable[Any]], kind: type[Exception]) -> str:
    with pytest.raises(kind) as caught:
        await call()
    error: BaseException | None = caught.value
    while error is not None:
        assert "planted" not in f"{error!s} {error!r} {error.args}"
        error = error.__cause__ or error.__context__
    return str(caught.value)


async def test_two_objects_with_one_key(store: Any) -> None:
    """They are named by their class; outside and inside of a transaction."""

    async def meet(session: Any) -> None:
        mine = Person(email=PLANTED)  # a session holds its objects weakly
        session.add(mine)
        await session.flush()

        async def add() -> None:
            session.add(_twin())

        async def add_all() -> None:
            session.add_all([_twin()])

        async def delete() -> None:
            made = session.delete(_twin())
            if hasattr(made, "__await__"):
                await made

        for call in (add, add_all, delete):
            said = await _said(call, InvalidRequestError)
            assert "another instance with key" in said
            assert "Person'>, ***) is already present in this session" in said
        await session.rollback()

    async with store.session() as session:
        await meet(session)
    async with store.transaction() as tx, tx.session() as session:
        await meet(session)


async def test_a_stored_value_that_is_no_member(store: Any, backend: Backend) -> None:
    """A session and an engine raise SQLAlchemy's LookupError without it, a verb a DataError."""
    await store.execute("insert into paint (id, colour) values (1, :colour)", {"colour": "planted"})

    async def by_session() -> None:
        async with store.session() as session:
            (await session.execute(sa.select(paints.c.colour))).all()

    said = await _said(by_session, LookupError)
    assert said.endswith("Enum name: colour. Possible values: RED, BLUE")
    with pytest.raises(DataError) as caught:
        await store.fetch_all(sa.select(paints.c.colour))
    assert caught.value.kind is ErrorKind.DATA
    assert "planted" not in f"{caught.value!s} {caught.value.original!r}"
    await store.execute(sa.update(paints).values(colour=Colour.BLUE))
    assert await store.fetch_value(sa.select(paints.c.colour)) is Colour.BLUE


async def test_an_enum_of_the_servers_own_works_as_before(db: Any, backend: Backend) -> None:
    """PostgreSQL's type, MariaDB's ENUM, SQLite's text."""
    table = sa.Table(
        "tin", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("c", sa.Enum(Colour))
    )

    def work(connection: Any) -> None:
        table.create(connection)
        connection.execute(sa.insert(table), [{"id": 1, "c": Colour.RED}, {"id": 2, "c": None}])
        assert connection.execute(sa.select(table.c.c).order_by(table.c.id)).scalars().all() == [Colour.RED, None]
        assert connection.execute(sa.select(table.c.id).where(table.c.c == Colour.RED)).scalar() == 1
        table.drop(connection)
        connection.commit()

    await on_engine(db, work)


async def test_control_sqlalchemys_own_session_tells_the_key(store: Any) -> None:
    def meet(session: Session) -> None:
        mine = Person(email=PLANTED)
        session.add(mine)
        session.flush()
        with pytest.raises(InvalidRequestError, match="planted"):
            session.add(_twin())
        session.rollback()

    await on_engine(store, lambda connection: meet(Session(connection)))
