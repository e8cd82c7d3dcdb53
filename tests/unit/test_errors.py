"""The error tree: value-free, picklable, without the driver's error on it, one class a kind."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest

from prefiq_db import errors
from prefiq_db.errors import ErrorClass, ErrorKind, PrefiqDbError, Problem, error_type
from prefiq_db.translation.border import Border
from prefiq_db.translation.translate import translate

CLASSES = sorted(
    (cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, PrefiqDbError)),
    key=lambda cls: cls.__name__,
)


class DriverError(Exception):
    """Holds a value, as drivers' errors do."""


def made(cls: type[PrefiqDbError]) -> PrefiqDbError:
    if issubclass(cls, errors.SettingsError):
        return cls([Problem("DB_PORT", "a number", "write 5432")])
    fields: dict[str, Any] = {"provider": "p"} if issubclass(cls, errors.ProviderError) else {}
    return cls(
        "what happened",
        code="23505",
        database="main",
        constraint="c",
        table="t",
        column="k",
        classification=ErrorClass(cls.default_kind, transient=True, retry_transaction=True),
        original=DriverError("planted"),
        **fields,
    )


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_survives_a_pickle_without_the_drivers(cls: type[PrefiqDbError]) -> None:
    """Class, message and fields come back; the driver's error stays behind."""
    error = made(cls)
    data = pickle.dumps(error)
    assert b"planted" not in data
    back = pickle.loads(data)
    assert type(back) is cls
    assert str(back) == str(error)
    assert back.args == error.args
    assert back.__dict__ == error.__dict__
    assert back.kind is error.kind
    assert back.classification == error.classification
    assert back.is_transient == error.is_transient
    assert back.original is None
    assert type(copy.copy(error)) is cls


@pytest.mark.parametrize("cls", CLASSES)
def test_the_drivers_error_is_reachable_and_never_shown(cls: type[PrefiqDbError]) -> None:
    """It is at .original only: not in args, __dict__, repr, str, __cause__ or __context__."""
    error = made(cls)
    assert "planted" not in f"{error} {error!r} {error.args} {error.__dict__}"
    assert error.__cause__ is None
    assert error.__context__ is None
    if not isinstance(error, errors.SettingsError):
        assert isinstance(error.original, DriverError)
    assert "_original" not in error.__dict__


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_has_a_sentence(cls: type[PrefiqDbError]) -> None:
    """A class says what it means, in its docstring or by its parent's kind."""
    assert cls.__doc__ or cls.default_kind is not cls.__mro__[1].default_kind  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [kind for kind in ErrorKind if kind is not ErrorKind.NOT_FOUND])  # never a server's
def test_every_kind_has_a_class_of_that_kind(kind: ErrorKind) -> None:
    """error_type knows them all, and a server's error of that kind says so."""
    cls = error_type(kind)
    assert issubclass(cls, errors.DatabaseError)
    assert cls("x", classification=ErrorClass(kind)).kind is kind


def test_notes_are_not_pickled() -> None:
    """Notes are written by others and may hold values: they stay behind."""
    error = PrefiqDbError("x")
    error.add_note("planted")
    assert b"planted" not in pickle.dumps(error)


def test_the_border_raises_without_a_context() -> None:
    """Whatever fails inside, our error leaves with neither cause nor context, also inside somebody's except block."""
    border = Border("main", "sqlite")

    def fails() -> None:
        try:
            raise DriverError("planted")
        except DriverError as error:
            raise ValueError("planted again") from error

    with pytest.raises(PrefiqDbError) as caught:
        border.cross(fails)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert caught.value.database == "main"
    assert "planted" not in str(caught.value)


def test_the_border_lets_interruptions_pass() -> None:
    """Ctrl-C and a cancellation are not errors: the very same instance goes on."""
    interruption = KeyboardInterrupt()

    def fails() -> None:
        raise interruption

    with pytest.raises(KeyboardInterrupt) as caught:
        Border("main", "sqlite").cross(fails)
    assert caught.value is interruption


def test_the_original_pins_no_frames() -> None:
    """The driver's error is kept without its tracebacks: they hold values and connections alive."""
    try:
        value = "planted"
        raise DriverError(value)
    except DriverError as error:
        found = translate(error, dialect="postgresql", database="main")
    assert found.original is not None
    assert found.original.__traceback__ is None
