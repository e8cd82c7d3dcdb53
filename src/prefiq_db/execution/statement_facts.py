"""What is known of a statement before it is sent: whether it only reads, and where it must not run.

A text is analysed once, by its database's rules, and cached. A Core construct is analysed by the text that SQLAlchemy
compiles it to, so both follow the same rules. When in doubt a statement counts as a write.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any, Final

from sqlalchemy import Executable, TextClause, TextualSelect, TString, text
from sqlalchemy import exc as sa_exc
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.selectable import CompoundSelect, Select

from prefiq_db.call import Call
from prefiq_db.dialects.rules import RULES, Rules
from prefiq_db.errors import UsageError
from prefiq_db.execution.proven_reads import DATA_CHANGING, Reading, reading
from prefiq_db.execution.quoted_binds import CarefulText, needs_care
from prefiq_db.execution.sql_tokens import Tokens, scan
from prefiq_db.execution.statement_splitting import carries_rows, is_routine, statements_in
from prefiq_db.execution.templates import Template, as_tstring
from prefiq_db.execution.tied_statements import LOCK_REASON, Tie, tie_of
from prefiq_db.execution.transaction_statements import (
    committing_word,
    controls,
    controls_within,
    inner_statement,
    is_compound,
    is_dynamic,
    makes_or_drops_temporary,
)
from prefiq_db.memory import Memory

#: SQLAlchemy must not cache longer texts (in characters): they are dumps and generated lists; it limits number only.
LONGEST_COMPILED: Final = 50_000

# Statements that may travel in one burst with BEGIN or COMMIT. Others may speak another protocol, as COPY does, or
# refuse to run in company.
TRAVELLING: Final = frozenset({"select", "insert", "update", "delete", "merge", "replace", "values"})
COUNTED: Final = frozenset({"insert", "update", "delete", "merge", "replace"})


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a statement.

    Attributes:
        verb: its main word: ``select``, ``insert``, ``update``, ``create`` ...
        reads_only: it changes nothing and locks nothing, so it may be sent twice, provided that no user-defined
            function has a name in *takable*.
        reads_by_words: nothing but a function in it can change or lock anything: a server that
            refuses writes may judge.
        takable: functions in it that the server may resolve to user-defined ones.
        only_built_in: every function that it calls is certainly a built-in one.
        control: it begins or ends a transaction by text; never allowed.
        several: it is more than one statement; never allowed.
        unsendable: why its text can't be sent to any database, or ``""``; never allowed.
        carries_rows: it transfers rows outside its text (COPY); never allowed.
        commits: the part of it that would commit the open transaction implicitly, or ``""``.
        hidden: the server builds a statement from a part of it, so its effect can't be known.
        no_tomorrow: why it is of no use outside a transaction, or ``""``.
        lingers: what it leaves on the connection outlives COMMIT.
        weighted: the server's row count for it is not a number of rows.
        returning: it has RETURNING.
        stands_alone: it may be sent outside a transaction.
        stands_inside: it may be sent in a transaction.
    """

    verb: str = ""
    reads_only: bool = False
    reads_by_words: bool = False
    takable: frozenset[str] = frozenset()
    only_built_in: bool = False
    control: bool = False
    several: bool = False
    unsendable: str = ""
    carries_rows: bool = False
    commits: str = ""
    hidden: bool = False
    no_tomorrow: str = ""
    lingers: bool = False
    weighted: bool = False
    returning: bool = False
    stands_alone: bool = field(init=False, default=True)
    stands_inside: bool = field(init=False, default=True)

    def __post_init__(self) -> None:
        # Computed once, because every statement checks it.
        sendable = not (self.control or self.several or self.unsendable or self.carries_rows)
        object.__setattr__(self, "stands_alone", sendable and not self.no_tomorrow)
        object.__setattr__(self, "stands_inside", sendable and not self.commits and not self.hidden)


