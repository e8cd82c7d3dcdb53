"""``prefiq-db`` does what ``python -m`` does, with the same exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from prefiq_db.cli import main
from tests import interpreters


def _run(*arguments: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "LC_CTYPE") if name in os.environ}
    code = "import sys; from prefiq_db.cli import main; main(sys.argv[1:])"
    return interpreters.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env={**kept, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_migrate_and_bootstrap_are_passed_on(tmp_path: Path) -> None:
    """Arguments go through untouched, and so does the exit code."""
    url = f"sqlite:///{tmp_path / 'app.db'}"
    up = _run("migrate", "up", folder=tmp_path, DB_URL=url)
    assert up.returncode == 0, up.stderr
    status = _run("migrate", "status", folder=tmp_path, DB_URL=url)
    assert status.returncode == 0, status.stderr
    assert "0002" in status.stdout
    booted = _run("bootstrap", folder=tmp_path, DB_URL=url)
    assert booted.returncode == 0
    assert "database main: healthy" in booted.stdout
    wrong = _run("bootstrap", folder=tmp_path, DB_PORT="sesame")
    assert wrong.returncode == 2
    assert "DB_PORT" in wrong.stderr
    assert "sesame" not in wrong.stderr + wrong.stdout


def test_without_the_extra_it_says_which(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delitem(sys.modules, "prefiq_db.cli.commands", raising=False)
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit) as ended:
        main(["migrate", "status"])
    assert ended.value.code == 2
    assert "prefiq-db[cli]" in capsys.readouterr().err
