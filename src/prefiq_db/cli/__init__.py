"""``prefiq-db``: the command line of the ``cli`` extra. Each command is the one that ``python -m`` runs without it."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``prefiq-db``; exits with the command's own code, or 2 without the extra."""
    try:
        from prefiq_db.cli.commands import app
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        sys.stderr.write("prefiq-db needs an extra: pip install 'prefiq-db[cli]'\n")
        sys.exit(2)
    app(args=None if argv is None else list(argv), prog_name="prefiq-db")
