"""Run :func:`prefiq_db.migrate.command_line.main`."""

import sys

from prefiq_db.migrate.command_line import main

if __name__ == "__main__":
    sys.exit(main())
