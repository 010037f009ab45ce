"""Cells of CSV files that a spreadsheet shows as text and does not run as a formula.

Names of files and classes come from others, and Excel, LibreOffice and Google Sheets run a cell
that begins with one of = + - @, a tab or a carriage return (OWASP, "CSV injection"). As is
recommended there, an apostrophe is put before such text. Foveate takes it away when it reads a CSV
file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_PROTECTED = re.compile(r"'+[=+\-@\t\r]")


def protect_cell(cell: object) -> object:
    """Return a cell with an apostrophe before text that would be a formula; numbers stay."""
    if isinstance(cell, str) and _FORMULA.match(cell) and not _is_number(cell):
        return f"'{cell}"
    return cell


def protect_cells(cells: Iterable[object]) -> list[object]:
    """Return the cells of a row, each as from `protect_cell`."""
    return [protect_cell(cell) for cell in cells]


def original_cell(cell: str) -> str:
    """Return what `protect_cell` got."""
    return cell[1:] if _PROTECTED.match(cell) else cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
