"""Wheels of what is installed here, so that ``pip install`` in a bare environment needs no network.

A wheel is made of each distribution's own files, so pip finds the same names, versions, extras and dependencies as in
the registry, and decides itself what a requirement needs. Only what isn't installed here is missing.
"""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement

from tests.docs.pages import ROOT


def build_wheelhouse(folder: Path, requirements: list[str]) -> None:
    """Fill *folder* with the wheel of this checkout and with those that *requirements* may need."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=120)
    installed = {_normal(found.name): found for found in distributions()}
    waiting = [Requirement(text) for text in requirements]
    done: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        name = _normal(requirement.name)
        if (key := f"{name}[{','.join(sorted(requirement.extras))}]") in done or name not in installed:
            continue  # pip tells if something that is needed isn't there
        done.add(key)
        for text in installed[name].requires or ():
            needed = Requirement(text)
            if any(_applies(needed, extra) for extra in {"", *requirement.extras}):
                waiting.append(needed)
        if name != "prefiq-db":
            _pack(distribution(requirement.name), folder)


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _pack(found: Distribution, folder: Path) -> None:
    """Write a distribution's files as a wheel, without what pip has made of them: bytecode and scripts."""
    tags = [tag.split("-") for tag in re.findall(r"^Tag: (\S+)$", found.read_text("WHEEL") or "", re.M)]
    tag = "-".join(".".join(dict.fromkeys(part)) for part in zip(*tags, strict=True))
    wheel = folder / f"{_normal(found.name).replace('-', '_')}-{found.version}-{tag}.whl"
    if wheel.exists():
        return
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in found.files or ():
            name = path.as_posix()
            made_here = name.startswith("..") or "__pycache__" in name or path.name in ("INSTALLER", "REQUESTED")
            if not made_here:
                archive.write(str(path.locate()), name)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
