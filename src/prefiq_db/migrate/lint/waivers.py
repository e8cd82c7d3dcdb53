"""``# prefiq: safe <reason>``: a person reviewed an operation and gives the reason why it may run."""

from __future__ import annotations

import re
import tokenize
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

_WAIVER: Final = re.compile(r"#\s*prefiq:\s*safe\b\s*[:,-]?\s*(?P<reason>.*)$")


@dataclass(frozen=True, slots=True)
class Waivers:
    """The waivers of one file: lines with a reason, and lines without one, which waive nothing."""

    with_reason: frozenset[int]
    without_reason: tuple[int, ...]

    @classmethod
    def of_file(cls, path: str) -> Self:
        """Read the comments of a Python file; text in strings is no comment."""
        reasons: dict[int, str] = {}
        with tokenize.open(path) as file:
            for token in tokenize.generate_tokens(file.readline):
                if token.type == tokenize.COMMENT and (found := _WAIVER.match(token.string)):
                    reasons[token.start[0]] = found["reason"].strip()
        return cls(
            frozenset(line for line, reason in reasons.items() if reason),
            tuple(sorted(line for line, reason in reasons.items() if not reason)),
        )

    def cover(self, lines: Iterable[int]) -> bool:
        """Return whether one of *lines*, or the line above it, has a waiver."""
        return any(line in self.with_reason or line - 1 in self.with_reason for line in lines)
