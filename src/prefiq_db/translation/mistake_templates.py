"""The sentences in which each server reports a mistake with a name, by code.

The code identifies the mistake in any language. The server's own template extracts the name from the message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from prefiq_db.errors import SubKind

_MISSING, _DUPLICATE, _AMBIGUOUS = SubKind.MISSING, SubKind.DUPLICATE, SubKind.AMBIGUOUS
_DEPENDENT, _WRONG_TYPE = SubKind.DEPENDENT, SubKind.WRONG_TYPE

#: The noun if a server doesn't say what the name belongs to.
OBJECT: Final = "object"
# MariaDB's words for what ALTER TABLE drops; an error that a user raises could hold any others.
_DROPPED: Final = "COLUMN|INDEX|KEY|PRIMARY KEY|FOREIGN KEY|CONSTRAINT|CHECK|PARTITION|PERIOD"


@dataclass(frozen=True, slots=True)
class Template:
    """One sentence of a server; the text ``None`` matches every other sentence with that code."""

    sub_kind: SubKind | None
    noun: str
    text: re.Pattern[str] | None


_Templates = Mapping[Any, tuple[Template, ...]]


def _group(*rows: tuple[Any, SubKind | None, str, str | None]) -> _Templates:
    """Group by code; a row without a text gives the code's meaning when no text matches."""
    made: dict[Any, tuple[Template, ...]] = {}
    for codes, sub_kind, noun, text in rows:
        template = Template(sub_kind, noun, None if text is None else re.compile(text, re.DOTALL))
        for code in codes if isinstance(codes, tuple) else (codes,):
            made[code] = (*made.get(code, ()), template)
    return made


def _dq(group: str) -> str:
    return rf'"(?:[^"]*\.)?(?P<{group}>[^".]*)"'


def _sq(group: str) -> str:
    return rf"'(?:[^']*\.)?(?P<{group}>[^'.]*)'"


_NAME: Final = _dq("name")
_OF: Final = rf"(?: (?:of relation|for table|for relation|on table) {_dq('table')})?"
_KINDS: Final = r"(?P<noun>[a-z][a-z ]{2,30})"
_WORD: Final = r'"?(?:[\w$]+\.)?(?P<name>[\w$]+)"?'
_TYPE: Final = r'[\w."\[\]]+(?: [a-z]+)*(?:\([\d,]+\))?(?:\[\])?'

_POSTGRESQL: Final = _group(
    ("42P01", _MISSING, "table alias", rf"(?:missing|invalid reference to) FROM-clause entry for table {_NAME}"),
    ("42P01", _MISSING, "table", rf"(?:relation|table) {_NAME} does not exist"),
    ("42P01", _MISSING, OBJECT, rf"{_KINDS} {_NAME} does not exist"),
    ("42P01", _MISSING, "table", None),
    ("42703", _MISSING, "column", rf"column {_NAME}{_OF} does not exist"),
    ("42703", _MISSING, "column", r"column (?:[\w$]+\.)+(?P<name>[\w$]+) does not exist"),
    ("42703", _MISSING, "column", None),
    ("42883", _WRONG_TYPE, "operator", rf"operator does not exist: (?P<types>(?:{_TYPE} )?\S+ {_TYPE})"),
    ("42883", _MISSING, "function", rf"(?P<noun>function|procedure|aggregate) {_WORD}\(.*\) does not exist"),
    ("42883", _MISSING, "function", None),
    ("42704", _MISSING, OBJECT, rf"{_KINDS} {_NAME}{_OF} does not exist"),
    ("42704", _MISSING, "setting", rf"unrecognized configuration parameter {_NAME}"),
    ("42704", _MISSING, OBJECT, None),
    ("3F000", _MISSING, "schema", rf"schema {_NAME} does not exist"),
    ("3F000", _MISSING, "schema", None),
    ("3D000", _MISSING, "database", rf"database {_NAME} does not exist"),
    ("3D000", _MISSING, "database", None),
    ("42P07", _DUPLICATE, "table", rf"relation {_NAME} already exists"),
    ("42P07", _DUPLICATE, "table", None),
    ("42701", _DUPLICATE, "column", rf"column {_NAME}{_OF} (?:already exists|specified more than once)"),
    ("42701", _DUPLICATE, "column", None),
    ("42710", _DUPLICATE, OBJECT, rf"{_KINDS} {_NAME}{_OF} already exists"),
    ("42710", _DUPLICATE, OBJECT, None),
    ("42723", _DUPLICATE, "function", rf"function {_NAME} already exists.*"),
    ("42723", _DUPLICATE, "function", None),
    ("42P06", _DUPLICATE, "schema", rf"schema {_NAME} already exists"),
    ("42P06", _DUPLICATE, "schema", None),
    ("42P04", _DUPLICATE, "database", rf"database {_NAME} already exists"),
    ("42P04", _DUPLICATE, "database", None),
    ("42712", _DUPLICATE, "table alias", rf"table name {_NAME} specified more than once"),
    ("42712", _DUPLICATE, "table alias", None),
    ("42702", _AMBIGUOUS, "column", rf"column reference {_NAME} is ambiguous"),
    ("42702", _AMBIGUOUS, "column", None),
    ("42725", _AMBIGUOUS, "function", rf"(?:function|procedure) {_WORD}\(.*\) is not unique"),
    ("42725", _AMBIGUOUS, "function", None),
    ("42809", _WRONG_TYPE, OBJECT, rf"{_NAME} is not an? {_KINDS}"),
    ("42809", _WRONG_TYPE, OBJECT, None),
    ("42804", None, "foreign key", rf"foreign key constraint {_NAME} cannot be implemented"),
    (
        "42804",
        _WRONG_TYPE,
        "column",
        rf"column {_NAME} (?P<types>is of type {_TYPE} but (?:default )?expression is of type {_TYPE})",
    ),
    ("42804", _WRONG_TYPE, "column", rf"column {_NAME} (?P<types>cannot be cast automatically to type {_TYPE})"),
    ("2BP01", _DEPENDENT, "column", rf"cannot drop column {_WORD} of .* because other objects depend on it"),
    ("2BP01", _DEPENDENT, OBJECT, rf"cannot drop {_KINDS} {_WORD} because other objects depend on it"),
    ("2BP01", _DEPENDENT, OBJECT, None),
    ("0A000", _DEPENDENT, "table", r"cannot truncate a table referenced in a foreign key constraint"),
    ("0A000", _DEPENDENT, "column", r"cannot alter type of a column used .*"),
    ("42830", None, "foreign key", None),
)

