"""A page that is done step by step, as a reader does it: files are written, commands run, their output compared.

A block with a title is a file. In a ``console`` block, a line that begins with ``$`` is a command, and the lines behind
it are its whole output; without any, the output may be anything. ``...`` stands for any text, and alone in a line for
any lines. A command must exit with 0. The commands of a page run in one shell, so ``cd`` and ``export`` hold for later
ones. A server (``uvicorn``) runs until its section of the page ends.
"""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.docs.pages import Block, blocks

_DONE = "walkthrough: exit code"


@dataclass(frozen=True)
class File:
    """A file that the reader writes."""

    name: str
    text: str
    line: int
    section: str


@dataclass(frozen=True)
class Command:
    """A command that the reader runs, and the output that the page shows."""

    text: str
    output: str
    line: int
    section: str


Step = File | Command


def steps(page: Path) -> Iterator[Step]:
    """Yield what the reader of *page* does, in order."""
    lines = page.read_text("utf-8").splitlines()
    for block in blocks(page):
        section = next((line for line in reversed(lines[: block.line - 1]) if line.startswith("## ")), "")
        if block.title:
            yield File(block.title, block.code, block.line, section)
        elif block.language == "console":
            yield from _commands(block, section)


def _commands(block: Block, section: str) -> Iterator[Command]:
    parts = re.split(r"^\$ ", block.code, flags=re.M)
    assert parts[0] == "", f"line {block.line}: a console block begins with a command"
    line = block.line
    for part in parts[1:]:
        text, _, output = part.partition("\n")
        yield Command(text, output, line, section)
        line += part.count("\n")


class MismatchError(AssertionError):
    """A step does something else than its page says."""


class Shell:
    """One ``bash``, as in a reader's terminal.

    Args:
        folder: where it begins.
        environment: all of its variables.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._output, selectors.EVENT_READ)

    def run(self, command: str, seconds: float = 240) -> tuple[str, int]:
        """Run *command*; return what it printed and its exit code."""
        self._input.write(f"{{ {command}\n}} </dev/null\nprintf '\\n{_DONE} %s\\n' $?\n".encode())
        self._input.flush()
        printed, deadline = b"", time.monotonic() + seconds
        while (end := re.search(rb"\n" + _DONE.encode() + rb" (\d+)\n\Z", printed)) is None:
            if not self._selector.select(max(deadline - time.monotonic(), 0)):
                raise MismatchError(f"`{command}` did not end; it printed:\n{printed.decode()}")
            more = os.read(self._output.fileno(), 65536)
            if not more:
                raise MismatchError(f"`{command}` ended the shell; it printed:\n{printed.decode()}")
            printed += more
        return printed[: end.start()].decode(), int(end[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._input.close()
        self._output.close()
        self._selector.close()


class Walkthrough:
    """A reader of a page: in one folder, with one shell.

    Args:
        shell: a shell; its working directory is asked for when a file is written.
        replaced: what stands in the page, and what is there on this machine, such as a port.
        instead: what is done instead of a command that begins with this word.
    """

    def __init__(
        self, shell: Shell, *, replaced: Mapping[str, str], instead: Mapping[str, Callable[[Command], None]]
    ) -> None:
        self._shell = shell
        self._replaced = replaced
        self._instead = instead
        self._server = ""

    def do(self, step: Step) -> None:
        """Do one step.

        Raises:
            MismatchError: it failed, or its output isn't the page's.
        """
        if self._server not in ("", step.section):
            self.stop_server()
        if isinstance(step, File):
            self._write(step)
        elif (instead := self._instead.get(step.text.split()[0])) is not None:
            instead(step)
        elif step.text.startswith("uvicorn "):
            self.serve(self._here(step.text))
            self._server = step.section
            _compare(step, self._here(step.output), self.wait_for_log(self._here(step.output).splitlines()[-1]))
        else:
            printed, code = self._shell.run(self._here(step.text))
            if code != 0:
                raise MismatchError(f"line {step.line}: `{step.text}` exited with {code}:\n{printed}")
            _compare(step, self._here(step.output), printed)

    def folder(self) -> Path:
        """The shell's working directory."""
        return Path(self._shell.run("pwd")[0].strip())

    def serve(self, command: str) -> None:
        """Start a server beside the shell's other commands."""
        # Emptied first: the server's process does it later, and until then the log of an earlier server is in it.
        self._shell.run(f": >server.log; {command} >>server.log 2>&1 & server=$!")

    def stop_server(self) -> None:
        """Stop it as a cluster does, and see that it ended well."""
        self._server = ""
        printed, code = self._shell.run("kill -TERM $server; wait $server")
        log = (self.folder() / "server.log").read_text("utf-8")
        if "Application shutdown complete." not in log:
            raise MismatchError(f"the server did not end well, {code}: {printed}\n{log}")

    def wait_for_log(self, last: str) -> str:
        """Return the server's log as soon as it has the line *last*."""
        log = self.folder() / "server.log"
        deadline = time.monotonic() + 60
        while last not in (text := log.read_text("utf-8")):
            if time.monotonic() > deadline or self._shell.run("kill -0 $server")[1] != 0:
                raise MismatchError(f"the server's log has no line {last!r}:\n{text}")
            time.sleep(0.05)
        return text

    def _write(self, file: File) -> None:
        path = self.folder() / file.name
        assert path.parent.is_dir(), f"line {file.line}: {file.name} is in a folder that no step has made"
        path.write_text(file.text, "utf-8")

    def _here(self, text: str) -> str:
        for shown, real in self._replaced.items():
            text = text.replace(shown, real)
        return text


def _compare(step: Command, expected: str, printed: str) -> None:
    """Raise MismatchError unless *printed* is what the page says."""
    if expected and not re.fullmatch(_pattern(expected), printed.strip("\n") + "\n"):
        raise MismatchError(f"line {step.line}: `{step.text}` should print\n{expected}\nand printed\n{printed}")


def _pattern(expected: str) -> str:
    """Return a pattern of whole lines."""
    any_lines = r"(?:[^\n]*\n)*?"
    lines = [".*".join(map(re.escape, line.split("..."))) + "\n" for line in expected.strip("\n").splitlines()]
    return "".join(any_lines if line == ".*\n" else line for line in lines)
