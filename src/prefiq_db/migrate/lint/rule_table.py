"""The rules as a table: name, databases, check, consequence, and what to do instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from prefiq_db.migrate.lint import rules_blocking as blocking
from prefiq_db.migrate.lint import rules_running as running
from prefiq_db.migrate.lint import rules_whole as whole
from prefiq_db.migrate.lint.references import References
from prefiq_db.migrate.lint.revision_reader import Reading, Step

POSTGRESQL: Final = ("postgresql",)
MARIADB: Final = ("mariadb", "mysql")
SQLITE: Final = ("sqlite",)
ALL: Final = (*POSTGRESQL, *MARIADB, *SQLITE)


@dataclass(frozen=True, slots=True)
class Rule:
    """One hazard.

    Attributes:
        check: yields the operations concerned, and the text for *message*.
        message: what would happen; ``{}`` stands for that text.
        safe_way: what to do instead.
    """

    name: str
    dialects: tuple[str, ...]
    check: Callable[[Reading, References], Iterator[tuple[Step, str]]]
    message: str
    safe_way: str


RULES: Final = (
    Rule(
        "not-null-without-default",
        ALL,
        running.not_null_without_default,
        "{} is NOT NULL without a server default: it fails on a table with rows, and so do INSERTs of running code",
        "add it with a server_default, or nullable and set NOT NULL when it is filled and all running code writes it",
    ),
    Rule(
        "set-not-null",
        ALL,
        running.set_not_null,
        "{} becomes NOT NULL: every row is checked under a lock, and code that still writes NULL fails",
        "when no row has NULL and all running code writes it; on PostgreSQL first a CHECK (... IS NOT NULL) NOT VALID, "
        "validated in a later revision, so that nothing is left to check",
    ),
    Rule(
        "rename",
        ALL,
        running.rename,
        "{} gets another name while running code uses the old one",
        "expand and contract: add the new one, write both, fill it, read the new one, drop the old one later",
    ),
    Rule(
        "type-change",
        ALL,
        running.type_change,
        "{} gets another type: the table is written anew under a lock, and running code knows the old type",
        "expand and contract: add a column of the new type, write both, fill it, drop the old one later",
    ),
    Rule(
        "contract",
        ALL,
        running.contract,
        "{} is dropped: code that still runs may use it, and no downgrade brings its data back",
        "in a release after the one that stopped using it; then waive it and say so",
    ),
    Rule(
        "index-blocks",
        POSTGRESQL,
        blocking.index_blocks,
        "an index of {} is built or dropped without CONCURRENTLY: writes wait until it is done",
        "with op.get_context().autocommit_block(): op.create_index(..., postgresql_concurrently=True), alone in its "
        "revision",
    ),
    Rule(
        "concurrently-in-transaction",
        POSTGRESQL,
        blocking.concurrently_in_transaction,
        "{} can't run inside a transaction, and each revision is one: it fails",
        "put it into: with op.get_context().autocommit_block():",
    ),
    Rule(
        "unique-blocks",
        POSTGRESQL,
        blocking.unique_blocks,
        "a unique constraint of {} builds its index under a lock that stops everybody",
        "create a unique index CONCURRENTLY, then ALTER TABLE ... ADD CONSTRAINT ... UNIQUE USING INDEX",
    ),
    Rule(
        "constraint-validates",
        POSTGRESQL,
        blocking.constraint_validates,
        "{} is checked for every row at once, and writes wait (for a foreign key: of both tables)",
        "add it with postgresql_not_valid=True, and ALTER TABLE ... VALIDATE CONSTRAINT in a later revision",
    ),
    Rule(
        "index-copies",
        MARIADB,
        blocking.index_copies,
        "an index of {} is built without ALGORITHM=INPLACE: where that can't be, the table is copied and writes wait",
        'op.execute("CREATE INDEX ... ALGORITHM=INPLACE LOCK=NONE"), which fails at once instead',
    ),
    Rule(
        "several-ddl",
        MARIADB,
        whole.several_ddl,
        "{} DDL statements in one revision: each is committed by itself, so a failure leaves the revision half applied",
        "one DDL statement per revision",
    ),
    Rule(
        "backfill-with-ddl",
        ALL,
        whole.backfill_with_ddl,
        "{} are changed in a revision that changes the schema: its locks are held for as long as that takes, and on "
        "MariaDB a failure leaves half of it",
        "a revision of its own for the rows, in small steps that may run twice",
    ),
    Rule(
        "rebuild-of-parent",
        SQLITE,
        whole.rebuild_of_parent,
        "{} is written anew and dropped: with foreign keys on, ON DELETE CASCADE deletes the children's rows",
        "run it by prefiq_db.migrate, which switches foreign keys off before and checks them after; then waive it",
    ),
    Rule(
        "cannot-alter",
        SQLITE,
        whole.cannot_alter,
        "SQLite has no ALTER for this change of {}: it fails",
        "with op.batch_alter_table(table) as batch: the same operation on batch",
    ),
)
