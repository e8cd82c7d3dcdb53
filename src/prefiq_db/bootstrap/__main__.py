"""``python -m prefiq_db.bootstrap``: boot everything from the environment, report the result, shut down.

Exit codes: 0 all is well; 1 a database is down or a provider failed; 2 the settings are wrong, or ask for a driver
that is not installed.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from prefiq_db.application import Application
from prefiq_db.bootstrap import assemble
from prefiq_db.errors import PrefiqDbError, ProviderError, SettingsError, UnsupportedError
from prefiq_db.providers import DatabaseProvider
from prefiq_db.reports import HealthReport
from prefiq_db.settings.database_settings import is_production

OK, FAILED, MISCONFIGURED = 0, 1, 2

# Python's message about a name that a module doesn't have.
_LACKING: Final = re.compile(r"cannot import name '\w+' from '[\w.]+'")


def main(
    argv: Sequence[str] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    directory: str | os.PathLike[str] | None = None,
) -> int:
    """Boot, report one line per provider and database, shut down; return the exit code. Never raises an Exception."""
    parser = argparse.ArgumentParser(
        prog="python -m prefiq_db.bootstrap",
        description="Boot everything from the environment and tell how each provider and database is.",
        epilog="exit codes: 0 all is well, 1 a database is down or a provider failed, 2 the settings are wrong",
    )
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="import this first: it registers providers")
    options = parser.parse_args(argv)
    # The report below contains everything logged; without a handler Python would print the errors a second time.
    logging.getLogger("prefiq_db.boot").addHandler(logging.NullHandler())
    for module in options.modules:
        code, why = _import_module(module)
        if code != OK:
            sys.stderr.write(f"{module} can't be imported: {why}\n")
            return code
    try:
        app = assemble(environ=environ, directory=directory)
        if app.async_only():
            asyncio.run(_check_async(app))
        else:
            _check(app)
    except Exception as error:  # noqa: BLE001 - a command line ends with a line and an exit code, not a traceback
        sys.stderr.write(f"{_message(error)}\n")
        return MISCONFIGURED if _is_configuration(error) else FAILED
    return OK if all(report.healthy for report in _write_reports(app)) else FAILED


def _write_reports(app: Application) -> list[HealthReport]:
    return [r for each in app.providers if isinstance(each, DatabaseProvider) for r in each.reports.values()]


def _import_module(module: str) -> tuple[int, str]:
    """Import *module*; return an exit code, and the reason of a failure without anything that may be a value."""
    if not all(part.isidentifier() for part in module.split(".")):
        return MISCONFIGURED, "expected a module's name as in import, such as shop.providers, and no path"
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        by = "" if module == missing or module.startswith(f"{missing}.") else f", which is imported at {_place(error)}"
        why = f"there is no module {missing}{by}; is this the right directory, and is everything installed?"
        return MISCONFIGURED, why
    except SyntaxError as error:
        return FAILED, f"{type(error).__name__} at {error.filename}:{error.lineno}"
    except Exception as error:  # noqa: BLE001 - a module may raise anything
        said = _LACKING.match(str(error)) if isinstance(error, ImportError) else None
        return FAILED, f"{said.group() if said else type(error).__name__} at {_place(error)}"
    return OK, ""


def _place(error: Exception) -> str:
    """Return the line that raised *error*, or that imports what doesn't exist."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    return f"{frames[-1].filename}:{frames[-1].lineno}"


def _check(app: Application) -> None:
    try:
        app.boot()
    except Exception as error:
        _write(_report(app, error))
        raise
    _write(_report(app))
    app.shutdown()


async def _check_async(app: Application) -> None:
    try:
        await app.boot_async()
    except Exception as error:
        _write(_report(app, error))
        raise
    _write(_report(app))
    await app.ashutdown()


def _write(lines: Iterator[str]) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()


def _report(app: Application, failure: Exception | None = None) -> Iterator[str]:
    failed = failure.provider if isinstance(failure, ProviderError) else None
    state = "ready"
    for provider in app.providers:
        if isinstance(provider, DatabaseProvider):
            if provider.note:
                production = is_production(app.resolve("settings").environment)
                yield f"{'warning: ' if production else ''}{provider.note}"
            for name, report in provider.reports.items():
                database = provider.databases[name]
                kind = f"{database.settings.engine}, {database.settings.mode}"
                yield f"database {name}: {_health(report)}, {database!r} ({kind})"
        if provider.name == failed:
            yield f"provider {provider.name}: failed"
            state = "not started"
        else:
            yield f"provider {provider.name}: {state}"


def _health(report: HealthReport) -> str:
    if not report.healthy:
        return f"{'down' if report.latency_seconds is None else 'answers, but'}: {report.reason}"
    return "healthy" if report.latency_seconds is None else f"healthy in {report.latency_seconds * 1000:.1f} ms"


def _message(error: Exception) -> str:
    return str(error) if isinstance(error, PrefiqDbError) else f"unexpected {type(error).__name__}"


def _is_configuration(error: BaseException | None) -> bool:
    """Return whether *error* or its cause is a configuration error: wrong settings, or a missing driver."""
    if isinstance(error, BaseExceptionGroup):
        return any(_is_configuration(each) for each in error.exceptions)
    if isinstance(error, (SettingsError, UnsupportedError)):
        return True
    return isinstance(error, ProviderError) and _is_configuration(error.original)


if __name__ == "__main__":
    sys.exit(main())