_TICKED: Final = r"(?:`[^`]*`\.)?`(?P<name>[^`]*)`"
_MYSQL: Final = _group(
    ((1146,), _MISSING, "table", rf"Table {_sq('name')} doesn't exist"),
    ((1051, 1109), _MISSING, "table", rf"Unknown table {_sq('name')}(?: in .*)?"),
    ((1146, 1051, 1109), _MISSING, "table", None),
    (1054, _MISSING, "column", rf"Unknown column {_sq('name')} in .*"),
    (1072, _MISSING, "column", rf"Key column {_sq('name')} doesn't exist in table"),
    ((1054, 1072), _MISSING, "column", None),
    (1305, _MISSING, OBJECT, r"(?P<noun>FUNCTION|PROCEDURE) (?:\S+\.)?(?P<name>[\w$]+) does not exist"),
    (1305, _MISSING, "function", None),
    (1582, _MISSING, "function", rf"Incorrect parameter count in the call to native function {_sq('name')}"),
    (
        1318,
        _MISSING,
        "procedure",
        r"Incorrect number of arguments for (?:FUNCTION|PROCEDURE) (?:\S+\.)?(?P<name>\w+);.*",
    ),
    ((1582, 1583, 1584), _MISSING, "function", None),
    (1091, _MISSING, OBJECT, rf"Can't DROP (?P<noun>{_DROPPED}) `(?P<name>[^`]*)`; check that it exists"),
    (1091, _MISSING, OBJECT, r"Can't DROP '(?P<name>[^']*)'; check that column/key exists"),
    (1091, _MISSING, OBJECT, None),
    (1176, _MISSING, "index", rf"Key {_sq('name')} doesn't exist in table .*"),
    (1176, _MISSING, "index", None),
    ((1008, 1049), _MISSING, "database", r"(?:Can't drop database|Unknown database) '(?P<name>[^']*)'.*"),
    ((1008, 1049), _MISSING, "database", None),
    (1193, _MISSING, "setting", rf"Unknown system variable {_sq('name')}"),
    (1273, _MISSING, "collation", rf"Unknown collation: {_sq('name')}"),
    (1360, _MISSING, "trigger", None),
    (4161, _MISSING, "type", rf"Unknown data type: {_sq('name')}"),
    ((4092,), _WRONG_TYPE, "view", rf"Unknown VIEW: {_sq('name')}"),
    (1347, _WRONG_TYPE, OBJECT, rf"{_sq('name')} is not of type '.*'"),
    (1965, _WRONG_TYPE, OBJECT, rf"{_sq('name')} is a view"),
    ((1347, 1965), _WRONG_TYPE, OBJECT, None),
    (1366, _WRONG_TYPE, "column", r"(?i:Incorrect (?:integer|decimal|double|float) value: .*)"),
    (1050, _DUPLICATE, "table", rf"Table {_sq('name')} already exists"),
    (1050, _DUPLICATE, "table", None),
    (1060, _DUPLICATE, "column", rf"Duplicate column name {_sq('name')}"),
    (1060, _DUPLICATE, "column", None),
    (1061, _DUPLICATE, "index", rf"Duplicate key name {_sq('name')}"),
    (1061, _DUPLICATE, "index", None),
    (1007, _DUPLICATE, "database", None),
    (1304, _DUPLICATE, OBJECT, r"(?P<noun>FUNCTION|PROCEDURE) (?P<name>[\w$]+) already exists"),
    (1359, _DUPLICATE, "trigger", rf"Trigger {_sq('name')} already exists"),
    (1359, _DUPLICATE, "trigger", None),
    (1826, _DUPLICATE, "constraint", rf"Duplicate (?:FOREIGN KEY|foreign key) constraint name {_sq('name')}"),
    (1826, _DUPLICATE, "constraint", None),
    (1066, _DUPLICATE, "table alias", rf"Not unique table/alias: {_sq('name')}"),
    (1066, _DUPLICATE, "table alias", None),
    (1052, _AMBIGUOUS, "column", rf"Column {_sq('name')} in .* is ambiguous"),
    (1052, _AMBIGUOUS, "column", None),
    (1005, None, "foreign key", rf"Can't create table {_TICKED} \(errno: 150 .*"),
    (1005, _DUPLICATE, "constraint", r"Can't create table (?:`[^`]*`\.)?`(?P<table>[^`]*)` \(errno: 121 .*"),
    ((1215, 3780), None, "foreign key", None),
    ((1553, 1828, 1829, 1834), _DEPENDENT, OBJECT, r"Cannot drop (?P<noun>index|column) '(?P<name>[^']*)'.*"),
    ((1553, 1828, 1829, 1834), _DEPENDENT, OBJECT, None),
    (1701, _DEPENDENT, "table", None),
)

