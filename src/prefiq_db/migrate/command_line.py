"""``python -m prefiq_db.migrate``: a thin layer over Alembic, for prefiq_db's own tables and a service's history.

Exit codes: 0 done; 1 the database or a revision failed, or the answer is no; 2 wrong arguments or settings, or a driver
is not installed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from alembic.util import CommandError

from prefiq_db.errors import PrefiqDbError, UsageError
from prefiq_db.migrate import alembic_commands as commands
from prefiq_db.migrate.alembic_commands import alembic_config
from prefiq_db.migrate.migrate_options import MigrateOptions

DONE, FAILED, MISCONFIGURED = 0, 1, 2

_DEFAULTS = MigrateOptions()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code. Never raises an Exception."""
    options = _parser().parse_args(argv)
    try:
        config = alembic_config(None if options.run is commands.init else options.config)
        return DONE if options.run(config, options) else FAILED
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        return MISCONFIGURED
    except (PrefiqDbError, CommandError) as error:
        sys.stderr.write(f"{error}\n")
        return FAILED
    except Exception as error:  # noqa: BLE001 - a command line ends with a line and an exit code, not a traceback
        sys.stderr.write(f"unexpected {type(error).__name__}{_place(error)}\n")
        return FAILED


def _place(error: BaseException) -> str:
    """Return where an error of a user's revision came from; its text is not shown, since it may hold values."""
    traceback = error.__traceback__
    last = ""
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if code.co_name in ("upgrade", "downgrade") and "versions" in code.co_filename:
            last = f" in {code.co_name}() at {code.co_filename}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return last


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m prefiq_db.migrate",
        description="Migrate the databases that the environment configures: prefiq_db's tables, or with -c your own.",
        epilog="exit codes: 0 done, 1 something failed or the answer is no, 2 wrong arguments or settings",
    )
    parser.add_argument("-c", "--config", metavar="FILE", help="your alembic.ini; before or after the command")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    history, database, working = _history(), _database(), _working()

    def add(names: str, run: commands.Command, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        name, *aliases = names.split()
        sub = verbs.add_parser(name, aliases=aliases, help=text, description=text, parents=[history, *parents])
        sub.set_defaults(run=run)
        return sub

    _add_changes(add, database, working)
    _add_questions(add, database)
    _add_revisions(add, database)
    return parser


_Add = Callable[..., argparse.ArgumentParser]


def _add_changes(add: _Add, database: argparse.ArgumentParser, working: argparse.ArgumentParser) -> None:
    for names, run, default, text in (
        ("up upgrade", commands.up, "heads", "go up to REVISION (default: heads, the newest)"),
        ("down downgrade", commands.down, "-1", "go down to REVISION (default: -1, one down; base: all)"),
    ):
        add(names, run, text, database, working).add_argument(
            "revision", metavar="REVISION", nargs="?", default=default, help="0001, +1, -1, head, base"
        )
    add(
        "stamp",
        commands.stamp,
        "note that the database is at REVISION, and forget a half-applied one",
        database,
        working,
    ).add_argument("revision", metavar="REVISION")


def _add_questions(add: _Add, database: argparse.ArgumentParser) -> None:
    add("status", commands.status, "tell where the databases stand, and what is half applied", database)
    add("check", commands.check, "tell whether the databases are as the code says", database)
    add("lock", commands.lock, "tell who is migrating", database)


def _add_revisions(add: _Add, database: argparse.ArgumentParser) -> None:
    sub = add("sql", commands.sql, "write the SQL instead of running it", database)
    sub.add_argument("revision", metavar="REVISION", nargs="?", default="heads", help="to, or from:to")
    sub.add_argument("--down", action="store_true", help="of a downgrade; needs from:to")
    sub = add("new", commands.new, "make a new revision file", database)
    sub.add_argument("message", metavar="MESSAGE")
    sub.add_argument(
        "--autogenerate", action="store_true", help="fill it with what the metadata has and the database not"
    )
    sub = add("lint", commands.lint, "name what is unsafe in the revisions")
    sub.add_argument("revisions", metavar="REVISIONS", nargs="?", help="only these: 0002, 0001:0003 (default: all)")
    sub.add_argument("--on", metavar="DIALECT", action="append", help="only postgresql, mariadb or sqlite; repeatable")
    add("current", commands.current, "show the revision of the database", database)
    add("heads", commands.heads, "show the newest revision there is")
    add("history", commands.history, "list all revisions")
    add("init", commands.init, "write what a history of your own needs").add_argument("directory", metavar="DIR")


def _history() -> argparse.ArgumentParser:
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        default=argparse.SUPPRESS,  # otherwise the default would override an option before the command
        help="your alembic.ini (default: prefiq_db's own tables)",
    )
    return parent


def _database() -> argparse.ArgumentParser:
    parent = argparse.ArgumentParser(add_help=False)
    which = parent.add_mutually_exclusive_group()
    which.add_argument("--database", metavar="NAME", help="which database (default: what env.py says, or main)")
    which.add_argument("--all", action="store_true", help="every configured database, one after the other")
    return parent


def _working() -> argparse.ArgumentParser:
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument("--no-lock", dest="lock", action="store_false", help="when only one deployer runs at a time")
    for name, text in (
        ("lock_wait", "how long to wait for another deployer"),
        ("lock_timeout", "how long one statement waits for a lock on a table"),
        ("statement_timeout", "how long one statement may take"),
    ):
        default = getattr(_DEFAULTS, name)
        parent.add_argument(
            f"--{name.replace('_', '-')}",
            type=float,
            metavar="SECONDS",
            default=default,
            help=f"{text} (default: {default:g})",
        )
    resume = parent.add_mutually_exclusive_group()
    resume.add_argument("--resume", action="store_true", help="go on with a half-applied revision")
    resume.add_argument("--resume-at", type=int, metavar="N", help="go on at its statement N")
    return parent
