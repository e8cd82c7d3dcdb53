"""The twins stay twins: what a Database can, an AsyncDatabase can, under the same names with the same parameters."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from prefiq_db import AsyncDatabase, AsyncTransaction, Database, Transaction, with_retry, with_retry_async
from prefiq_db.health import is_healthy, is_healthy_async

PAIRS = [(Database, AsyncDatabase), (Transaction, AsyncTransaction)]

# What talks to the database, in both worlds.
AWAITED = {
    *(
        "fetch_all",
        "fetch_one",
        "fetch_exactly_one",
        "fetch_value",
        "execute",
        "execute_many",
        "batch",
        "bulk_insert",
        "upsert",
    ),
    *("run_in_transaction", "test_connection", "ping", "health", "open", "close"),
}

# DESIGN section 2.
DATABASE_VERBS = {
    *(
        "fetch_all",
        "fetch_one",
        "fetch_exactly_one",
        "fetch_value",
        "execute",
        "execute_many",
        "stream",
        "batch",
        "bulk_insert",
        "upsert",
    ),
    *("transaction", "run_in_transaction", "transactional", "attempts", "using", "override"),
    *("test_connection", "ping", "health", "hooks", "stats", "engine", "session", "open", "close"),
}
TRANSACTION_VERBS = {
    *(
        "fetch_all",
        "fetch_one",
        "fetch_exactly_one",
        "fetch_value",
        "execute",
        "execute_many",
        "transaction",
        "session",
        "connection",
    ),
    *("on_commit", "on_rollback", "bind", "outcome", "callback_errors"),
}


def public(cls: type) -> dict[str, Any]:
    return {name: member for name, member in inspect.getmembers(cls) if not name.startswith("_")}


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize(("sync", "asynchronous"), PAIRS)
def test_twins_have_the_same_names(sync: type, asynchronous: type) -> None:
    """Neither has a public name that the other lacks."""
    assert public(sync).keys() == public(asynchronous).keys()


@pytest.mark.parametrize(("sync", "asynchronous"), PAIRS)
def test_twins_take_the_same_parameters(sync: type, asynchronous: type) -> None:
    """Names, kinds and defaults of all parameters are equal; a property is a property in both."""
    for name, member in public(sync).items():
        other = inspect.getattr_static(asynchronous, name)
        assert isinstance(inspect.getattr_static(sync, name), property) == isinstance(other, property), name
        if callable(member):
            assert parameters(member) == parameters(getattr(asynchronous, name)), name
    assert parameters(sync.__init__)[1:2] == parameters(asynchronous.__init__)[1:2]


@pytest.mark.parametrize(("sync", "asynchronous"), PAIRS)
def test_what_waits_is_awaited(sync: type, asynchronous: type) -> None:
    """A verb that talks to the database is a coroutine function in the async world, and none in the sync one."""
    for name, member in public(asynchronous).items():
        if inspect.isfunction(member):
            assert inspect.iscoroutinefunction(member) or name not in AWAITED, name
            assert not inspect.iscoroutinefunction(getattr(sync, name)), name


@pytest.mark.parametrize("cls", [Database, AsyncDatabase])
def test_every_verb_of_the_design_exists(cls: type) -> None:
    """The table of DESIGN section 2."""
    assert public(cls).keys() >= DATABASE_VERBS


@pytest.mark.parametrize("cls", [Transaction, AsyncTransaction])
def test_every_verb_of_a_transaction_exists(cls: type) -> None:
    """What tx is documented to have."""
    assert public(cls).keys() >= TRANSACTION_VERBS


def test_transactions_have_the_verbs_of_their_database() -> None:
    """A verb of both takes the same parameters on tx as on db."""
    for name in ("fetch_all", "fetch_one", "fetch_exactly_one", "fetch_value", "execute", "execute_many"):
        assert parameters(getattr(Transaction, name)) == parameters(getattr(Database, name)), name


@pytest.mark.parametrize(("sync", "asynchronous"), PAIRS)
def test_every_public_method_has_a_docstring(sync: type, asynchronous: type) -> None:
    """Both worlds are documented, each in its own words."""
    for cls in (sync, asynchronous):
        for name, member in public(cls).items():
            static = inspect.getattr_static(cls, name)
            if inspect.isfunction(member) or isinstance(static, property):
                assert inspect.getdoc(static.fget if isinstance(static, property) else member) or name in (
                    "name",
                    "settings",
                ), f"{cls.__name__}.{name}"


def test_functions_of_both_worlds_take_the_same() -> None:
    """with_retry and is_healthy have twins, too."""
    assert parameters(with_retry) == parameters(with_retry_async)
    assert parameters(is_healthy)[1:] == parameters(is_healthy_async)[1:]


@pytest.mark.parametrize("cls", [Database, AsyncDatabase])
def test_what_transactional_returns_has_no_tx_in_its_signature(cls: Any) -> None:
    """Frameworks read it: FastAPI would ask the request for ``tx``. Type checkers: ``tests/types/faces.py``."""
    db = cls("sqlite:///:memory:")

    def move(tx: Transaction, sku: str, *, quantity: int = 1) -> int:
        """Move it."""
        raise NotImplementedError

    def anything(*args: Any, **kwargs: Any) -> None: ...

    for decorated in (db.transactional(move), db.transactional(isolation="SERIALIZABLE")(move)):
        assert str(inspect.signature(decorated)) == "(sku: 'str', *, quantity: 'int' = 1) -> 'int'"
        assert (decorated.__name__, decorated.__doc__) == ("move", "Move it.")
    assert str(inspect.signature(db.transactional(anything))) == "(*args: 'Any', **kwargs: 'Any') -> 'None'"
    # Some of what is written in C has no signature at all.
    assert db.transactional(max).__name__ == "max"