def as_executable(statement: Any) -> Executable:
    """Return *statement*, a text, a template or a Core construct, as an object that SQLAlchemy executes.

    Raises:
        UsageError: if it is neither.
    """
    if isinstance(statement, str):
        known = _texts.kept.get(statement)
        return _text(statement) if known is None else known
    if isinstance(statement, Executable):
        return statement
    if isinstance(statement, Template):
        return as_tstring(statement, LONGEST_COMPILED)
    kind = type(statement).__name__
    raise UsageError(f"statement: expected SQL text, a template string or a SQLAlchemy Core construct, not {kind}")


# One text() per SQL string keeps SQLAlchemy from parsing the bind names again on every call.
_texts: Final[Memory[TextClause]] = Memory(1024)


class LongText(TextClause):
    """A text that SQLAlchemy compiles anew each time."""

    inherit_cache = False
    __visit_name__ = "textclause"


def _text(sql: str) -> TextClause:
    made = text(sql) if len(sql) <= LONGEST_COMPILED else LongText(sql)
    if needs_care(made):
        made = CarefulText(sql)
    return made if len(sql) > LONGEST_COMPILED else _texts.keep(sql, made, sql, made.text)


def facts_of(statement: Executable, dialect: str) -> Facts:
    """Return the facts of *statement* without compiling it: complete for a text, few for a Core construct."""
    if isinstance(statement, TextClause):
        return facts_of_text(statement.text, dialect)
    if isinstance(statement, TextualSelect) and isinstance(statement.element, TextClause):
        return facts_of_text(statement.element.text, dialect)
    if isinstance(statement, Select) and statement._for_update_arg is not None:
        return Facts(no_tomorrow=LOCK_REASON)
    return Facts()


def facts_sent(context: Any, statement: str, dialect: str) -> Facts:
    """Return the facts of the statement that SQLAlchemy's execution *context* sends.

    Uses the compiled text, where there is one: it is the same object each time, while *statement* differs for lists and
    batches.
    """
    compiled = context.compiled
    return facts_of_text(statement if compiled is None else compiled.string, dialect)


def reading_facts(statement: Executable, dialect: Any) -> Facts:
    """Return the complete facts of *statement* for SQLAlchemy's *dialect*; compiles a Core construct."""
    known = facts_of(statement, dialect.label)
    if isinstance(statement, TextualSelect) and isinstance(statement.element, TString):
        statement = statement.element
    if not isinstance(statement, (Select, CompoundSelect, TString)):
        return known
    try:
        compiled = statement.compile(dialect=dialect)
    except sa_exc.SQLAlchemyError:  # it can't be sent either
        return known
    return facts_of_text(str(compiled), dialect.label)


def facts_of_call(call: Call, dialect: Any) -> Facts:
    """Return :func:`reading_facts` of the statement of *call*, computed once."""
    facts: Facts | None = call.facts
    if facts is None:
        call.facts = facts = reading_facts(call.statement, dialect)
    return facts


def may_travel(call: Call, dialect: Any) -> bool:
    """Return whether the statement of *call* is one that may travel with BEGIN or COMMIT."""
    return isinstance(call.statement, UpdateBase) or facts_of_call(call, dialect).verb in TRAVELLING


def facts_of_text(sql: str, dialect: str) -> Facts:
    """Return the facts of SQL text, as *dialect* reads it: ``postgresql``, ``mariadb``, ``mysql`` or ``sqlite``."""
    known = _known.kept.get((sql, dialect))
    return _known.keep((sql, dialect), _judged(sql, dialect), sql) if known is None else known


def _judged(sql: str, dialect: str) -> Facts:
    unsendable = _unsendable(sql)
    if unsendable:
        return Facts(unsendable=unsendable)
    rules = RULES[dialect]
    tokens = scan(sql, rules.lexis)
    facts = _facts_of(tokens, sql, rules, dialect)
    if tokens.code_comment:
        # Servers of another version see a comment where the first scan saw code.
        facts = _together(facts, _facts_of(scan(sql, rules.lexis, comments_are_code=False), sql, rules, dialect))
    return facts


_known: Final[Memory[Facts]] = Memory(2048)


def _unsendable(sql: str) -> str:
    """Return why *sql* is never sent: databases would read it differently, or only some would accept it."""
    if "\0" in sql:  # psycopg sends only the text before it
        return "it has a NUL character, at which PostgreSQL and SQLite stop to read: pass the value as a bind"
    if not sql.isascii() and _SURROGATE.search(sql) is not None:
        return "it has half a surrogate pair, which is no character: pass the value as a bind, or decode it right"
    return "" if _SQL.search(sql) is not None else "it is empty"


