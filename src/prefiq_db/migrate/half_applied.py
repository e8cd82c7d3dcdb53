"""Explain a half-applied revision, and what to do about it."""

from __future__ import annotations

from prefiq_db.errors import SchemaError, UsageError
from prefiq_db.migrate.migrate_options import MigrateOptions
from prefiq_db.migrate.recorder import Resumption
from prefiq_db.migrate.run_log import DONE, FAILED, Logged, Unfinished
from prefiq_db.migrate.traits import Traits


def describe_half_applied(unfinished: Unfinished, traits: Traits, database: str) -> str:
    """Return the explanation: the revision, its statements and their states, and the options to fix it."""
    step = unfinished.step
    why = (
        f"{traits.title} commits each DDL statement by itself"
        if traits.ddl_commits
        else "it commits before its end (autocommit_block)"
    )
    lines = [
        f"database {database}: revision {step.revision} stopped half-way {step.direction}, and {why}, so this is left:",
        *(_describe_statement(each) for each in unfinished.statements),
        *_list_ways_out(unfinished),
    ]
    return "\n".join(lines)


def find_resumption(
    unfinished: Unfinished | None, options: MigrateOptions, traits: Traits, database: str
) -> Resumption | None:
    """Return where to resume; ``None`` if nothing is half applied.

    Raises:
        SchemaError: a revision is half applied, and the options don't say to resume, or it is unknown where.
        UsageError: ``resume_at`` names a statement that the revision never reached.
    """
    if unfinished is None:
        return None
    if not options.resumes or (options.resume_at is None and unfinished.in_flight is not None):
        raise SchemaError(describe_half_applied(unfinished, traits, database), database=database)
    position = options.resume_at or unfinished.next_position
    last = unfinished.statements[-1].position + 1
    if position > last:
        raise UsageError(
            f"resume_at: expected a number up to {last}: revision {unfinished.step.revision} got no further"
        )
    return Resumption(unfinished, position)


def wrong_way_error(unfinished: Unfinished, traits: Traits, database: str) -> SchemaError:
    """Return the error for a command that does not go through the half-applied revision."""
    step = unfinished.step
    return SchemaError(
        f"{describe_half_applied(unfinished, traits, database)}\nThis command does not lead {step.direction} through "
        f"revision {step.revision}, so it can't resume it",
        database=database,
    )


def _describe_statement(statement: Logged) -> str:
    state = {DONE: "applied", FAILED: f"failed ({statement.error}), not applied"}.get(
        statement.state, "UNKNOWN: the process or connection ended while it ran"
    )
    return f"  {statement.position}. {state}: {statement.statement}"


def _list_ways_out(unfinished: Unfinished) -> list[str]:
    step = unfinished.step
    flight = unfinished.in_flight
    if flight is None:
        there = unfinished.next_position
        first = f"  - mend the cause and go on at statement {there}: add --resume (alembic: -x resume=yes)"
    else:
        here, behind = flight.position, flight.position + 1
        first = (
            f"  - look into the database whether statement {here} is applied; if it is not, go on with it: "
            f"--resume-at {here}; if it is, behind it: --resume-at {behind} (alembic: -x resume_at=...)"
        )
    if (leaves := unfinished.leaves_an_index) is not None:
        first = f"  - drop the invalid index of statement {leaves.position} (DROP INDEX CONCURRENTLY), then\n{first}"
    below = "the revision below it (base, if there is none)"
    finished, undone = (below, step.revision) if step.direction == "down" else (step.revision, below)
    return [
        "What to do, one of:",
        first,
        f"  - or finish it by hand, and note that: stamp {finished}",
        f"  - or undo it by hand, and note that: stamp {undone}",
    ]
