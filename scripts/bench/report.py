"""Rows of results, for people as a table and for programs as one JSON object per line."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Spread:
    """What the rounds of a case gave for one figure."""

    median: float
    min: float
    max: float

    @staticmethod
    def of(figures: Sequence[float]) -> Spread | None:
        """None if no round gave one."""
        if not figures:
            return None
        return Spread(statistics.median(figures), min(figures), max(figures))

    def json(self) -> dict[str, float]:
        return {"median": _rounded(self.median), "min": _rounded(self.min), "max": _rounded(self.max)}

    def text(self, digits: int) -> str:
        """The median, and the others in brackets if they differ."""
        median, low, high = (f"{each:.{digits}f}" for each in (self.median, self.min, self.max))
        return median if low == high else f"{median} [{low}, {high}]"


def text(spread: Spread | None, digits: int) -> str:
    """A cell of a table."""
    return "-" if spread is None else spread.text(digits)


def print_json(row: dict[str, Any]) -> None:
    """One line."""
    print(json.dumps(row, default=lambda spread: spread.json()), flush=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The first column and the last are texts, the others figures."""
    lines = [list(columns), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(columns))]
    for line in lines:
        cells = [
            cell.ljust(width) if column in (0, len(columns) - 1) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths))
        ]
        print("  ".join(cells).rstrip())
    print(flush=True)


def _rounded(figure: float) -> float:
    # Four significant digits are more than any of these figures is good for.
    return float(f"{figure:.4g}")
