"""How SQLite alters a table, by rebuilding it, and what foreign keys do meanwhile.

Alembic's ``batch_alter_table`` drops the old table. With foreign keys on, as on every connection of ours, SQLite
deletes its rows first, and with them those of each child with ON DELETE CASCADE. Foreign keys can't be switched off
inside a transaction, and an ``env.py`` that isn't ours doesn't switch them off before.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from prefiq_db.errors import ForeignKeyViolationError, UnsupportedError
from prefiq_db.translation.both import of_both

#: Sends a query and returns its rows.
Ask = Callable[[str], list[Any]]

DROPPED: Final = re.compile(r"""\s*DROP\s+TABLE\s+(?:IF\s+EXISTS\s+)?["`\[]?(?P<table>[^"`\]\s;]+)""", re.I)
_CHILDREN: Final = (
    'SELECT DISTINCT m.name, f."table" FROM sqlite_master m, pragma_foreign_key_list(m.name) f '
    "WHERE m.type = 'table' AND lower(m.name) <> lower(f.\"table\")"
)


def is_migrating(proxied: Any) -> bool:
    """Return whether an Alembic command is changing revisions on this very connection, with any ``env.py``."""
    alembic = sys.modules.get("alembic.context")
    environment = getattr(alembic, "_proxy", None)  # while an env.py runs
    if environment is None or "destination_rev" not in environment.context_opts:
        return False
    connection = getattr(environment._migration_context, "connection", None)
    return connection is not None and getattr(connection, "_dbapi_connection", None) is proxied


def orphans(ask: Ask) -> Counter[tuple[str, str]]:
    """Return the number of rows with a broken reference, by table and referenced table."""
    return Counter((row[0], row[2]) for row in ask("PRAGMA foreign_key_check"))


def told(rows: Counter[tuple[str, str]]) -> str:
    return ", ".join(f"{count} of {child} (to {parent})" for (child, parent), count in sorted(rows.items()))


def children(ask: Ask, parent: str) -> list[str]:
    """Return the other tables that refer to *parent*."""
    return [str(child) for child, of in ask(_CHILDREN) if str(of).lower() == parent.lower()]


def orphaned(rows: Counter[tuple[str, str]]) -> Exception:
    return of_both(
        ForeignKeyViolationError(
            f"the migration would leave rows whose foreign key leads nowhere: {told(rows)}; nothing of it was applied",
            table=sorted(rows)[0][0],
        )
    )


def check_drop(ask: Ask, statement: str) -> None:
    """Refuse the DROP of a rebuild that would delete the children's rows, too.

    Raises:
        UnsupportedError: other tables refer to the table, foreign keys are on, and Alembic's copy of it exists.
    """
    dropped = DROPPED.match(statement)
    if dropped is None or ask("PRAGMA foreign_keys") != [(1,)]:
        return
    copy = f"_alembic_tmp_{dropped['table']}".replace("'", "''")
    if not ask(f"SELECT 1 FROM sqlite_master WHERE name = '{copy}'"):
        return  # not a rebuild: the migration means to drop the table
    referring = children(ask, dropped["table"])
    if not referring:
        return
    raise of_both(
        UnsupportedError(
            f"this rebuild of {dropped['table']} would delete the rows of {', '.join(referring)}: foreign keys are on, "
            "and inside an open transaction they can't be switched off. Give context.configure() the connection before "
            "anything ran on it, or say PRAGMA foreign_keys = OFF through raw_connection() first"
        )
    )
