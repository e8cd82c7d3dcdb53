"""Import a CSV file with a progress bar: ``python examples/import_csv.py [file] [--rows N]``.

Without a file it makes one. The bar is rich's or tqdm's, whichever is installed, or else a plain line. ``DB_URL`` names
the database; without it, an embedded SQLite in memory.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import sqlalchemy as sa

from prefiq_db import Database, PrefiqDbError
from prefiq_db.types import Money

PART = sa.Table(
    "import_part",
    sa.MetaData(),
    sa.Column("sku", sa.String(20), primary_key=True),
    sa.Column("name", sa.String(80), nullable=False),
    sa.Column("qty", sa.Integer, nullable=False),
    sa.Column("price", Money, nullable=False),
)


def parts(path: Path) -> Iterator[dict[str, object]]:
    """Yield the file's lines as rows; a line that isn't right raises, and then nothing is imported."""
    with path.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            yield {
                "sku": line["sku"],
                "name": line["name"],
                "qty": int(line["qty"]),
                "price": Decimal(line["price"]),
            }


@contextmanager
def progress_bar(total: int) -> Iterator[Callable[[int], object]]:
    """Give a function that shows how many rows of *total* are done."""
    if importlib.util.find_spec("rich"):
        from rich.progress import Progress

        with Progress() as bar:
            task = bar.add_task("importing", total=total)
            yield lambda done: bar.update(task, completed=done)
    elif importlib.util.find_spec("tqdm"):
        from tqdm import tqdm

        with tqdm(total=total, unit=" rows") as bar:
            yield lambda done: bar.update(done - bar.n)
    else:
        yield lambda done: print(f"\r{done} of {total} rows", end="\n" if done == total else "", file=sys.stderr)


def make_file(path: Path, rows: int) -> None:
    """Write a file to import."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["sku", "name", "qty", "price"])
        writer.writerows((f"P{n:06}", f"part number {n}", n % 50, f"{n % 1000}.50") for n in range(rows))


def count_lines(path: Path) -> int:
    """Return how many rows the file has, read a line at a time."""
    with path.open(encoding="utf-8") as file:
        return sum(1 for _ in file) - 1


def main() -> int:
    arguments = argparse.ArgumentParser(description="Import a CSV file with a progress bar.")
    arguments.add_argument("file", type=Path, nargs="?")
    arguments.add_argument("--rows", type=int, default=50_000)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder, Database(os.environ.get("DB_URL", "sqlite://")) as db:
        path = given.file or Path(folder) / "parts.csv"
        if given.file is None:
            make_file(path, given.rows)
        PART.create(db.engine)
        try:
            with progress_bar(count_lines(path)) as show:
                result = db.bulk_insert(PART, parts(path), progress=show)
            print(f"{result.inserted} rows imported")
        except PrefiqDbError as error:
            print(f"nothing was imported: {error}")
            return 1
        finally:
            PART.drop(db.engine)
    return 0


if __name__ == "__main__":
    sys.exit(main())
