"""A chart of a report as SVG: time as a multiple of plain SQLAlchemy's, for each database.

It is written by hand, because that takes a page: a library for charts would weigh more than everything it draws here.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from benchmarks import workload as w
from benchmarks.comparing import LOOPBACK, Comparison, Result
from benchmarks.contenders import AGAIN, OURS, PLAIN
from benchmarks.report import Report, noise

_GROUPS = (
    (w.POINT, "sync"), (w.POINT, "async"), (w.TRANSACTION, "sync"), (w.TRANSACTION, "async"), (w.TASKS, "async"),
    (w.THREADS, "sync"),
)  # fmt: skip
_COLUMN, _LABEL, _NUMBER, _TOP, _ROW, _BAR = 360, 145, 85, 78, 16, 12
_MOST = 2.0  # a longer bar is cut off, and says so
_COLORS = {OURS: "#0b6e4f", PLAIN: "#6e7681"}
_OTHER = "#b6bcc5"


def draw(report: Report) -> str:
    """Return the chart: a column for each database, a group of bars for each operation."""
    body, y = [], _TOP
    for operation, world in _GROUPS:
        groups = [_bars(each, operation, world) for each in report.comparisons]
        if not any(groups):
            continue
        body.append(_text(10, y + 11, f"{operation}, {world}", weight="bold"))
        for column, bars in enumerate(groups):
            for number, result in enumerate(bars):
                body += _bar(result, column * _COLUMN, y + _ROW * (number + 1) + 2)
        y += _ROW * (max(map(len, groups)) + 1) + 14
    return "\n".join([*_frame(report, y), *body, "</svg>", ""])


def _bars(comparison: Comparison, operation: str, world: str) -> list[Result]:
    found = [
        each
        for each in comparison.results
        if (each.operation, each.world, each.network) == (operation, world, LOOPBACK) and each.contender != AGAIN
    ]
    return sorted(found, key=_ratio)


def _ratio(result: Result) -> float:
    return 1.0 if result.of_sqlalchemy is None else result.of_sqlalchemy.median


def _frame(report: Report, bottom: int) -> Iterator[str]:
    width, height = max(760, _COLUMN * len(report.comparisons) + 10), bottom + 28
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#24292f">'
    )
    yield f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
    yield _text(10, 22, "Time of a call as a multiple of plain SQLAlchemy's; less is better", weight="bold", size=15)
    known = ("Python", "SQLAlchemy", "psycopg", "PyMySQL", "asyncmy", "aiosqlite")
    versions = ", ".join(f"{name} {report.versions[name]}" for name in known if name in report.versions)
    yield _text(10, 42, f"{report.date}, loopback, {report.cores} shared cores; {versions}")
    for column, each in enumerate(report.comparisons):
        yield _text(column * _COLUMN + _LABEL, 66, f"{each.database} {each.version}", weight="bold", size=14)
    yield _text(10, bottom + 14, f"The noise, SQLAlchemy measured against itself: {noise(report)}")


def _bar(result: Result, x: int, y: int) -> Iterator[str]:
    ratio, name = _ratio(result), result.contender
    length = max(1, round((_COLUMN - _LABEL - _NUMBER) * min(ratio, _MOST) / _MOST))
    yield _text(x + _LABEL - 6, y + 10, name, anchor="end", weight="bold" if name == OURS else "normal", size=11)
    color = _COLORS.get(name, _OTHER)
    yield f'<rect x="{x + _LABEL}" y="{y}" width="{length}" height="{_BAR}" fill="{color}"/>'
    cut = ", cut off" if ratio > _MOST else ""
    yield _text(x + _LABEL + length + 4, y + 10, f"{ratio:.2f}{cut}", size=11)


def _text(x: int, y: int, text: str, *, weight: str = "normal", anchor: str = "start", size: int = 12) -> str:
    return (
        f'<text x="{x}" y="{y}" font-weight="{weight}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'
    )
