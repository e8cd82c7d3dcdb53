"""The how-to pages name commands and manifests that a cluster can use; their Python blocks run in test_snippets.py."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from prefiq_db.migrate.command_line import _parser
from tests.docs.pages import PAGES, ROOT, blocks, page_id

FOLDER = ROOT / "docs" / "how-to"


def _migrate_commands() -> Iterator[Any]:
    """Yield each ``prefiq-db migrate`` of the pages, in consoles and in manifests."""
    for page in PAGES:
        for block in blocks(page):
            lines = block.code.splitlines()
            found = [shlex.split(line[2:], comments=True) for line in lines if line.startswith("$ prefiq-db")]
            if block.language == "yaml":
                found += [container["command"] for container in _containers(block.code) if "command" in container]
            for words in found:
                yield pytest.param(words, id=f"{page_id(page)}:{block.line}: {shlex.join(words)}")


def _containers(manifest: str) -> list[dict[str, Any]]:
    pods = [
        document["spec"]["template"]["spec"]
        for document in yaml.safe_load_all(manifest)
        if isinstance(document, dict) and document.get("kind") in ("Job", "Deployment")
    ]
    return [each for pod in pods for each in (*pod.get("initContainers", ()), *pod["containers"])]


@pytest.mark.parametrize("words", list(_migrate_commands()))
def test_a_migrate_command_has_arguments_that_exist(words: list[str]) -> None:
    assert words[:2] == ["prefiq-db", "migrate"]
    _parser().parse_args(words[2:])


def test_control_an_argument_that_is_not_there_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _parser().parse_args(["up", "--lock-patience", "600"])
    assert "--lock-patience" in capsys.readouterr().err


def test_the_manifests_of_kubernetes_migrate_and_ask_when_they_are_ready() -> None:
    (page,) = FOLDER.glob("kubernetes-migrations.md")
    containers = [each for block in blocks(page) if block.language == "yaml" for each in _containers(block.code)]
    assert [each["name"] for each in containers] == ["migrate", "migrate", "shop"]
    probes = {name: probe["httpGet"]["path"] for name, probe in containers[-1].items() if name.endswith("Probe")}
    assert probes == {"livenessProbe": "/livez", "readinessProbe": "/readyz", "startupProbe": "/readyz"}
    assert all(container["env"][0]["name"] == "DB_URL" for container in containers)


def test_each_page_says_what_you_have_and_what_you_want() -> None:
    opening = re.compile(r"^\*\*You have\*\* .+ \*\*You want\*\* ", re.M)
    assert [page.name for page in FOLDER.glob("*.md") if not opening.search(page.read_text("utf-8"))] == []
