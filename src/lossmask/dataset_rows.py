"""Data sets in memory, and any iterable of mappings -> rows.

In: a ``datasets.Dataset`` or ``IterableDataset``, or mappings such as ``[{"messages": [...]}]``.
Out: a :class:`RawRow` per row, numbered from 1. Of data sets the keys that their columns fill with
nulls are left out, as ``arrow_rows`` says; mappings are taken as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lossmask.arrow_rows import check_schema, rows_of_batch, without_filled_nulls
from lossmask.errors import InputError
from lossmask.raw_rows import RawRow, Record, json_bytes

_ROWS_AT_ONCE = 256


def rows_of(dataset: Iterable[Mapping[str, Any]], *, name: str = "dataset") -> Iterator[RawRow]:
    """Yield the rows of a data set in memory.

    Args:
        dataset: A ``datasets.Dataset`` or ``IterableDataset``, or any iterable of mappings that
            JSON can hold.
        name: What the rows' places begin with.

    Raises:
        InputError: It is a mapping of several data sets, or no iterable.

    Example:
        >>> [row.place for row in rows_of([{"messages": []}, {"messages": []}], name="mine")]
        ['mine#1', 'mine#2']
    """
    if isinstance(dataset, Mapping):
        raise InputError(
            f"expected the rows of one data set, got a mapping of {', '.join(map(str, dataset))}: "
            "name one of them",
            reason="no_split",
        )
    if isinstance(dataset, (str, bytes)) or not isinstance(dataset, Iterable):
        raise InputError(f"expected an iterable of mappings, got {type(dataset).__name__}")
    for row, record in enumerate(records_of(dataset)):
        yield RawRow(name, record.number, row, record.data, True, problem=record.problem)


def records_of(dataset: Iterable[Any]) -> Iterator[Record]:
    """Yield the rows of a data set or iterable of mappings, numbered from 1."""
    if not _is_dataset(dataset):
        for number, row in enumerate(dataset, start=1):
            yield _record(number, row)
    elif getattr(dataset, "features", None) is None:
        rows: Any = dataset
        for number, row in enumerate(rows.with_format(None), start=1):
            yield _record(number, without_filled_nulls(row))
    else:
        yield from _records_of_columns(dataset)


def _is_dataset(value: object) -> bool:
    datasets = sys.modules.get("datasets")  # it need not be installed for data that is not of it
    return datasets is not None and isinstance(value, (datasets.Dataset, datasets.IterableDataset))


def _records_of_columns(dataset: Any) -> Iterator[Record]:
    """Yield rows from Arrow tables, whose types tell filled nulls from others."""
    number = 0
    for table in dataset.with_format("arrow").iter(batch_size=_ROWS_AT_ONCE):
        check_schema(table.schema, "the data set")
        for row in rows_of_batch(table.combine_chunks()):
            number += 1
            yield Record(number, row.data, None, row.problem)


def _record(number: int, row: object) -> Record:
    if not isinstance(row, Mapping):
        problem = f"expected a mapping with the key 'messages', got {type(row).__name__}"
        return Record(number, b"", None, problem)
    try:
        _check_keys(row)
        return Record(number, json_bytes(dict(row)))
    except (TypeError, ValueError, RecursionError) as error:
        shown = ", ".join(map(str, row)).encode("utf-8", errors="backslashreplace")
        return Record(number, shown, None, f"cannot be written as JSON: {error}")


def _check_keys(value: object) -> None:
    """Raise for a key that is no string, which JSON would silently make one."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} is not a string")
            _check_keys(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_keys(item)
