"""Two prepared folders of the same data -> a :class:`Diff`.

In: folders that ``prepare`` wrote. Examples of one row are compared by ids and weights; text is
decoded only of rows that differ.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lossmask.diffing import Diff, compare_examples
from lossmask.encoder import load_tokenizer
from lossmask.errors import InputError, PreparedDataError, TokenizerError
from lossmask.example import Example
from lossmask.outcome import Rejection
from lossmask.output_folder import REJECTED
from lossmask.prepared import PreparedDataset, load_prepared
from lossmask.prepared_manifest import PreparedFolder
from lossmask.spelled_ids import example_of_ids
from lossmask.token_places import STOP
from lossmask.tokenizing import TextTokenizer

__all__ = ["diff_prepared"]


def diff_prepared(
    a: str | Path,
    b: str | Path,
    *,
    tokenizer: str | None = None,
    limit: int = 3,
    row: int | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Diff:
    """Compare two prepared folders row by row.

    Args:
        a: Folder or URL of A.
        b: The same of B.
        tokenizer: Decodes the ids of both; by default the ones that the manifests name.
        limit: How many rows that differ are kept to be shown.
        row: Compare this row (0-based) only, and keep it whether it differs or not.
        progress: Told how many rows of how many are done.

    Raises:
        PreparedDataError: A folder is missing, unfinished or damaged, or they were not prepared
            from the same rows.
        TokenizerError: A row differs, and the tokenizer cannot be loaded.
        InputError: There is no such row.
    """
    ours, theirs = _Side(a, tokenizer), _Side(b, tokenizer)
    counts = [side.data.manifest["rows_in"] for side in (ours, theirs)]
    if counts[0] != counts[1]:
        raise PreparedDataError(
            f"{a} was prepared from {counts[0]} rows and {b} from {counts[1]}: rows are compared "
            "by their number, so both have to come from the same data",
            reason="other_data",
        )
    if row is not None and row >= counts[0]:
        raise InputError(f"{a} has {counts[0]} rows, numbered from 0: there is no row {row}")
    diff = Diff()
    for number in range(counts[0]) if row is None else [row]:
        _add_row(diff, ours, theirs, number, limit, keeps_same=row is not None)
        progress(number + 1, counts[0])
    return diff


class _Side:
    """A prepared folder, its examples by row, and a tokenizer once one is needed."""

    def __init__(self, folder: str | Path, tokenizer: str | None) -> None:
        self.folder = folder
        self.data: PreparedDataset = load_prepared(folder)
        self.stop_ids = np.array(self.data.tokenizer["stop_ids"], np.int32)
        order = np.argsort(self.data.rows, kind="stable")
        self._order, self._rows = order, self.data.rows[order]
        self._named = tokenizer or str(self.data.tokenizer["path"])
        self._tokenizer: TextTokenizer | None = None
        self._rejections = _rejections_of(folder)

    def numbers(self, row: int) -> list[int]:
        """Return the numbers of the examples of a row."""
        first, end = np.searchsorted(self._rows, [row, row + 1]).tolist()
        found: list[int] = self._order[first:end].tolist()
        return found

    def rejection(self, row: int) -> Rejection:
        """Return why there is no example of a row."""
        unknown = Rejection("not_there", f"{self.folder} has no example of row {row}", None)
        return self._rejections.get(row, unknown)

    def examples(self, numbers: Sequence[int]) -> list[Example]:
        """Return examples with their text.

        Raises:
            TokenizerError: The tokenizer cannot be loaded.
        """
        if self._tokenizer is None:
            try:
                self._tokenizer = TextTokenizer(load_tokenizer(self._named))
            except TokenizerError as error:
                raise TokenizerError(
                    f"rows of {self.folder} differ, and their text cannot be shown: "
                    f"{error.detail}. Name the tokenizer with --tokenizer",
                    reason=error.reason,
                ) from error
        return [
            example_of_ids(
                each["input_ids"], each["loss_weights"], self._tokenizer, each["message_index"]
            )
            for each in (self.data[number] for number in numbers)
        ]

    def places(self, example: Example, messages: object) -> list[str]:
        """Name what tokens are, as far as a prepared folder tells."""
        names = [
            "template text" if owner < 0 else "message text" for owner in example.message_index
        ]
        for token in np.flatnonzero(np.isin(example.input_ids, self.stop_ids)).tolist():
            names[token] = STOP
        return names


def _add_row(
    diff: Diff, ours: _Side, theirs: _Side, row: int, limit: int, *, keeps_same: bool
) -> None:
    place = f"row {row}"
    mine, other = ours.numbers(row), theirs.numbers(row)
    if not mine or not other:
        diff.add_rejected(
            place,
            None if mine else ours.rejection(row),
            None if other else theirs.rejection(row),
        )
        return
    if _are_same(ours.data, mine, theirs.data, other) and not keeps_same:
        examples = [ours.data[number] for number in mine]
        tokens = sum(len(each["input_ids"]) for each in examples)
        supervised = sum(int(np.count_nonzero(each["loss_weights"])) for each in examples)
        diff.add_same(tokens, supervised)
        return
    found = compare_examples(
        ours.examples(mine),
        theirs.examples(other),
        (),
        row=row,
        place=place,
        places_a=ours.places,
        places_b=theirs.places,
    )
    diff.add_compared(found, limit, keeps_same=keeps_same)


def _are_same(
    a: PreparedDataset, ours: Sequence[int], b: PreparedDataset, theirs: Sequence[int]
) -> bool:
    return len(ours) == len(theirs) and all(
        np.array_equal(a[i][name], b[j][name])
        for i, j in zip(ours, theirs, strict=True)
        for name in ("input_ids", "loss_weights")
    )


def _rejections_of(folder: str | Path) -> dict[int, Rejection]:
    """Read why rows are not in a prepared folder, none if the file is not there."""
    try:
        lines = PreparedFolder.at(folder).read(REJECTED).decode("utf-8").splitlines()
    except FileNotFoundError:
        return {}
    found: dict[int, Rejection] = {}
    for line in lines:
        record: Mapping[str, Any] = json.loads(line)
        found[record["row"]] = Rejection(
            record["reason"], record["detail"], record["message_index"]
        )
    return found
