"""What a type checker knows of statements and rows: the names that the overloads of the verbs are made of."""

from __future__ import annotations

from typing import Any, TypeAlias, TypeVar, TypeVarTuple

from sqlalchemy import Executable, Row, TextClause, TextualSelect, TString
from sqlalchemy.util.compat import Template  # that of string.templatelib, or a stand-in where Python has none

T = TypeVar("T")
V = TypeVar("V")
Ts = TypeVarTuple("Ts")

#: A row whose columns no type checker knows.
AnyRow: TypeAlias = "Row[*tuple[Any, ...]]"

#: What a verb runs.
Statement: TypeAlias = str | Executable | Template

#: A statement whose columns no type checker knows: its rows fit any function. A Core ``select()`` knows them.
Untyped: TypeAlias = str | TextClause | TString | TextualSelect | Template
