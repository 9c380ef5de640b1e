r"""Arrow batches -> rows as JSON, without what columns cannot leave out.

A column of objects has one set of keys: Parquet and Arrow fill those that a row does not have with
nulls. So a key of an object whose value is null is left out, and so is a column that is null::

    stored                                          row
    {"role": "user", "content": "Hi",               {"role": "user", "content": "Hi"}
     "tool_calls": null, "name": null}

Nothing tells such a null from one that was written on purpose: a message with ``"content": null``
loses the key. Nulls inside lists, maps and JSON columns (``datasets.Json``) are kept.
Dates, times and decimals become their text, binary values ``{"base64": "..."}``.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.types as kinds

from lossmask.errors import InputError
from lossmask.raw_rows import json_bytes

Convert = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class ArrowRow:
    """A row as JSON, and why it is not all of the row, if it is not."""

    data: bytes
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """Stands for a value that cannot be read."""

    problem: str


def check_schema(schema: pa.Schema, place: str) -> None:
    """Check that every column has a name of its own.

    Raises:
        InputError: Two columns have the same name, of which a row can hold one.
    """
    twice = [name for name, count in Counter(schema.names).items() if count > 1]
    if twice:
        raise InputError(f"{place} has more than one column {twice[0]!r}", reason="broken_columns")


def rows_of_batch(batch: pa.RecordBatch) -> Iterator[ArrowRow]:
    """Yield the rows of a batch or table in order."""
    schema = batch.schema
    columns = [_values(batch.column(k), schema.field(k).type) for k in range(len(schema))]
    for k in range(batch.num_rows):
        values = {name: column[k] for name, column in zip(schema.names, columns, strict=True)}
        yield _row(values)


def without_filled_nulls(value: Any) -> Any:
    """Return plain data without the keys of objects, at any depth, whose value is None.

    For rows of data sets that do not tell what their columns hold.
    """
    if isinstance(value, Mapping):
        return {k: without_filled_nulls(item) for k, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [without_filled_nulls(item) for item in value]
    return value


def _row(values: Mapping[str, Any]) -> ArrowRow:
    kept, problem = {}, ""
    for name, value in values.items():
        if isinstance(value, _Unreadable):
            problem = problem or f"the column {name!r} cannot be read: {value.problem}"
        elif value is not None:
            kept[name] = value
    try:
        return ArrowRow(json_bytes(kept), problem)
    except (TypeError, ValueError, RecursionError) as error:
        return ArrowRow(repr(sorted(kept)).encode(), f"cannot be written as JSON: {error}")


def _values(column: pa.Array, kind: pa.DataType) -> Sequence[Any]:
    """Return a column's values as plain data; those that cannot be read are `_Unreadable`."""
    convert = _converter(kind)
    try:
        values = column.to_pylist()
        return values if convert is None else [_converted(value, convert) for value in values]
    except (ValueError, RecursionError, pa.ArrowException):  # find out which of them it is
        return [_value(column.slice(k, 1), convert) for k in range(len(column))]


def _value(column: pa.Array, convert: Convert | None) -> Any:
    try:
        [value] = column.to_pylist()
        return value if convert is None else _converted(value, convert)
    except (ValueError, RecursionError, pa.ArrowException) as error:
        kind = "not UTF-8: " if isinstance(error, UnicodeDecodeError) else ""
        return _Unreadable(f"{kind}{error}")


def _converted(value: Any, convert: Convert) -> Any:
    return None if value is None else convert(value)


def _converter(kind: pa.DataType) -> Convert | None:
    """Return what makes plain data of a value of a type; None where it is plain already."""
    if isinstance(kind, pa.BaseExtensionType):
        return json.loads if kind.extension_name == "arrow.json" else _converter(kind.storage_type)
    if kinds.is_dictionary(kind):
        return _converter(kind.value_type)
    if kinds.is_struct(kind):
        return _of_struct(kind)
    if kinds.is_map(kind):
        return _of_map(kind)
    if _is_list(kind):
        return _of_list(kind)
    if kinds.is_binary(kind) or kinds.is_large_binary(kind) or kinds.is_fixed_size_binary(kind):
        return _of_bytes
    if kinds.is_temporal(kind) or kinds.is_decimal(kind):
        return _text_of
    return None


def _is_list(kind: pa.DataType) -> bool:
    return bool(kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind))


def _of_struct(kind: pa.DataType) -> Convert:
    fields = [kind.field(k) for k in range(kind.num_fields)]
    converters = {field.name: _converter(field.type) for field in fields}

    def convert(value: Mapping[str, Any]) -> dict[str, Any]:
        kept = {name: item for name, item in value.items() if item is not None}
        for name, item in kept.items():
            if (of_field := converters[name]) is not None:
                kept[name] = of_field(item)
        return kept

    return convert


def _of_list(kind: pa.DataType) -> Convert | None:
    of_item = _converter(kind.value_type)
    if of_item is None:
        return None
    return lambda value: [_converted(item, of_item) for item in value]


def _of_map(kind: pa.DataType) -> Convert:
    of_item = _converter(kind.item_type) or (lambda value: value)

    def convert(value: Sequence[tuple[Any, Any]]) -> dict[str, Any]:
        if not all(isinstance(key, str) for key, _ in value):
            raise ValueError("a map whose keys are not strings")
        if len({key for key, _ in value}) < len(value):
            raise ValueError("a map that has a key more than once")
        return {key: _converted(item, of_item) for key, item in value}

    return convert


def _of_bytes(value: bytes) -> dict[str, str]:
    """Return bytes as an object, which no format takes for a text."""
    return {"base64": base64.b64encode(value).decode("ascii")}


def _text_of(value: Any) -> str:
    return str(value.isoformat()) if hasattr(value, "isoformat") else str(value)
