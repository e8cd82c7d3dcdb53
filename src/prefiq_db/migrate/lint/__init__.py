"""Report the unsafe operations in a history of revisions, per database, before it is run anywhere.

We run each revision's ``upgrade()`` without a database and examine its operations: what Alembic would do, not what the
file looks like. ``# prefiq: safe <reason>`` on an operation's line, or on the line above, waives the finding.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Final

from alembic.script import Script, ScriptDirectory

from prefiq_db.errors import UsageError
from prefiq_db.migrate.lint.findings import Finding
from prefiq_db.migrate.lint.references import References
from prefiq_db.migrate.lint.revision_reader import Reading, read
from prefiq_db.migrate.lint.rule_table import RULES
from prefiq_db.migrate.lint.waivers import Waivers

__all__ = ["DIALECTS", "RULE_NAMES", "Finding", "lint"]

DIALECTS: Final = ("postgresql", "mariadb", "sqlite")
_KNOWN: Final = (*DIALECTS, "mysql")
_NO_REASON, _UNREADABLE = "waiver-without-reason", "not-readable"
_ADVICE: Final = {
    _NO_REASON: (
        "it says safe, but not why; that waives nothing",
        "# prefiq: safe <reason>, so that who reads it next year knows",
    ),
    _UNREADABLE: (
        "it can't be read without a database ({}), so what comes after was not looked at",
        "look yourself and waive it, or ask op.get_context().dialect.name instead of the database",
    ),
}
RULE_NAMES: Final = tuple(sorted({*_ADVICE, *(rule.name for rule in RULES)}))


def lint(
    script: ScriptDirectory | str | os.PathLike[str],
    dialects: Sequence[str] = DIALECTS,
    revisions: str | None = None,
) -> list[Finding]:
    """Return the unsafe operations in the revisions of *script*, in the order in which they run.

    Args:
        script: an Alembic script directory, or its path.
        dialects: the databases to check for.
        revisions: only these: ``a1b2``, ``a1b2:head`` (without the first, as in Alembic), ``a1b2:c3d4``.

    Raises:
        UsageError: for a database that prefiq_db doesn't know.
    """
    if unknown := [name for name in dialects if name not in _KNOWN]:
        raise UsageError(f"lint: expected dialects of {', '.join(_KNOWN)}; got {', '.join(unknown)}")
    if not isinstance(script, ScriptDirectory):
        script = ScriptDirectory(os.fspath(script))
    chosen = _chosen(script, revisions)
    findings: list[Finding] = []
    references_of = {name: References() for name in dialects}
    # Read all, also those before the chosen ones: they show which tables refer to which.
    for revision in reversed(list(script.walk_revisions())):
        waivers = Waivers.of_file(revision.path)
        found = [
            Finding(revision.revision, _show_path(revision), line, "", _NO_REASON, *_ADVICE[_NO_REASON])
            for line in waivers.without_reason
        ]
        for dialect, references in references_of.items():
            reading = read(revision, dialect)
            found += _findings(revision, reading, references, waivers)
            references.learn(reading)
        if chosen is None or revision.revision in chosen:
            findings += found
    return findings


def _chosen(script: ScriptDirectory, revisions: str | None) -> set[str] | None:
    if revisions is None:
        return None
    base, colon, head = revisions.partition(":")
    if not colon:
        return {each.revision for each in script.get_revisions(revisions) if each is not None}
    return {each.revision for each in script.iterate_revisions(head or "heads", base or "base")}


def _findings(revision: Script, reading: Reading, references: References, waivers: Waivers) -> Iterator[Finding]:
    for rule in RULES:
        if reading.dialect in rule.dialects:
            for step, subject in rule.check(reading, references):
                if not waivers.cover(step.lines):
                    message = rule.message.format(subject)
                    yield _finding(revision, reading, step.line, rule.name, message, rule.safe_way)
    if reading.problem is not None:
        problem, line = reading.problem
        if not waivers.cover((line,)):
            message, safe_way = _ADVICE[_UNREADABLE]
            yield _finding(revision, reading, line, _UNREADABLE, message.format(problem), safe_way)


def _finding(revision: Script, reading: Reading, line: int, rule: str, message: str, safe_way: str) -> Finding:
    return Finding(revision.revision, _show_path(revision), line, reading.dialect, rule, message, safe_way)


def _show_path(revision: Script) -> str:
    relative = os.path.relpath(revision.path)
    return revision.path if relative.startswith("..") else relative
