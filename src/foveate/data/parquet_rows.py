"""Rows of Parquet files, with images and names of classes as Hugging Face stores them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from foveate.data.stored_images import ParquetImage
from foveate.errors import DataError
from foveate.utils.paths import printable

_MAX_CELL = 100  # bytes that a text takes on average, up to which it may be a class


def read_parquet(
    path: Path, matters: Callable[[str], bool]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a Parquet file, numbered from 1; first, as row 0, only the column names.

    Args:
        path: The file.
        matters: Whether a column of this name is loaded, whatever it holds.

    Raises:
        DataError: The file cannot be read.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(path)
        schema = table.schema_arrow
        yield 0, dict.fromkeys(schema.names)
        images = [field.name for field in schema if _holds_images(field.type)]
        # other columns may hold anything: of them only numbers and short texts are loaded
        short = _short_texts(table)
        plain = [
            field.name
            for field in schema
            if field.name not in images
            and (_is_number(field.type) or matters(field.name) or field.name in short)
        ]
        columns = [*plain, *(f"{name}.path" for name in images)]
        classes, number = _class_names(schema.metadata or {}), 0
        for group in range(table.num_row_groups):
            rows = table.read_row_group(group, columns=columns).to_pylist()
            for row, cells in enumerate(rows or [{}] * table.metadata.row_group(group).num_rows):
                number += 1
                for name in images:
                    cells[name] = ParquetImage(path.absolute(), name, group, row)
                for name, names in classes.items():
                    cells[name] = _with_class_names(cells.get(name), names)
                yield number, cells
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            "the Parquet file cannot be read",
            where=printable(path),
            why=str(error).replace("\n", " "),
            id="unreadable_parquet",
        ) from None


def _is_number(kind: Any) -> bool:
    from pyarrow import types

    checks = (types.is_integer, types.is_floating, types.is_boolean)
    return any(check(kind) for check in checks)


def _short_texts(table: Any) -> set[str]:
    """The columns of texts of a Parquet file that are so short that they may be classes."""
    from pyarrow import types

    names = [field.name for field in table.schema_arrow if types.is_string(field.type)]
    groups = [table.metadata.row_group(index) for index in range(table.num_row_groups)][:1]
    parts = [group.column(index) for group in groups for index in range(group.num_columns)]
    short = {
        part.path_in_schema
        for part in parts
        if part.total_uncompressed_size <= _MAX_CELL * max(part.num_values, 10)
    }
    return short.intersection(names)


def _holds_images(kind: Any) -> bool:
    """Whether an Arrow type is that of encoded images, with the fields bytes and path."""
    from pyarrow import types

    return types.is_struct(kind) and {"bytes", "path"} <= {field.name for field in kind}


_Names = list[str] | dict[str, "_Names"]
"""The names of the classes of a column of numbers; of a structure, those of its fields."""


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, _Names]:
    """The names of the classes of columns, which Hugging Face stores as JSON."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    names = _names_of_feature(features)
    return names if isinstance(names, dict) else {}


def _names_of_feature(feature: object) -> _Names | None:
    """The names of classes that a feature states, itself or in its fields; None without any."""
    if isinstance(feature, list):  # a list of what its only element describes
        return _names_of_feature(feature[0]) if feature else None
    if not isinstance(feature, dict):
        return None
    if isinstance(feature.get("names"), list):
        return list(map(str, feature["names"]))
    if "_type" in feature and "feature" in feature:  # a list, too
        return _names_of_feature(feature["feature"])
    fields = {name: _names_of_feature(inner) for name, inner in feature.items()}
    return {name: names for name, names in fields.items() if names} or None


def _with_class_names(cell: object, names: _Names) -> object:
    """A cell with the names of its classes instead of their numbers."""
    if isinstance(names, list):
        return _class_name(cell, names)
    if isinstance(cell, list):
        return [_with_class_names(each, names) for each in cell]
    if not isinstance(cell, dict):
        return cell
    return cell | {
        name: _with_class_names(cell[name], own) for name, own in names.items() if name in cell
    }


def _class_name(cell: object, names: list[str]) -> object:
    """The name of a class by its number; no name for -1, and other cells as they are."""
    if isinstance(cell, list):
        return [_class_name(each, names) for each in cell]
    if not isinstance(cell, int) or cell >= len(names):
        return cell
    return names[cell] if cell >= 0 else ""
