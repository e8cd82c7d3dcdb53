"""Every change of the public API shows in review, as a change of ``public_api.txt``.

When a change is meant: ``python -m tests.unit.test_public_api --write``, and tell it in ``CHANGELOG.md``.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic
import pytest

import prefiq_db
from prefiq_db import errors, events, health, mongo, reports, testing, types
from prefiq_db.integrations import asgi, fastapi, flask, litestar, schema, starlette, wsgi
from prefiq_db.settings import Settings
from prefiq_db.testing import faults

SNAPSHOT = Path(__file__).with_name("public_api.txt")
HOW = "python -m tests.unit.test_public_api --write"

# DESIGN, "The public face": people write code against these names.
FIXED = {
    "Application", "BaseProvider", "SettingsProvider", "DatabaseProvider", "register_provider", "bootstrap",
    "bootstrap_async", "Database", "AsyncDatabase", "Transaction", "AsyncTransaction", "DatabaseSettings",
    "RetryPolicy", "ExecuteResult", "HealthReport", "with_retry", "with_retry_async", "is_healthy",
    "is_healthy_async", "classify_error", "ErrorKind", "ErrorClass", "PrefiqDbError",
}  # fmt: skip


def test_the_public_names_are_the_promised_ones() -> None:
    assert set(prefiq_db.__all__) == FIXED
    assert prefiq_db.__all__ == sorted(prefiq_db.__all__)
    for name in FIXED:
        assert getattr(prefiq_db, name) is not None


def test_bootstrap_is_the_function_whatever_is_imported() -> None:
    import prefiq_db.bootstrap.__main__  # which must not put itself in the function's place

    assert inspect.isfunction(prefiq_db.bootstrap)


def test_the_public_api_is_the_recorded_one() -> None:
    assert SNAPSHOT.read_text("utf-8") == snapshot(), f"the public API changed; if that is meant: {HOW}"


@pytest.mark.parametrize(("module", "prefix"), [("database", ""), ("database_async", "Async")])
def test_the_classes_of_a_world_are_importable_from_its_module(module: str, prefix: str) -> None:
    found = importlib.import_module(f"prefiq_db.{module}")
    for name in ("Database", "Transaction", "AttemptLoop", "Attempt"):
        assert getattr(found, prefix + name).__name__ == prefix + name


@pytest.mark.parametrize(
    "cls", [prefiq_db.Database, prefiq_db.AsyncDatabase, prefiq_db.Transaction, prefiq_db.AsyncTransaction]
)
def test_a_wrong_call_of_a_verb_is_named_by_its_class(cls: Any) -> None:
    for verb in ("fetch_all", "fetch_one", "fetch_exactly_one", "fetch_value", "execute", "execute_many"):
        with pytest.raises(TypeError, match=rf"^{cls.__name__}\.{verb}\(\) missing"):
            getattr(cls, verb)(object())
        assert inspect.iscoroutinefunction(getattr(cls, verb)) is cls.__name__.startswith("Async")


# --- the snapshot --------------------------------------------------------------------------------


def snapshot() -> str:
    """Return the public API as text: one line for each name, with signatures, fields and defaults."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield f"# The public API. Written by: {HOW}"
    for module, names in (
        (prefiq_db, prefiq_db.__all__),
        (errors, _own_names(errors)),
        (events, _own_names(events)),
        (reports, _own_names(reports)),
        (health, health.__all__),
        (mongo, mongo.__all__),
        (types, _own_names(types)),
        (testing, testing.__all__),
        (faults, faults.__all__),
        *((module, _own_names(module)) for module in (asgi, wsgi, starlette, fastapi, flask, litestar, schema)),
    ):
        yield f"\n[{module.__name__}]"
        for name in sorted(names):
            if module is not prefiq_db and name in prefiq_db.__all__:
                yield f"{name}: see prefiq_db.{name}"
            else:
                yield from _described(name, getattr(module, name))
    yield "\n[the rest of what app.resolve() gives]"
    yield from _described("Settings", Settings)


def _own_names(module: Any) -> list[str]:
    """Return the public classes and functions that a module defines itself."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


def _described(name: str, value: Any) -> Iterator[str]:
    if not isinstance(value, type):
        yield f"{name}{_signature(value)}"
        return
    bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
    yield f"class {name}({bases})" if bases else f"class {name}"
    yield from (f"    {line}" for line in _members(value))


def _members(cls: type) -> Iterator[str]:
    if issubclass(cls, enum.Enum):
        yield from (f"{member.name} = {member.value!r}" for member in cls)
        return
    fields = _fields(cls)
    yield from (f"{name} = {default}" for name, default in fields.items())
    own = _own_members(cls)
    for name in sorted(own.keys() - fields.keys()):
        if (not name.startswith("_") or name in _DUNDERS) and (name != "__init__" or not fields):
            yield from _member(name, own[name])


def _fields(cls: type) -> dict[str, str]:
    if issubclass(cls, pydantic.BaseModel):
        return {
            name: "(required)" if field.is_required() else repr(field.default)
            for name, field in cls.model_fields.items()
        }
    if not dataclasses.is_dataclass(cls):
        return {}
    return {field.name: _default(field) for field in dataclasses.fields(cls)}


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return f"{getattr(field.default_factory, '__name__', 'made')}()"
    return "(required)" if field.default is dataclasses.MISSING else repr(field.default)


def _own_members(cls: type) -> dict[str, Any]:
    """Return what the class defines, and what bases of ours define that have no name in the public API."""
    modules = (prefiq_db, errors, health, mongo, testing)
    public = {value for module in modules for value in vars(module).values() if _is_class(value)}
    members: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if base is cls or (base.__module__.startswith("prefiq_db") and base not in public):
            members |= vars(base)
    return members


def _is_class(value: Any) -> bool:
    return isinstance(value, type) and value.__module__.startswith("prefiq_db")


def _member(name: str, value: Any) -> Iterator[str]:
    if not isinstance(value, (staticmethod, classmethod)) and not inspect.isfunction(value):
        value = getattr(value, "__wrapped__", value)  # a descriptor of ours around a method
    if isinstance(value, property):
        yield f"{name}: property"
    elif isinstance(value, (staticmethod, classmethod)):
        yield f"{type(value).__name__} {name}{_signature(value.__func__)}"
    elif inspect.isfunction(value) and value.__module__.startswith("prefiq_db"):  # pydantic puts its own there too
        yield f"{'async ' if inspect.iscoroutinefunction(value) else ''}{name}{_signature(value)}"
    elif isinstance(value, enum.Enum):
        yield f"{name} = {value}"
    elif isinstance(value, (str, bool, int, tuple, type(None))):
        yield f"{name} = {value!r}"


_DUNDERS = {
    "__init__", "__enter__", "__exit__", "__aenter__", "__aexit__", "__iter__", "__aiter__", "__bool__", "__getitem__"
}  # fmt: skip


class _AsWritten:
    """An annotation that shows itself as it is in the source, on every Python."""

    def __init__(self, annotation: Any) -> None:
        self.text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)

    def __repr__(self) -> str:
        return self.text


def _signature(function: Any) -> str:
    found = inspect.signature(function)
    empty = inspect.Signature.empty
    parameters = [
        parameter if parameter.annotation is empty else parameter.replace(annotation=_AsWritten(parameter.annotation))
        for parameter in found.parameters.values()
    ]
    returned = found.return_annotation
    return str(
        found.replace(parameters=parameters, return_annotation=empty if returned is empty else _AsWritten(returned))
    )


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(f"usage: {HOW}")
    SNAPSHOT.write_text(snapshot(), "utf-8")
