"""Read MongoDB's specification tests from PyMongo's source distribution, as it comes from the package index.

PyMongo (Apache License 2.0) ships the specifications' test files with its own tests.
``scripts/install-mongodb-specifications`` puts the archive into ``.mongodb-specifications``; it is read there, never
unpacked, and no part of it is in this repository.
"""

from __future__ import annotations

import functools
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bson import json_util

_FOLDER = Path(__file__).resolve().parents[3] / ".mongodb-specifications"
#: The specifications that say something about what we map.
SPECIFICATIONS = (
    "transactions",
    "transactions-convenient-api",
    "retryable_writes",
    "retryable_reads",
    "crud",
    "sessions",
)


@dataclass(frozen=True, eq=False)
class Case:
    """One test of one file.

    Attributes:
        file: ``transactions/commit``.
        description: the test's own name.
        document: the file.
        test: the test in it.
    """

    file: str
    description: str
    document: dict[str, Any]
    test: dict[str, Any]

    @property
    def specification(self) -> str:
        return self.file.partition("/")[0]

    @property
    def name(self) -> str:
        return f"{self.file}: {self.description}"


def why_not() -> str:
    """Return why there are no files; empty: there are."""
    if _archive() is not None:
        return ""
    return (
        "MongoDB's specification tests are not here: scripts/install-mongodb-specifications fetches PyMongo's sources"
    )


def _archive() -> Path | None:
    return next(iter(sorted(_FOLDER.glob("pymongo-*.tar.gz"))), None)


@functools.cache
def cases() -> tuple[Case, ...]:
    """Return all tests of :data:`SPECIFICATIONS`, in the order of their names."""
    return tuple(_read())


def _read() -> Iterator[Case]:
    path = _archive()
    if path is None:
        return
    found: dict[str, dict[str, Any]] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            parts = Path(member.name).parts
            if (
                len(parts) < 4
                or parts[1] != "test"
                or parts[2] not in SPECIFICATIONS
                or not parts[-1].endswith(".json")
            ):
                continue
            data = archive.extractfile(member)
            assert data is not None
            found[f"{parts[2]}/{Path(parts[-1]).stem}"] = json_util.loads(data.read().decode())
    for file, document in sorted(found.items()):
        for test in document["tests"]:
            yield Case(file, test["description"], document, test)
