"""Convert rows to what ``into=`` asks for: dataclass, pydantic model, dict, or any callable."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Set
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
        return _reader("dict")
    if isinstance(cls, type) and dataclasses.is_dataclass(cls):
        return _dataclass_mapper(cls)
    if isinstance(cls, type) and issubclass(cls, pydantic.BaseModel):
        return _model_mapper(cls)
    if not callable(into):
        raise UsageError("into: expected a dataclass, a pydantic model, dict or a callable that takes a row")
    return into


def _reader(name: str, check: Callable[[Set[str]], None] | None = None) -> Callable[[Row[Any]], dict[str, Any]]:
    """Return a function from row to dict by column; it looks at the columns of a result once, and *checks* their names.

    It raises if two columns have the same name, since one would be lost.
    """
    seen: tuple[Any, tuple[str, ...]] = (None, ())  # one object: another thread may read rows of another result

    def read(row: Row[Any]) -> dict[str, Any]:
        nonlocal seen
        keys, names = seen
        if row._parent._keys is not keys:
            names = row._fields
            if len(set(names)) != len(row):
                twice = ", ".join(sorted(each for each, count in Counter(names).items() if count > 1))
                raise MappingError(f"into={name}: more than one column is called {twice}; give them names with AS")
            if check is not None:
                check(set(names))
            seen = (row._parent._keys, names)
        return dict(zip(names, row, strict=True))

    return read


def _dataclass_mapper(cls: type) -> Callable[[Row[Any]], Any]:
    fields = [field for field in dataclasses.fields(cls) if field.init]
    names = {field.name for field in fields}
    required = {
        field.name
        for field in fields
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }

    def check(columns: Set[str]) -> None:
        if columns - names or required - columns:
            raise MappingError(_mismatch(cls, columns - names, required - columns))

    read = _reader(cls.__name__, check)
    return lambda row: cls(**read(row))


def _mismatch(cls: type, unexpected: Set[str], missing: Set[str]) -> str:
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
    read = _reader(cls.__name__)

    def build(row: Row[Any]) -> Any:
        columns = read(row)
        try:
            return cls.model_validate(columns)
        except pydantic.ValidationError as error:
            # Only the place and the rule: pydantic's message quotes the input, and a place inside a column's value may
            # be a dict key, which is a value too.
            problems = [f"{_place(item['loc'], cls.__name__)}: {item['type']}" for item in error.errors()]
        raise MappingError(f"into={cls.__name__}: the row doesn't fit: {'; '.join(problems)}")

    return build
