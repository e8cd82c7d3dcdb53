"""Dialects for SQL that is written into a file: psql, mariadb or sqlite3 then run what we would have sent.

Statements that are sent have their percent signs doubled, because the driver halves them again; in a file they stay
single. Facts that a connection would report about the server and its session are fixed here.
Why separate classes: docs/decisions/0087-why-offline-sql-has-dialects-of-its-own.md.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar, Final

from sqlalchemy.dialects import registry
from sqlalchemy.sql.sqltypes import _Binary
from sqlalchemy.types import JSON, String, TypeDecorator, TypeEngine

from prefiq_db.dialects.mariadb import SESSION, PrefiqMariadb, PrefiqMysql
from prefiq_db.dialects.postgresql import PrefiqPostgresql
from prefiq_db.dialects.sqlite import PrefiqSqlite
from prefiq_db.errors import UnsupportedError
from prefiq_db.masking import mask_literals

# We end a statement with the first of these that it doesn't contain; the client would end it at the first semicolon.
_DELIMITERS: Final = ("//", "$$", "@@", "||", "%%", "!!")


_NOT_OF_ITS_OWN: Final = (TypeEngine.literal_processor, TypeDecorator.literal_processor)


class _Literals:
    """Mixed in before a compiler: literals that need no driver, and that a client passes on unchanged."""

    dialect: Any

    def render_literal_bindparam(self, bindparam: Any, *args: Any, **kw: Any) -> str:
        type_ = bindparam.type
        if bindparam.value is None and bindparam.callable is None and not args and type_.should_evaluate_none:
            return self.render_literal_value(None, type_)  # the JSON document null, and not NULL
        literal: str = super().render_literal_bindparam(bindparam, *args, **kw)  # type: ignore[misc]
        return literal

    def render_literal_value(self, value: Any, type_: Any) -> str:
        impl = type_._unwrapped_dialect_impl(self.dialect)
        if isinstance(impl, _Binary):
            # SQLAlchemy would write the bytes as text. Without a driver, the processor does only what a decorator does.
            process = type_.dialect_impl(self.dialect).bind_processor(self.dialect)
            return str(self.dialect.bytes_literal(bytes(value if process is None else process(value))))
        if isinstance(impl, JSON) and type(type_).literal_processor in _NOT_OF_ITS_OWN:
            # SQLAlchemy has no literals for this type.
            document = type_.process_bind_param(value, self.dialect) if isinstance(type_, TypeDecorator) else value
            value, type_ = json.dumps(None if document is JSON.NULL else document), String()
        literal: str = super().render_literal_value(value, type_)  # type: ignore[misc]
        return str(self.dialect.on_one_line(literal))


class Offline:
    """Mixed in before one of our dialects."""

    #: statements that give the session which applies the file the settings of our sessions
    preamble: ClassVar[tuple[str, ...]] = ()

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**{**arguments, "paramstyle": "named"})

    def on_one_line(self, literal: str) -> str:
        """Return *literal* without characters that the client would change."""
        return literal

    def bytes_literal(self, value: bytes) -> str:
        return f"X'{value.hex()}'"

    def terminated(self, statement: str) -> str:
        """Return a whole statement in the form that the client reads.

        Raises:
            UnsupportedError: if it holds a NUL character, which ends a text for some clients and is refused by others.
        """
        if "\0" in statement:
            raise UnsupportedError("offline SQL: a text with a NUL character can't be written ; run it online")
        bare = statement.strip().rstrip(";").rstrip()
        last = bare.rpartition("\n")[2]
        # After a comment, the terminator would be part of the comment.
        return bare + ("\n;" if "--" in last or "#" in last else ";")


def _with_literals(dialect: Any) -> Any:
    return type("OfflineCompiler", (_Literals, dialect.statement_compiler), {})


class OfflinePostgresql(Offline, PrefiqPostgresql):
    supports_statement_cache = True
    statement_compiler = _with_literals(PrefiqPostgresql)
    # Only PostgreSQL 18 has them, and uses them by default; every version accepts STORED.
    supports_virtual_generated_columns = False
    preamble = (
        "SET client_encoding = 'UTF8'",
        "SET standard_conforming_strings = on",
        "SET timezone = 'UTC'",
    )

    def bytes_literal(self, value: bytes) -> str:
        return f"'\\x{value.hex()}'::bytea"


class _OfflineMysqlFamily(Offline):
    preamble = ("SET NAMES utf8mb4", f"SET SESSION {SESSION}")

    def on_one_line(self, literal: str) -> str:
        # The client reads line by line, and drops a carriage return before the end of a line.
        return literal.replace("\r", "\\r")

    def terminated(self, statement: str) -> str:
        ended = super().terminated(statement)
        inside = mask_literals(ended, "mariadb").rstrip().removesuffix(";")
        if ";" not in inside:
            return ended
        # The body of a trigger or a procedure.
        delimiter = next(each for each in _DELIMITERS if each not in ended)
        return f"DELIMITER {delimiter}\n{ended.removesuffix(';')}\n{delimiter}\nDELIMITER ;"


class OfflineMariadb(_OfflineMysqlFamily, PrefiqMariadb):
    supports_statement_cache = True
    statement_compiler = _with_literals(PrefiqMariadb)
    # The value that SQLAlchemy detects on a server of 10.7 or later.
    _allows_uuid_binds = True
    _support_float_cast = True


class OfflineMysql(_OfflineMysqlFamily, PrefiqMysql):
    supports_statement_cache = True
    statement_compiler = _with_literals(PrefiqMysql)
    _support_float_cast = True


class OfflineSqlite(Offline, PrefiqSqlite):
    supports_statement_cache = True
    statement_compiler = _with_literals(PrefiqSqlite)
    # Foreign keys are off while tables are rebuilt, as online.
    preamble = ("PRAGMA foreign_keys = OFF",)


#: SQLAlchemy's name of each offline dialect, by the name of its online counterpart.
OFFLINE: Final = {
    "postgresql": "postgresql+prefiq_offline",
    "mariadb": "mariadb+prefiq_offline",
    "mysql": "mysql+prefiq_offline",
    "sqlite": "sqlite+prefiq_offline",
}

for _cls, _name in zip((OfflinePostgresql, OfflineMariadb, OfflineMysql, OfflineSqlite), OFFLINE.values(), strict=True):
    registry.register(_name.replace("+", "."), __name__, _cls.__name__)
