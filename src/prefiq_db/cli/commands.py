"""What ``prefiq-db`` can do."""

from __future__ import annotations

from typing import Any, Final

import typer

from prefiq_db.bootstrap.__main__ import main as run_bootstrap
from prefiq_db.migrate.command_line import main as run_migrate

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # its tracebacks show the values of local variables
    help="prefiq_db from the command line. Settings come from the environment, .env and settings.yaml.",
)

# Arguments are passed on as they are: the command itself parses them and explains itself with --help.
_PASSED_ON: Final[dict[str, Any]] = {
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True},
    "add_help_option": False,
}


@app.command(**_PASSED_ON)
def migrate(context: typer.Context) -> None:
    """Migrate databases: up, down, status, check, new, lint, sql, lock, init ..."""
    raise typer.Exit(run_migrate(context.args))


@app.command(**_PASSED_ON)
def bootstrap(context: typer.Context) -> None:
    """Boot everything from the environment, tell how it went, and shut down."""
    raise typer.Exit(run_bootstrap(context.args))
