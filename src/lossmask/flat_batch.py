"""Many examples as ranges of flat columns: what data sets hand out and collators take.

In: examples one by one (mappings, or packs of them), or ranges of the columns of a whole data set.
Out: a `FlatBatch`. Nothing is copied until a collator writes the batch that a model sees. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from lossmask.errors import PreparedDataError
from lossmask.example import IGNORE_INDEX

__all__ = ["IGNORABLE", "FlatBatch", "flat_batch"]

IGNORABLE = "ignorable"
"""The column, bool, of tokens that the policy ignores by chance; not every data set has it."""

IntArray = npt.NDArray[np.int64]
Columns = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class FlatBatch(Sequence[dict[str, Any]]):
    """Examples as ranges of flat columns.

    Example ``k`` is ``columns[name][starts[k] : starts[k] + lengths[k]]`` for every column. The
    columns may be those of a whole data set, and the examples in any order::

        input_ids  7 8 2 | 9 2 | 5 6 2 | ...
        starts     5 0      lengths  3 3      numbers  2 0      ->  [5 6 2] and [7 8 2]

    As a sequence it is the examples one by one, so that a collator that knows mappings only takes
    it too.

    Example:
        >>> batch = flat_batch([{"input_ids": [7, 8], "labels": [-100, 8]}])
        >>> batch[0]["loss_weights"].tolist()
        [0.0, 1.0]
    """

    columns: Columns
    """Column name -> (tokens,) array: ``input_ids``, ``labels``, ``loss_weights`` and others."""
    starts: IntArray
    """(examples,) int64: where each example begins in the columns."""
    lengths: IntArray
    """(examples,) int64: the number of tokens of each example, 1 or more."""
    numbers: IntArray | None = None
    """(examples,) int64: the number of each example in its data set; None: not known."""

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> FlatBatch: ...

    def __getitem__(self, index: int | slice) -> dict[str, Any] | FlatBatch:
        """Return one example as a mapping of views, or some as a batch."""
        if isinstance(index, slice):
            numbers = None if self.numbers is None else self.numbers[index]
            return FlatBatch(self.columns, self.starts[index], self.lengths[index], numbers)
        start = int(self.starts[index])
        span = slice(start, start + int(self.lengths[index]))
        item: dict[str, Any] = {name: values[span] for name, values in self.columns.items()}
        if IGNORABLE in item and self.numbers is not None:
            item["index"] = int(self.numbers[index])
        return item

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[place] for place in range(len(self)))

    def __reduce__(self) -> tuple[Callable[..., FlatBatch], tuple[Any, ...]]:
        """Pickle the examples alone, not the data set whose columns they lie in."""
        columns = {name: self.joined(name) for name in self.columns}
        return FlatBatch, (columns, _begins(self.lengths), self.lengths, self.numbers)

    def slices(self) -> list[slice]:
        """Return where each example lies in the columns."""
        ends = self.starts + self.lengths
        return [
            slice(*ends_of) for ends_of in zip(self.starts.tolist(), ends.tolist(), strict=True)
        ]

    def joined(self, name: str, dtype: npt.DTypeLike | None = None) -> npt.NDArray[Any]:
        """Return a column of the examples end to end.

        Args:
            name: Of the column.
            dtype: Of what is returned; by default that of the column.

        Returns:
            A new (tokens,) array.
        """
        values = self.columns[name]
        parts = [values[span] for span in self.slices()]
        return np.concatenate([values[:0], *parts], dtype=dtype or values.dtype, casting="unsafe")


def flat_batch(examples: Sequence[Any], *, drawn: bool = False) -> FlatBatch:
    """Bring a batch into the flat form.

    Args:
        examples: A `FlatBatch`, which is returned as it is; or mappings with ``input_ids`` and
            ``labels`` of shape (tokens,), and ``loss_weights`` of that shape unless every token
            with a label weighs 1; or packs, which are sequences of either.
        drawn: Whether tokens to ignore will be drawn, which takes ``ignorable`` of that shape and
            ``index``, the example's number in its data set. Without it they are left out.

    Returns:
        The examples in order, those of a pack one after the other.

    Raises:
        PreparedDataError: The batch is empty, or an example's columns are missing, differ in
            length, or hold what is no token, label or weight. Names the example.
    """
    if isinstance(examples, FlatBatch):
        if len(examples) and drawn:
            _demand_drawable(examples)
        batch = examples
    else:
        batch = _joined([_columns(*named, drawn=drawn) for named in _named(examples)])
    if not len(batch):
        raise PreparedDataError("a batch needs at least one example.", reason="empty_batch")
    return batch


def _named(examples: Sequence[Any]) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield each example with its name in error messages; packs are opened."""
    for place, element in enumerate(examples):
        name = f"example {place} of the batch"
        if isinstance(element, Mapping):
            yield element, name
        elif isinstance(element, Sequence) and not isinstance(element, str):
            for inside, example in enumerate(element):
                if not isinstance(example, Mapping):
                    raise _no_example(example, f"document {inside} of pack {place} of the batch")
                yield example, f"document {inside} of pack {place} of the batch"
        else:
            raise _no_example(element, name)


