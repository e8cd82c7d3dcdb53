"""What can be known of a statement before it is sent: whether it only reads, and where it may not run.

Texts are scanned once and remembered; Core constructs are asked. When in doubt a statement is taken for a write.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import Executable, TextClause, text
from sqlalchemy.schema import ExecutableDDLElement
from sqlalchemy.sql import visitors
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.elements import ColumnClause, TString
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.selectable import CompoundSelect, Select, TextualSelect

from prefiq_db.errors import StatementRefusedError, UsageError

_TOKEN = re.compile(
    r"""(?P<skip>\s+|--[^\n]*|/\*M?!\d*|\*/|/\*.*?\*/|\A\#[^\n]*)
      | (?P<quoted>'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
      | (?P<word>[^\W\d][\w$]*)
      | (?P<mark>[();=.]|:=)
      | (?P<other>.)""",
    re.S | re.X,
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Functions of the SQL standard and their everyday kin: no side effect on any of the three databases.
_HARMLESS: Final = _words(
    """abs avg cast ceil ceiling char_length character_length coalesce concat concat_ws convert count cume_dist
    current_date current_time current_timestamp date date_add date_format date_part date_sub date_trunc datetime
    dense_rank exp extract first_value floor format greatest group_concat ifnull iif instr json_agg json_array
    json_build_object json_extract json_object julianday lag last_value lead least left length ln localtime
    localtimestamp log lower lpad ltrim max min mod now ntile nullif octet_length pg_backend_pid power percent_rank
    rank replace right round row_number rpad rtrim sign sqrt strftime string_agg substr substring sum time to_char
    total trim trunc unixepoch upper version year month day hour minute second"""
)
# Words that an opening parenthesis may follow without being a function call.
_BEFORE_PARENTHESIS: Final = _words(
    """select from where and or not in as on using over filter values exists any all some union except intersect join
    by having when then else case between like distinct with recursive materialized limit offset lateral is end
    within group partition"""
)
_DATA_CHANGING: Final = _words("insert update delete merge replace truncate")
_LOCKING: Final = (("for", "update"), ("for", "share"), ("for", "no"), ("for", "key"), ("lock", "in"))
_SESSION_LOCKS: Final = re.compile(r"^(pg_(try_)?advisory_.*|get_lock|release_lock|release_all_locks|is_used_lock)$")
_CONTROL: Final = _words("begin commit rollback savepoint release start end abort xa")
# Their bodies are statements with semicolons of their own.
_COMPOUND: Final = _words("begin declare")
_ROUTINES: Final = _words("trigger procedure function event package")
# Pragmas that only look, with their argument in parentheses; with any other, the argument is a value to set.
_READING_PRAGMAS: Final = _words(
    """table_info table_xinfo table_list index_list index_info index_xinfo foreign_key_list foreign_key_check
    integrity_check quick_check"""
)
_DDL: Final = _words(
    """create alter drop truncate rename grant revoke comment reindex vacuum analyze optimize repair lock unlock flush
    install uninstall"""
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a statement is.

    Attributes:
        reads_only: it provably changes nothing and holds nothing, so it may be sent twice.
        ddl: it defines the schema (on MariaDB it would commit the open transaction).
        control: it begins or ends a transaction by text; never allowed.
        no_tomorrow: why it is of no use outside a transaction, or ``""``.
    """

    reads_only: bool = False
    ddl: bool = False
    control: bool = False
    no_tomorrow: str = ""


def as_executable(statement: Any) -> Executable:
    """Return *statement* (text or any Core construct) as what SQLAlchemy executes.

    Raises:
        UsageError: if it is neither.
    """
    if isinstance(statement, str):
        return _text(statement)
    if isinstance(statement, Executable):
        return statement
    raise UsageError(f"statement: expected SQL text or a SQLAlchemy Core construct, not {type(statement).__name__}")


# One text() per SQL string keeps SQLAlchemy from parsing the bind names again on every call.
_text = lru_cache(maxsize=1024)(text)


def facts_of(statement: Executable) -> Facts:
    """Return the facts that decide where *statement* may run; cheap, no traversal of Core constructs."""
    if isinstance(statement, TextualSelect):
        statement = statement.element
    if isinstance(statement, TextClause):
        return facts_of_text(statement.text)
    if isinstance(statement, ExecutableDDLElement):
        return Facts(ddl=True)
    if isinstance(statement, Select) and statement._for_update_arg is not None:
        return Facts(no_tomorrow=LOCK_REASON)
    return Facts()


def reads_only(statement: Executable) -> bool:
    """Return whether *statement* provably only reads. Walks a Core construct: ask when it matters, not always."""
    if isinstance(statement, TextualSelect):
        statement = statement.element
    if isinstance(statement, TextClause):
        return facts_of_text(statement.text).reads_only
    if not isinstance(statement, (Select, CompoundSelect)):
        return False
    for element in visitors.iterate(statement):
        if isinstance(element, (UpdateBase, TextClause, TString)):
            return False
        if isinstance(element, ColumnClause) and element.is_literal and not _reads(f"select {element.name}"):
            return False
        if isinstance(element, Select) and element._for_update_arg is not None:
            return False
        if isinstance(element, FunctionElement) and str(getattr(element, "name", "")).lower() not in _HARMLESS:
            return False
    return True


def _reads(sql: str) -> bool:
    return facts_of_text(sql).reads_only


LOCK_REASON: Final = "its row locks would be gone as soon as it ends; run it inside transaction()"


@lru_cache(maxsize=2048)
def facts_of_text(sql: str) -> Facts:
    """Return the facts of SQL text."""
    tokens = _tokens(sql)
    if not _named(tokens):
        return Facts()
    parts = [_facts_of_part(part) for part in _statements(tokens)]
    if any(part.control for part in parts):
        return Facts(control=True)
    return Facts(
        reads_only=len(parts) == 1 and parts[0].reads_only and not _doubtful(sql),
        ddl=any(part.ddl for part in parts),
        no_tomorrow=next((part.no_tomorrow for part in parts if part.no_tomorrow), ""),
    )


def _statements(tokens: list[str]) -> list[list[str]]:
    """Return the statements between the semicolons; psycopg sends several at once when there are no parameters."""
    parts: list[list[str]] = [[]]
    for token in tokens:
        if token != ";" or (len(parts) == 1 and _compound(_named(parts[0]))):
            parts[-1].append(token)
        else:
            parts.append([])
    return [part for part in parts if _named(part)]


def _compound(words: list[str]) -> bool:
    return bool(words) and (words[0] in _COMPOUND or (words[0] == "create" and not _ROUTINES.isdisjoint(words[1:6])))


def _named(tokens: list[str]) -> list[str]:
    return [token for token in tokens if token[0].isalpha() or token[0] == "_"]


def _facts_of_part(tokens: list[str]) -> Facts:
    words = _named(tokens)
    if words[:2] == ["set", "statement"] and "for" in words[:-1]:  # MariaDB: limits for the statement that follows
        words = words[words.index("for") + 1 :]
    first, second = words[0], words[1] if len(words) > 1 else ""
    if _controls(first, second, words):
        return Facts(control=True)
    temporary = _makes_or_drops_temporary(words)
    return Facts(
        reads_only=_reads_only(first, words, tokens),
        ddl=first in _DDL and not temporary,
        no_tomorrow=_no_tomorrow(first, second, words, tokens, temporary),
    )


def _makes_or_drops_temporary(words: list[str]) -> bool:
    """Return whether it is CREATE [OR REPLACE] [LOCAL | GLOBAL] TEMPORARY, or DROP TEMPORARY."""
    kind = next((word for word in words[1:] if word not in ("or", "replace", "local", "global")), "")
    return words[0] in ("create", "drop") and kind in ("temporary", "temp")


def check_one_shot(statement: Executable) -> None:
    """Raise :class:`StatementRefusedError` if *statement* makes no sense outside a transaction."""
    facts = facts_of(statement)
    if facts.control:
        raise control_refused()
    if facts.no_tomorrow:
        raise StatementRefusedError(f"this statement can't run outside a transaction: {facts.no_tomorrow}")


def control_refused() -> StatementRefusedError:
    return StatementRefusedError(
        "BEGIN, COMMIT, ROLLBACK and SAVEPOINT can't be sent as text: use transaction(); a nested one is a savepoint"
    )


def ddl_refused(label: str) -> StatementRefusedError:
    return StatementRefusedError(
        f"{label} commits the open transaction at every DDL statement, and everything before it with it, even when the "
        "DDL fails; run DDL outside transaction(), best in a migration"
    )


def _controls(first: str, second: str, words: list[str]) -> bool:
    """Return whether a statement begins or ends a transaction."""
    if first == "set":  # to MariaDB, switching autocommit on is a COMMIT
        return "autocommit" in words
    if first == "prepare":
        return second == "transaction"
    # MariaDB's compound block begins with BEGIN NOT ATOMIC; it is one statement.
    return first in _CONTROL and not (first == "begin" and second == "not")


# A backslash is an escape to MariaDB and a character to the others; so are # and -- without a blank a comment to some
# and operators to the others, and $ quotes only on PostgreSQL; /*! ... */ is code to MariaDB.
_DOUBTFUL: Final = re.compile(r"[\\#$]|/\*M?!|--(?!\s|\Z)")


def _doubtful(sql: str) -> bool:
    """Return whether the server or its mode decides where a string or comment ends."""
    return _DOUBTFUL.search(sql) is not None


def _tokens(sql: str) -> list[str]:
    """Return lower-case words and marks; what is quoted becomes ``'``, whatever else stands there ``?``."""
    tokens = []
    for match in _TOKEN.finditer(sql):
        if match.lastgroup in ("word", "mark"):
            tokens.append(match.group().lower())
        elif match.group("quoted") is not None:
            tokens.append("'")
        elif match.lastgroup != "skip":
            tokens.append("?")
    return tokens


def _reads_only(first: str, words: list[str], tokens: list[str]) -> bool:
    if first not in ("select", "with"):
        return False
    known = set(words)
    if known & _DATA_CHANGING - {"replace"} or "into" in known:
        return False
    if any(pair in _LOCKING or pair == ("next", "value") for pair in itertools.pairwise(words)):
        return False
    return all(_harmless_call(*tokens[place - 2 : place]) for place in _parentheses(tokens) if place >= 2)


def _parentheses(tokens: list[str]) -> list[int]:
    return [place for place, token in enumerate(tokens) if token == "("]


def _harmless_call(before: str, name: str) -> bool:
    """Return whether the parenthesis after *name* calls nothing, or a function that we know."""
    if name == "'":  # "nextval"(...): a name in quotes is called as well
        return False
    if not (name[0].isalpha() or name[0] == "_"):
        return True
    # A function of somebody's own schema may be called like one of the standard.
    return name in _BEFORE_PARENTHESIS or (name in _HARMLESS and before != ".")


def _no_tomorrow(first: str, second: str, words: list[str], tokens: list[str], temporary: bool) -> str:
    if first == "set" and second != "statement":
        return "SET would change a pooled connection for whoever gets it next; use settings, using() or transaction()"
    if first == "pragma" and _sets_pragma(tokens):
        return "PRAGMA would change a pooled connection for whoever gets it next"
    if first in ("use", "attach", "detach"):
        return f"{first.upper()} would change a pooled connection for whoever gets it next"
    if first == "lock" or (first == "unlock"):
        return "a table lock would be gone, or left behind, when the connection returns to the pool"
    if temporary and first == "create":
        return "a temporary table belongs to one connection, and the next statement may get another"
    if first in ("select", "with") and _selects_into_temporary(words, tokens):
        return "a temporary table belongs to one connection, and the next statement may get another"
    if first in ("declare", "listen", "unlisten", "prepare", "deallocate", "fetch"):
        return f"{first.upper()} belongs to one connection, and the next statement may get another"
    if first in ("select", "with") and any(
        pair in _LOCKING for pair in itertools.pairwise(words) if pair[0] in ("for", "lock")
    ):
        return LOCK_REASON
    for place in _parentheses(tokens)[0 if tokens[0] != "(" else 1 :]:
        if tokens[place - 1] == "set_config" and not _ends_with_true(tokens[place:]):
            return "set_config would change a pooled connection for whoever gets it next; use settings or transaction()"
        if _SESSION_LOCKS.match(tokens[place - 1]):
            return "a session lock belongs to one connection, and the next statement may get another"
    return ""


def _sets_pragma(tokens: list[str]) -> bool:
    return "=" in tokens or any(
        tokens[place - 1] not in _READING_PRAGMAS for place in _parentheses(tokens)[:1] if place >= 1
    )


def _selects_into_temporary(words: list[str], tokens: list[str]) -> bool:
    """Return whether it is SELECT ... INTO [LOCAL | GLOBAL] TEMPORARY name, and not INTO a table called temp."""
    if "insert" in words:
        return False
    for place, token in enumerate(tokens):
        if token == "into":
            kind, *after = [each for each in tokens[place + 1 : place + 4] if each not in ("local", "global")] or [""]
            if kind in ("temp", "temporary") and after and after[0] != "from" and _is_name(after[0]):
                return True
    return False


def _is_name(token: str) -> bool:
    return token == "'" or token[0].isalpha() or token[0] == "_"


def _ends_with_true(tokens: list[str]) -> bool:
    """Return whether the last argument of the call whose parenthesis comes first is the word TRUE."""
    depth = 0
    for place, token in enumerate(tokens):
        depth += {"(": 1, ")": -1}.get(token, 0)
        if depth == 0:
            return tokens[place - 2 : place] == ["?", "true"]
    return False
