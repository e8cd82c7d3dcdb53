"""What the short way looks up once may change at any time: who comes later is heard, and who has gone costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.pool import Pool

from prefiq_db import Database
from prefiq_db.events import CallFinished, Listener
from prefiq_db.execution.one_shot import UNUSUAL, ShortRoad
from prefiq_db.hooks.registry import Hooks
from prefiq_db.instance import Instance
from prefiq_db.testing.isolation.isolated import IsolatedDatabase


class _Calls(Listener):
    def __init__(self) -> None:
        self.told: list[str] = []

    def call_finished(self, event: CallFinished) -> None:
        self.told.append(event.verb)


@contextmanager
def counted() -> Iterator[list[Any]]:
    """Collect what the short way returns."""
    found: list[Any] = []
    shoot = ShortRoad.shoot

    def shoot_counted(self: Any, *arguments: Any) -> Any:
        found.append(shoot(self, *arguments))
        return found[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ShortRoad, "shoot", shoot_counted)
        yield found


@pytest.fixture
def usual(tmp_path: Path) -> Iterator[Database]:
    """A database whose next ``select 1`` takes the short way."""
    with Database(f"sqlite:///{tmp_path / 'a.db'}") as db:
        for _ in range(3):
            db.fetch_value("select 1")
        yield db


# --- our own listeners -------------------------------------------------------------------------------


def test_a_listener_of_calls_that_comes_while_a_database_is_made_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another thread adds it while this one makes a tenant's database, which reports to the same listeners."""
    calls, on_change = _Calls(), Hooks.on_change

    def add_and_note(self: Hooks, method: Callable[[], None]) -> None:
        if isinstance(getattr(method, "__self__", None), Instance):
            self.add(calls)
        on_change(self, method)

    monkeypatch.setattr(Hooks, "on_change", add_and_note)
    with Database(f"sqlite:///{tmp_path / 'a.db'}") as db:
        for _ in range(4):
            db.fetch_value("select 1")
    assert calls.told == ["fetch_value"] * 4


def test_a_listener_of_calls_that_comes_later_is_told_until_it_goes(usual: Database) -> None:
    calls = _Calls()
    with counted() as found:
        usual.fetch_value("select 1")
        usual.hooks.add(calls)
        usual.fetch_value("select 1")
        usual.hooks.remove(calls)
        usual.fetch_value("select 1")
    assert calls.told == ["fetch_value"]
    assert found == [1, 1, 1], "it takes the short way, too"


# --- SQLAlchemy's ------------------------------------------------------------------------------------

LISTENERS: dict[str, tuple[Callable[[Any], Any], str, dict[str, Any]]] = {
    "an engine": (lambda db: db.engine, "before_cursor_execute", {}),
    "an engine, for changed texts": (lambda db: db.engine, "before_cursor_execute", {"retval": True}),
    "all engines": (lambda db: sa.Engine, "after_cursor_execute", {}),
    "a pool": (lambda db: db.engine.pool, "checkout", {}),
    "a pool, before others": (lambda db: db.engine.pool, "checkin", {"insert": True}),
    "all pools": (lambda db: Pool, "checkout", {}),
    "a pool, by its engine": (lambda db: db.engine, "reset", {}),
    "a dialect": (lambda db: db.engine.dialect, "do_execute", {}),
}


@pytest.mark.parametrize("name", LISTENERS)
def test_a_listener_that_comes_later_is_heard_until_it_goes(usual: Database, name: str) -> None:
    find, event, options = LISTENERS[name]
    heard: list[str] = []

    def hear(*told: Any) -> Any:
        heard.append(event)
        return told[2:4] if options.get("retval") else None

    with counted() as found:
        assert usual.fetch_value("select 1") == 1
        sa.event.listen(find(usual), event, hear, **options)
        try:
            assert usual.fetch_value("select 1") == 1
        finally:
            sa.event.remove(find(usual), event, hear)
        assert usual.fetch_value("select 1") == 1
    assert heard == [event]
    assert [each is UNUSUAL for each in found] == [False, True, False]


def test_a_listener_of_errors_that_comes_later_is_heard(usual: Database) -> None:
    heard: list[Any] = []
    sa.event.listen(usual.engine, "handle_error", heard.append)
    with pytest.raises(Exception, match="missing"):
        usual.fetch_value("select 1 from missing")
    assert len(heard) == 1


# --- pools ---------------------------------------------------------------------------------------------


def test_a_pool_that_is_made_anew_is_used(usual: Database) -> None:
    usual.engine.dispose()
    with counted() as found:
        for _ in range(2):
            assert usual.fetch_value("select 1") == 1
    assert [each is UNUSUAL for each in found] == [True, False]
    assert usual.stats().pool.idle == 1


def test_a_test_of_one_transaction_never_leaves_sqlalchemys_way(tmp_path: Path) -> None:
    """Each statement may need a savepoint there; what is said of the class must hold for the road that it dresses."""
    isolated = IsolatedDatabase(f"sqlite:///{tmp_path / 'a.db'}", is_async=False, fields={})
    db: Any = isolated.db
    try:
        with counted() as found:
            for _ in range(4):
                assert db.fetch_value("select 1") == 1
        assert db._core.road.steps_aside
        assert set(map(id, found)) <= {id(UNUSUAL)}
    finally:
        isolated.end()
