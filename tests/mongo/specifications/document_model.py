"""A model of what MongoDB does with documents: filters, updates and pipelines, as far as the specifications use them.

What it doesn't know raises :class:`NotModelledError`, so that a test which needs it is skipped by name and never passes
by luck.
"""

from __future__ import annotations

import copy
import functools
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

Document = dict[str, Any]


class NotModelledError(Exception):
    """The model lacks something; the message names it."""


_MISSING: Final = object()
_COMPARISONS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


# --- filters -------------------------------------------------------------------------------------


def matches(document: Mapping[str, Any], wanted: Mapping[str, Any], variables: Mapping[str, Any] | None = None) -> bool:
    """Return whether *document* matches the filter *wanted*."""
    return all(_matches_key(document, key, condition, variables or {}) for key, condition in wanted.items())


def _matches_key(document: Mapping[str, Any], key: str, condition: Any, variables: Mapping[str, Any]) -> bool:
    if key == "$and":
        return all(matches(document, each, variables) for each in condition)
    if key == "$or":
        return any(matches(document, each, variables) for each in condition)
    if key == "$expr":
        return bool(evaluate(condition, document, variables))
    if key.startswith("$"):
        raise NotModelledError(key)
    return _holds(value_at(document, key), condition)


def _holds(value: Any, condition: Any) -> bool:
    if isinstance(condition, Mapping) and any(key.startswith("$") for key in condition):
        return all(_compares(value, name, other) for name, other in condition.items())
    if isinstance(value, list) and condition in value:
        return True
    return bool(value == condition) or (condition is None and value is _MISSING)


def _compares(value: Any, name: str, other: Any) -> bool:
    if name in _COMPARISONS:
        return value is not _MISSING and isinstance(value, (int, float)) and _COMPARISONS[name](value, other)
    if name == "$in":
        return value in other
    if name == "$nin":
        return value not in other
    if name == "$eq":
        return bool(value == other)
    if name == "$ne":
        return bool(value != other)
    raise NotModelledError(name)


def value_at(document: Any, path: str) -> Any:
    """Return the value at a dotted *path*, or a marker that there is none."""
    for part in path.split("."):
        if isinstance(document, Mapping) and part in document:
            document = document[part]
        elif isinstance(document, list) and part.isdigit() and int(part) < len(document):
            document = document[int(part)]
        else:
            return _MISSING
    return document


