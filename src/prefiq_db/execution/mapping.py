"""Convert rows to what ``into=`` asks for: dataclass, pydantic model, dict, or any callable."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any, get_origin

import pydantic
from sqlalchemy import Row

from prefiq_db.errors import MappingError, UsageError

Into = Callable[..., Any]


def mapper(into: Into) -> Callable[[Row[Any]], Any]:
    """Return a function from row to result.

    A dataclass and a pydantic model get the columns as keywords, ``dict`` gets them as items, any other callable is
    returned as it is: it gets the row itself. A class with its parameters, as ``dict[str, Any]``, counts as the class.

    Raises:
        UsageError: if *into* is not callable.
    """
    cls = get_origin(into) or into
    if cls is dict:
        return lambda row: _columns(row, "dict")
    if isinstance(cls, type) and dataclasses.is_dataclass(cls):
        return _dataclass_mapper(cls)
    if isinstance(cls, type) and issubclass(cls, pydantic.BaseModel):
        return _model_mapper(cls)
    if not callable(into):
        raise UsageError("into: expected a dataclass, a pydantic model, dict or a callable that takes a row")
    return into


def _columns(row: Row[Any], name: str) -> dict[str, Any]:
    """Return *row* as a dict by column; raise if two columns have the same name, since one would be lost."""
    columns = dict(row._mapping)
    if len(columns) != len(row):
        twice = sorted(each for each, count in Counter(row._fields).items() if count > 1)
        raise MappingError(f"into={name}: more than one column is called {', '.join(twice)}; give them names with AS")
    return columns


def _dataclass_mapper(cls: type) -> Callable[[Row[Any]], Any]:
    fields = [field for field in dataclasses.fields(cls) if field.init]
    names = {field.name for field in fields}
    required = {
        field.name
        for field in fields
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }

    def build(row: Row[Any]) -> Any:
        columns = _columns(row, cls.__name__)
        if columns.keys() - names or required - columns.keys():
            raise MappingError(_mismatch(cls, columns.keys() - names, required - columns.keys()))
        return cls(**columns)

    return build


def _mismatch(cls: type, unexpected: set[str], missing: set[str]) -> str:
    parts = [f"into={cls.__name__}: the columns and the fields differ"]
    if missing:
        parts.append(f"no column for {', '.join(sorted(missing))}")
    if unexpected:
        parts.append(f"no field for {', '.join(sorted(map(str, unexpected)))}")
    return "; ".join(parts)


def _place(loc: tuple[int | str, ...], model: str) -> str:
    """Return the column that pydantic's *loc* is in; of anything deeper say only that it is inside."""
    if not loc:
        return model
    return f"{loc[0]}[…]" if len(loc) > 1 else str(loc[0])


def _model_mapper(cls: type[pydantic.BaseModel]) -> Callable[[Row[Any]], Any]:
    def build(row: Row[Any]) -> Any:
        columns = _columns(row, cls.__name__)
        try:
            return cls.model_validate(columns)
        except pydantic.ValidationError as error:
            # Only the place and the rule: pydantic's message quotes the input, and a place inside a column's value may
            # be a dict key, which is a value too.
            problems = [f"{_place(item['loc'], cls.__name__)}: {item['type']}" for item in error.errors()]
        raise MappingError(f"into={cls.__name__}: the row doesn't fit: {'; '.join(problems)}")

    return build
