"""``python -m prefiq_db.migrate``: Alembic's commands on prefiq_db's own tables, without alembic.ini.

Exit codes: 0 done; 1 the database or a revision failed; 2 wrong arguments or settings, or a driver is not installed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection, Sequence

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationInfo
from alembic.util import CommandError

from prefiq_db.errors import PrefiqDbError, UsageError
from prefiq_db.migrate.environment import OnApply, database_settings
from prefiq_db.migrate.location import migrations_directory

DONE, FAILED, MISCONFIGURED = 0, 1, 2


def alembic_config() -> Config:
    """Return the Alembic configuration of the shipped migrations; what ``alembic.ini`` says in a checkout."""
    config = Config(stdout=sys.stdout)
    # A % would begin an interpolation of configparser.
    config.set_main_option("script_location", os.fspath(migrations_directory()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code. Never raises an Exception."""
    options = _parser().parse_args(argv)
    try:
        config = alembic_config()
        if options.needs_database:
            config.attributes["database"] = options.database
            config.attributes["settings"] = database_settings(options.database)
            config.attributes["on_version_apply"] = _tell(options.database)
        options.run(config, options)
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        return MISCONFIGURED
    except (PrefiqDbError, CommandError) as error:
        sys.stderr.write(f"{error}\n")
        return FAILED
    except Exception as error:  # noqa: BLE001 - a command line ends with a line and an exit code, not a traceback
        sys.stderr.write(f"unexpected {type(error).__name__}\n")
        return FAILED
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m prefiq_db.migrate",
        description="Bring prefiq_db's own tables to a revision. The database is the one the environment configures.",
        epilog="exit codes: 0 done, 1 the database or a revision failed, 2 wrong arguments or settings",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, needs_database, takes_revision, text in (
        ("upgrade", lambda c, o: command.upgrade(c, o.revision), True, True, "go up to REVISION, usually: head"),
        ("downgrade", lambda c, o: command.downgrade(c, o.revision), True, True, "go down to REVISION: base, -1"),
        ("current", lambda c, o: command.current(c), True, False, "show the revision of the database"),
        ("heads", lambda c, o: command.heads(c), False, False, "show the newest revision there is"),
        ("history", lambda c, o: command.history(c), False, False, "list all revisions"),
    ):
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run, needs_database=needs_database)
        if takes_revision:
            sub.add_argument("revision", metavar="REVISION")
        if needs_database:
            sub.add_argument("--database", default="main", metavar="NAME", help="which database (default: main)")
    return parser


def _tell(database: str) -> OnApply:
    def tell(step: MigrationInfo, heads: Collection[str]) -> None:
        verb = "upgraded" if step.is_upgrade else "downgraded"
        sys.stdout.write(f"{database}: {verb} to {', '.join(sorted(heads)) or 'base'}\n")

    return tell