def bound(*given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables of ``let``, whose values are expressions without a document."""
    return {name: evaluate(said, {}, {}) for each in given for name, said in each.items()}


def evaluate(expression: Any, document: Mapping[str, Any], variables: Mapping[str, Any]) -> Any:
    """Return the value of an aggregation expression."""
    if isinstance(expression, str) and expression.startswith("$$"):
        name = expression[2:]
        if name not in variables:
            raise NotModelledError(expression)
        return variables[name]
    if isinstance(expression, str) and expression.startswith("$"):
        found = value_at(document, expression[1:])
        return None if found is _MISSING else found
    if isinstance(expression, Mapping) and any(key.startswith("$") for key in expression):
        (name, given), *_ = expression.items()
        if name == "$literal":
            return given
        if name == "$eq":
            left, right = (evaluate(each, document, variables) for each in given)
            return left == right
        raise NotModelledError(name)
    return expression


# --- updates -------------------------------------------------------------------------------------


def updated(
    document: Document,
    change: Any,
    *,
    array_filters: Iterable[Mapping[str, Any]] = (),
    variables: Mapping[str, Any] | None = None,
    inserts: bool = False,
) -> Document:
    """Return *document* after the *change*: a replacement, operators or a pipeline."""
    if isinstance(change, list):
        (found,) = list(run_stages([document], change, variables or {}))
        return {"_id": document["_id"], **found} if "_id" in document else found
    if not any(key.startswith("$") for key in change):
        kept = {"_id": document["_id"]} if "_id" in document else {}
        return {**kept, **copy.deepcopy(dict(change))}
    found = copy.deepcopy(document)
    for name, fields in change.items():
        for path, value in fields.items():
            _apply(found, name, path, value, list(array_filters), inserts=inserts)
    return found


def _apply(
    document: Document, name: str, path: str, value: Any, filters: list[Mapping[str, Any]], *, inserts: bool
) -> None:
    if name == "$setOnInsert" and not inserts:
        return
    *parents, last = path.split(".")
    for place in _places(document, parents, filters):
        for key in _keys(place, last, filters):
            _change(place, name, key, value)


def _change(place: Any, name: str, key: Any, value: Any) -> None:
    if name in ("$set", "$setOnInsert"):
        place[key] = copy.deepcopy(value)
    elif name == "$inc":
        place[key] = (place.get(key, 0) if isinstance(place, dict) else place[key]) + value
    elif name == "$unset":
        place.pop(key, None)
    elif name == "$push" and not isinstance(value, Mapping):
        place.setdefault(key, []).append(value)
    else:
        raise NotModelledError(name)


def _places(document: Any, parts: list[str], filters: list[Mapping[str, Any]]) -> list[Any]:
    found = [document]
    for part in parts:
        found = [_child(place, key) for place in found for key in _keys(place, part, filters)]
    return found


def _child(place: Any, key: Any) -> Any:
    return place.setdefault(key, {}) if isinstance(place, dict) else place[key]


def _keys(place: Any, part: str, filters: list[Mapping[str, Any]]) -> list[Any]:
    """Return the keys of *place* that *part* of a path means: one, or those of an array that a filter finds."""
    named = re.fullmatch(r"\$\[(\w+)\]", part)
    if named is None:
        return [int(part)] if isinstance(place, list) and part.isdigit() else [part]
    name = named[1]
    wanted = [each for each in filters if next(iter(each)).split(".")[0] == name]
    return [i for i, element in enumerate(place) if all(matches({name: element}, each) for each in wanted)]


# --- pipelines -----------------------------------------------------------------------------------


def run_stages(
    documents: Iterable[Document], stages: Iterable[Mapping[str, Any]], variables: Mapping[str, Any]
) -> list[Document]:
    """Return what a pipeline makes of *documents*; ``$out`` and ``$merge`` are the server's."""
    found = [copy.deepcopy(each) for each in documents]
    for stage in stages:
        ((name, said),) = stage.items()
        run = _STAGES.get(name)
        if run is None:
            raise NotModelledError(name)
        found = run(found, said, variables)
    return found


def _group(documents: list[Document], said: Mapping[str, Any], variables: Mapping[str, Any]) -> list[Document]:
    if set(said) != {"_id", "n"} or said["n"] != {"$sum": 1} or isinstance(said["_id"], str):
        raise NotModelledError("$group of another kind")
    return [{"_id": said["_id"], "n": len(documents)}] if documents else []


def _projected(document: Document, said: Mapping[str, Any], variables: Mapping[str, Any]) -> Document:
    if all(value in (0, False) for value in said.values()):
        return {key: value for key, value in document.items() if key not in said}
    made = {"_id": document["_id"]} if "_id" in document and said.get("_id", 1) else {}
    for key, value in said.items():
        if value in (1, True) and type(value) is not str:
            if key in document:
                made[key] = document[key]
        elif key != "_id":
            made[key] = evaluate(value, document, variables)
    return made


def _with_fields(document: Document, said: Mapping[str, Any], variables: Mapping[str, Any]) -> Document:
    return {**document, **{key: evaluate(value, document, variables) for key, value in said.items()}}


def _without(document: Document, said: Any) -> Document:
    names = [said] if isinstance(said, str) else said
    return {key: value for key, value in document.items() if key not in names}


def _replaced(document: Document, said: Any, variables: Mapping[str, Any]) -> Document:
    found = evaluate(said, document, variables)
    if not isinstance(found, Mapping):
        raise NotModelledError("$replaceWith of another kind")
    return dict(found)


_Stage = Callable[[list[Document], Any, Mapping[str, Any]], list[Document]]
_STAGES: Final[dict[str, _Stage]] = {
    "$match": lambda found, said, given: [each for each in found if matches(each, said, given)],
    "$sort": lambda found, said, given: ordered(found, said),
    "$limit": lambda found, said, given: found[:said],
    "$skip": lambda found, said, given: found[said:],
    "$project": lambda found, said, given: [_projected(each, said, given) for each in found],
    "$addFields": lambda found, said, given: [_with_fields(each, said, given) for each in found],
    "$set": lambda found, said, given: [_with_fields(each, said, given) for each in found],
    "$unset": lambda found, said, given: [_without(each, said) for each in found],
    "$replaceWith": lambda found, said, given: [_replaced(each, said, given) for each in found],
    "$replaceRoot": lambda found, said, given: [_replaced(each, said["newRoot"], given) for each in found],
    "$group": _group,
    "$count": lambda found, said, given: [{said: len(found)}] if found else [],
}


def ordered(documents: Iterable[Document], order: Mapping[str, int]) -> list[Document]:
    """Return *documents* in the *order* of a sort."""

    def compare(left: Document, right: Document) -> int:
        for path, direction in order.items():
            one, other = value_at(left, path), value_at(right, path)
            if one != other:
                return int(direction) * (-1 if one < other else 1)
        return 0

    return sorted(documents, key=functools.cmp_to_key(compare))