_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_SQL: Final = re.compile(r"[^\s;]")


def _together(one: Facts, other: Facts) -> Facts:
    return replace(
        one,
        control=one.control or other.control,
        several=one.several or other.several,
        carries_rows=one.carries_rows or other.carries_rows,
        commits=one.commits or other.commits,
        hidden=one.hidden or other.hidden,
        no_tomorrow=one.no_tomorrow or other.no_tomorrow,
        lingers=one.lingers or other.lingers,
    )


def _facts_of(tokens: Tokens, sql: str, rules: Rules, dialect: str) -> Facts:
    parts = [_facts_of_part(part, sql, rules, dialect) for part in statements_in(tokens, rules)]
    if not parts:
        return Facts()
    facts = parts[0]
    for part in parts[1:]:
        facts = _together(facts, part)
    return facts if len(parts) == 1 else replace(facts, reads_only=False, reads_by_words=False, several=True)


def _facts_of_part(tokens: Tokens, sql: str, rules: Rules, dialect: str) -> Facts:
    words = _without_limits(tokens.words)
    inner = inner_statement(tokens, sql, words) if rules.dynamic else None
    if inner is not None:
        return _facts_of_inner(facts_of_text(inner, dialect), words, tokens, rules)
    compound = is_compound(words, rules)
    if controls(words) or (compound and controls_within(tokens.texts)):
        return Facts(control=True)
    temporary = makes_or_drops_temporary(words)
    tie = tie_of(words, tokens, rules, compound=compound, temporary=temporary)
    read = reading(words[0], words, tokens, rules.functions)
    if _lifts_read_only(tokens.words):
        read, tie = Reading(), tie or Tie(_LIFTED, lingers=False)
    return Facts(
        verb=_verb(words, tokens.texts),
        reads_only=read.sure,
        reads_by_words=read.by_words,
        carries_rows=carries_rows(tokens.texts),
        takable=read.takable,
        only_built_in=read.only_built_in,
        commits=committing_word(words, tokens.texts, rules, compound, temporary),
        hidden=rules.dynamic and not is_routine(words) and is_dynamic(words, compound),
        no_tomorrow="" if tie is None else tie.reason,
        lingers=tie is not None and tie.lingers,
        weighted=not rules.counts_weighted.isdisjoint(words),
        returning="returning" in words,
    )


def _facts_of_inner(facts: Facts, words: list[str], tokens: Tokens, rules: Rules) -> Facts:
    """Return *facts* of the statement in PREPARE or EXECUTE IMMEDIATE; it needs its connection as they do."""
    tie = tie_of(words, tokens, rules, compound=False, temporary=False)
    return (
        facts
        if tie is None
        else replace(facts, reads_only=False, reads_by_words=False, no_tomorrow=tie.reason, lingers=tie.lingers)
    )


def _without_limits(words: list[str]) -> list[str]:
    """Return the words without MariaDB's SET STATEMENT ... FOR, which sets limits for the statement after it."""
    if words[:2] == ["set", "statement"] and "for" in words[:-1]:
        return words[words.index("for") + 1 :]
    return words


def _lifts_read_only(words: list[str]) -> bool:
    """Return whether MariaDB's SET STATEMENT lets a statement write in a session that may only read."""
    return words[:2] == ["set", "statement"] and not _READ_ONLY.isdisjoint(words)


_READ_ONLY: Final = frozenset({"tx_read_only", "transaction_read_only"})
_LIFTED: Final = "it would write where its session may only read; use read_only and replica of using()"


def _verb(words: list[str], texts: list[str]) -> str:
    """Return the main word; for WITH, that of the statement after it."""
    if words[0] != "with":
        return words[0]
    depth = 0
    for each in texts:
        depth += {"(": 1, ")": -1}.get(each, 0)
        if depth == 0 and (each in DATA_CHANGING or each in ("select", "values")):
            return each
    return "with"
