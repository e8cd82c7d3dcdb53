"""Statements of no use outside a transaction: their effect is lost, or stays for the connection's next user."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from prefiq_db.dialects.rules import Rules
from prefiq_db.execution.proven_reads import DATA_CHANGING, LOCKING
from prefiq_db.execution.sql_tokens import QUOTED, Tokens, is_word
from prefiq_db.execution.statement_splitting import is_routine

LOCK_REASON: Final = "its row locks would be gone as soon as it ends; run it inside transaction()"
#: of a lock that isn't a row's: each server has its own
SERVER_LOCK: Final = "a session lock belongs to one connection, and the next statement may get another"
ANSWERS_REASON: Final = (
    "it tells what the connection did before, and a single statement may get anybody's; use RETURNING or "
    "inserted_primary_key, or run both in transaction()"
)
_VARIABLE: Final = "a user variable belongs to one connection, and the next statement may get another; use a bind"
_TEMPORARY: Final = "a temporary table belongs to one connection, and the next statement may get another"

# Pragmas that only read, or change the file and not the connection.
_HARMLESS_PRAGMAS: Final = frozenset(
    """table_info table_xinfo table_list index_list index_info index_xinfo foreign_key_list foreign_key_check
    function_list collation_list database_list module_list pragma_list integrity_check quick_check user_version
    application_id schema_version wal_checkpoint incremental_vacuum optimize""".split()  # noqa: SIM905 - reads better
)
_SESSION_LOCKS: Final = frozenset({"get_lock", "release_lock", "release_all_locks", "is_used_lock"})
_OF_THE_LAST: Final = frozenset({"warnings", "errors"})
# In these 'a'@'b' is an account.
_NAMES_ACCOUNTS: Final = frozenset({"create", "alter", "drop", "grant", "revoke", "rename", "show", "kill"})
# Words before a name that is not a call, although a parenthesis follows it.
_BEFORE_NAME: Final = frozenset({"into", "table", "exists", "references", "on", "index", "key", "constraint"})


@dataclass(frozen=True, slots=True)
class Tie:
    """What ties a statement to one connection.

    Attributes:
        reason: why it is of no use outside a transaction.
        lingers: it stays on the connection when the transaction has ended.
    """

    reason: str
    lingers: bool = True


def tie_of(words: list[str], tokens: Tokens, rules: Rules, *, compound: bool, temporary: bool) -> Tie | None:
    """Return what ties one statement to its connection; ``None`` when nothing does."""
    if is_routine(words):  # its body runs later
        return None
    ties = itertools.chain(
        _temporary(words, tokens, temporary),
        _settings(words, tokens, rules),
        _belongings(words, rules),
        _row_locks(words, tokens),
        _variables(words, tokens, rules, compound),
        _calls(tokens, rules, compound),
    )
    return next(ties, None)


def _temporary(words: list[str], tokens: Tokens, temporary: bool) -> Iterator[Tie]:
    if temporary and words[0] == "create":
        yield Tie(_TEMPORARY, ("commit", "drop") not in pairwise(words))
    if words[0] in ("select", "with") and _selects_into_temporary(words, tokens.texts):
        yield Tie(_TEMPORARY)


def _settings(words: list[str], tokens: Tokens, rules: Rules) -> Iterator[Tie]:
    next_user = "would change a pooled connection for whoever gets it next"
    if words[0] == "set" and not rules.commits_by_itself(words):
        reason = f"SET {next_user}; use settings, using() or transaction()"
        yield Tie(reason, rules.passing_sets.isdisjoint(words[1:2]))
    if words[0] == "pragma" and _sets_pragma(tokens.texts):
        yield Tie(f"PRAGMA {next_user}")
    if words[0] == "use":
        yield Tie(f"USE {next_user}")


def _belongings(words: list[str], rules: Rules) -> Iterator[Tie]:
    first = words[0]
    if first in ("lock", "unlock"):
        reason = "a table lock would be gone, or left behind, when the connection returns to the pool"
        yield Tie(reason, rules.table_locks_last)
    if first in rules.ties and words[1:2] != ["immediate"]:
        lasts = first in rules.lasting_ties or ("with", "hold") in pairwise(words)
        yield Tie(f"{first.upper()} belongs to one connection, and the next statement may get another", lasts)


def _row_locks(words: list[str], tokens: Tokens) -> Iterator[Tie]:
    # A statement that also writes needs its locks only while it runs.
    locks = words[0] in ("select", "with") and any(pair in LOCKING for pair in pairwise(words))
    if locks and not _writes(tokens.texts):
        yield Tie(LOCK_REASON, lingers=False)


def _variables(words: list[str], tokens: Tokens, rules: Rules, compound: bool) -> Iterator[Tie]:
    texts = tokens.texts
    for place, text in enumerate(texts if rules.user_variables else []):
        if text == "@@" and not compound and not rules.session_variables.isdisjoint(texts[place + 1 : place + 4 : 2]):
            yield Tie(ANSWERS_REASON, lingers=False)
        if text == "@" and words[0] not in _NAMES_ACCOUNTS:
            yield Tie(_VARIABLE)
    tells = words[0] == "show" and not _OF_THE_LAST.isdisjoint(words)
    if rules.user_variables and (tells or words[:2] == ["get", "diagnostics"]):
        yield Tie(ANSWERS_REASON, lingers=False)


def _calls(tokens: Tokens, rules: Rules, compound: bool) -> Iterator[Tie]:
    texts = tokens.texts
    follows = "nextval" in texts
    for place in range(1, len(texts)):
        if texts[place] != "(" or (place > 1 and texts[place - 2] in _BEFORE_NAME):
            continue
        name = texts[place - 1]
        if name == "set_config" and not _ends_with_true(texts, place):
            reason = "set_config would change a pooled connection for whoever gets it next"
            yield Tie(f"{reason}; use settings or transaction()")
        if name in _SESSION_LOCKS or name.startswith(("pg_advisory_", "pg_try_advisory_")):
            yield Tie(SERVER_LOCK, lingers="_xact_" not in name)
        if not compound and _asks(name, texts, place, rules, follows):
            yield Tie(ANSWERS_REASON, lingers=False)


def _asks(name: str, texts: list[str], place: int, rules: Rules, follows: bool) -> bool:
    """Return whether a call reads what the connection did before; *follows* is whether there is a nextval."""
    if texts[place + 1 : place + 2] == [")"]:
        return name in rules.functions.session
    # With a nextval in the same statement it refers to that one.
    return name in rules.functions.session_by_name and not follows


def _writes(texts: list[str]) -> bool:
    """Return whether it has INSERT, UPDATE and the like, and not only the word after FOR."""
    return any(
        text in DATA_CHANGING and texts[place + 1 : place + 2] != ["("] and texts[place - 1] not in ("for", "key")
        for place, text in enumerate(texts)
    )


def _sets_pragma(texts: list[str]) -> bool:
    mark = next((place for place, text in enumerate(texts) if text in ("=", "(")), 0)
    return mark > 0 and texts[mark - 1] not in _HARMLESS_PRAGMAS


def _selects_into_temporary(words: list[str], texts: list[str]) -> bool:
    """Return whether it is SELECT ... INTO [LOCAL | GLOBAL] TEMPORARY name, and not INTO a table called temp."""
    if "insert" in words:
        return False
    for place, text in enumerate(texts):
        if text == "into":
            kind, *after = [each for each in texts[place + 1 : place + 4] if each not in ("local", "global")] or [""]
            if kind in ("temp", "temporary") and after and after[0] != "from" and _is_name(after[0]):
                return True
    return False


def _is_name(text: str) -> bool:
    return text == QUOTED or is_word(text)


# It takes three arguments; a longer call counts as a setting that persists.
_LONGEST_CALL: Final = 200


def _ends_with_true(texts: list[str], opens: int) -> bool:
    """Return whether the last argument of the call whose parenthesis is at *opens* is the word TRUE."""
    depth = 0
    for place in range(opens, min(opens + _LONGEST_CALL, len(texts))):
        depth += {"(": 1, ")": -1}.get(texts[place], 0)
        if depth == 0:
            return texts[place - 2 : place] == [",", "true"]
    return False
