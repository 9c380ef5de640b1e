"""Encoding inside ``datasets.map``: a batch of columns -> the columns of its examples.

In: what ``Dataset.map(..., batched=True)`` hands over. Out: columns again, a row per example. Every
row is accounted for: it becomes examples, raises, or becomes a row that says why it was rejected;
there is no way to drop it unseen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from lossmask.arrow_rows import rows_of_batch, without_filled_nulls
from lossmask.encoder import Encoder
from lossmask.errors import InputError, PolicyError
from lossmask.example import Example
from lossmask.outcome import Outcome, Rejection
from lossmask.policy import nearest
from lossmask.raw_rows import RawRow

OnReject = Literal["error", "record"]

# int64: streams hand these arrays to collators as they are, and losses in torch want int64 labels
_COLUMNS = {"input_ids": np.int64, "labels": np.int64, "loss_weights": np.float32}


def map_batch(
    encoder: Encoder,
    batch: Mapping[str, Sequence[Any]],
    indices: Sequence[int] | None = None,
    *,
    on_reject: OnReject = "error",
) -> dict[str, list[Any]]:
    """Encode a batch of columns.

    Args:
        encoder: Encodes each row.
        batch: Column name -> one value per row; of a ``datasets.Dataset`` the keys that its columns
            fill with nulls are left out as ``arrow_rows`` says, of any other batch all keys of
            objects whose value is None.
        indices: The rows' numbers in the data set, as ``with_indices=True`` gives them.
        on_reject: What becomes of a row that cannot be encoded: ``error`` raises; ``record`` gives
            it a row without tokens whose ``rejection`` says why (``""`` in all other rows), to be
            filtered out and counted.

    Returns:
        ``input_ids`` and ``labels`` (int64, (n,) each) and ``loss_weights`` (float32, (n,)), one
        of each per example; ``row`` where there are indices; ``rejection`` with ``record``; where
        the policy names tokens to ignore ``ignorable`` and ``index``, as ``PaddedCollator`` wants.

    Raises:
        InputError: A row is rejected; names it.
        PolicyError: ``on_reject`` is neither, or there are tokens to ignore and no indices.

    Example:
        >>> from lossmask.embedded import DEMO_MODEL
        >>> encoder = Encoder.from_pretrained(DEMO_MODEL)
        >>> columns = map_batch(encoder, {"messages": [[
        ...     {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]]})
        >>> encoder.tokenizer.decode([i for i in columns["labels"][0] if i >= 0])
        'Ho<|im_end|>'
    """
    if on_reject not in get_args(OnReject):
        raise PolicyError(f"on_reject is {on_reject!r}; {nearest(on_reject, get_args(OnReject))}")
    columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    if indices is not None:
        columns["row"] = []
    if encoder.policy.ignore:
        if indices is None:
            raise PolicyError(
                "the policy names tokens to ignore, which are drawn by the number of the row: call "
                "map with with_indices=True"
            )
        columns |= {"ignorable": [], "index": []}
    if on_reject == "record":
        columns["rejection"] = []
    for number, row in enumerate(_rows(batch)):
        index = None if indices is None else indices[number]
        outcome = _encoded(encoder, row)
        if outcome.rejection is not None and on_reject == "error":
            place = f"row {number} of the batch" if index is None else f"row {index}"
            raise InputError(f"{place}: {outcome.rejection}", reason=outcome.rejection.reason)
        for example in outcome.examples or (None,):
            _append(columns, example, index, outcome.rejection)
    return columns


def _append(
    columns: dict[str, list[Any]],
    example: Example | None,
    index: int | None,
    rejection: Rejection | None,
) -> None:
    for name, kind in _COLUMNS.items():
        empty = np.empty(0, kind)
        columns[name].append(empty if example is None else getattr(example, name).astype(kind))
    if "row" in columns:
        columns["row"].append(index)
    if "ignorable" in columns:
        ignorable = None if example is None else example.ignorable
        columns["ignorable"].append(np.empty(0, bool) if ignorable is None else ignorable)
        columns["index"].append(index)
    if "rejection" in columns:
        columns["rejection"].append("" if rejection is None else str(rejection))


def _encoded(encoder: Encoder, row: Mapping[str, Any] | InputError) -> Outcome:
    if isinstance(row, InputError):
        return Outcome(rejection=Rejection.from_error(row))
    return encoder.encode_row(row)


def _rows(batch: Mapping[str, Sequence[Any]]) -> list[Mapping[str, Any] | InputError]:
    """Return the rows of a batch, an error for each that cannot be read."""
    table = getattr(batch, "pa_table", None)
    if table is not None and _is_untouched(batch):
        return [_parsed(row.data, row.problem) for row in rows_of_batch(table.combine_chunks())]
    lengths = {name: len(values) for name, values in batch.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"the columns of a batch differ in length: {lengths}")
    count = next(iter(lengths.values()), 0)
    return [
        without_filled_nulls({name: values[k] for name, values in batch.items()})
        for k in range(count)
    ]


def _is_untouched(batch: Any) -> bool:
    """Return whether a lazy batch of `datasets` holds no column but those of its table."""
    return set(batch.keys_to_format) == set(batch.pa_table.column_names) == set(batch.keys())


def _parsed(data: bytes, problem: str) -> Mapping[str, Any] | InputError:
    try:
        return RawRow("batch", 0, 0, data, problem=problem).parse()
    except InputError as error:
        return error