def _no_example(value: object, name: str) -> PreparedDataError:
    return PreparedDataError(
        f"{name} is {type(value).__name__}; give a mapping with input_ids and labels.",
        reason="bad_example",
    )


def _columns(example: Mapping[str, Any], name: str, *, drawn: bool) -> dict[str, Any]:
    """Return the checked columns of one example."""
    for column in ("input_ids", "labels", *((IGNORABLE, "index") if drawn else ())):
        if column not in example:
            raise _missing(column, name, f"; it has {sorted(example)}.")
    ids, labels = np.asarray(example["input_ids"]), np.asarray(example["labels"])
    weights = example.get("loss_weights")
    weights = labels != IGNORE_INDEX if weights is None else np.asarray(weights)
    columns = {"input_ids": ids, "labels": labels, "loss_weights": weights}
    if drawn:
        columns[IGNORABLE] = np.asarray(example[IGNORABLE])
    if ids.ndim != 1 or not len(ids) or any(each.shape != ids.shape for each in columns.values()):
        shapes = ", ".join(f"{column} {each.shape}" for column, each in columns.items())
        raise PreparedDataError(
            f"{name}: {shapes} have to be of one shape (tokens,), not empty.", reason="bad_example"
        )
    for column, values in columns.items():
        if values.dtype.kind not in _KINDS[column]:
            raise PreparedDataError(
                f"{name}: {column} is of type {values.dtype}, not {_WORDS[column]}.",
                reason="bad_example",
            )
    columns["loss_weights"] = columns["loss_weights"].astype(np.float32)
    return columns | {"index": example["index"]} if drawn else columns


_KINDS = {"input_ids": "iu", "labels": "iu", "loss_weights": "fiub", IGNORABLE: "b"}
_WORDS = {
    "input_ids": "whole numbers",
    "labels": "whole numbers",
    "loss_weights": "numbers",
    IGNORABLE: "true and false",
}


def _missing(column: str, name: str, rest: str) -> PreparedDataError:
    if column in (IGNORABLE, "index"):
        rest = (
            ", which the tokens to ignore are drawn by: prepare the data with a policy that has "
            '"ignore".'
        )
    return PreparedDataError(f"{name} has no {column!r}{rest}", reason="missing_column")


def _demand_drawable(batch: FlatBatch) -> None:
    for column, absent in (
        (IGNORABLE, IGNORABLE not in batch.columns),
        ("index", batch.numbers is None),
    ):
        if absent:
            raise _missing(column, "example 0 of the batch", "")


def _joined(examples: Sequence[dict[str, Any]]) -> FlatBatch:
    lengths = np.array([len(each["input_ids"]) for each in examples], np.int64)
    names = [name for name in (examples[0] if examples else ()) if name != "index"]
    columns = {name: np.concatenate([each[name] for each in examples]) for name in names}
    numbers = None
    if examples and "index" in examples[0]:
        numbers = np.array([int(each["index"]) for each in examples], np.int64)
    return FlatBatch(columns, _begins(lengths), lengths, numbers)


def _begins(lengths: IntArray) -> IntArray:
    """Return where each example begins if they lie end to end."""
    begins: IntArray = np.cumsum(lengths) - lengths
    return begins