_BARE: Final = r'"?(?:[^".]*\.)*(?P<name>[^".]*)"?'
_SQLITE: Final = _group(
    (1, _MISSING, OBJECT, rf"no such (?P<noun>table|column|function|index|view|trigger|collation sequence): {_BARE}"),
    (1, _MISSING, "column", r"table (?P<table>\S+) has no column named (?P<name>.*)"),
    (1, _MISSING, "function", r"wrong number of arguments to function (?P<name>\w+)\(\)"),
    (1, _MISSING, "schema", rf"unknown database {_BARE}"),
    (1, _DUPLICATE, OBJECT, r'(?P<noun>table|index|view|trigger) "?(?P<name>.*?)"? already exists'),
    (1, _DUPLICATE, "table", r"there is already (?:another|a|an) .*(?:with this name: |named )(?P<name>.*)"),
    (1, _DUPLICATE, "column", rf"duplicate column name: {_BARE}"),
    (1, _AMBIGUOUS, "column", rf"ambiguous column name: {_BARE}"),
    (1, _WRONG_TYPE, OBJECT, r"use DROP (?:TABLE|VIEW) to delete (?:table|view) (?P<name>.*)"),
    (1, _DEPENDENT, "column", r'cannot drop (?:UNIQUE|PRIMARY KEY) column: "?(?P<name>[^"]*)"?'),
    (1, _DEPENDENT, OBJECT, r"error in (?:index|view|trigger|table) .*"),
    (1, None, "foreign key", r"foreign key mismatch - .*"),
    (257, _MISSING, "collation", rf"no such collation sequence: {_BARE}"),
    (3091, _WRONG_TYPE, "column", r"cannot store (?P<types>\w+ value in \w+ column) (?P<table>[^.]*)\.(?P<name>.*)"),
)

TEMPLATES: Final[Mapping[str, _Templates]] = {
    "postgresql": _POSTGRESQL,
    "mariadb": _MYSQL,
    "mysql": _MYSQL,
    "sqlite": _SQLITE,
}

#: Codes that blame a row for a DROP or TRUNCATE, although other objects depend on the table.
ROWS_FAULT: Final[Mapping[str, frozenset[int]]] = {
    "mariadb": frozenset({1217, 1451}),
    "mysql": frozenset({1217, 1451, 3730}),
    "sqlite": frozenset({787}),
}
