r"""What a model predicted at each token: flat columns, and their Parquet files.

In: a prepared example's tokens as a model saw them. Out: one entry per token that was looked at::

    tokens     <|im_start|>  assistant  \n  Yes        <|im_end|>
    position                                3          4           the token's own place
    loss                                    0.21       0.01        -log p(token | those before it)
    rank                                    0          0           tokens with a greater logit
    top_ids                                 Yes No Ok  <|im_end|> . !

A folder of them, written while a model is run, goes on where it stopped::

    OUT/part-00000.parquet   the tokens of the first examples
    OUT/probe.json           what was run on what; the number of tokens once all are there
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lossmask.errors import InputError, PreparedDataError

__all__ = ["RECORD_NAME", "ProbeFolder", "ProbedTokens"]

RECORD_NAME = "probe.json"

_KINDS: Mapping[str, type[np.generic]] = {
    "example": np.int32,
    "position": np.int32,
    "token": np.int32,
    "weight": np.float32,
    "loss": np.float32,
    "rank": np.int32,
    "top_ids": np.int32,
    "top_logprobs": np.float32,
}
_LISTS = ("top_ids", "top_logprobs")


@dataclass(frozen=True, slots=True, eq=False)
class ProbedTokens:
    """Tokens that a model was asked to predict, n of them, by example and position."""

    example: npt.NDArray[np.int32]
    """(n,): number of the example in the prepared folder."""
    position: npt.NDArray[np.int32]
    """(n,): of the token in its example, 1 or more: nothing predicts the first."""
    token: npt.NDArray[np.int32]
    """(n,): its id."""
    weight: npt.NDArray[np.float32]
    """(n,): its loss weight, 0 where it is not in the loss."""
    loss: npt.NDArray[np.float32]
    """(n,): negative log-likelihood in nats, whatever the weight."""
    rank: npt.NDArray[np.int32]
    """(n,): how many tokens of the vocabulary have a greater logit; tied ones do not count."""
    top_ids: npt.NDArray[np.int32]
    """(n, k): the likeliest tokens, likeliest first; of tied ones the lower id comes first."""
    top_logprobs: npt.NDArray[np.float32]
    """(n, k): their log-probabilities."""

    def __len__(self) -> int:
        return len(self.token)

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """Return the columns by name."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def taken(self, places: npt.NDArray[Any] | slice) -> ProbedTokens:
        """Return some of the tokens, by number or mask."""
        return ProbedTokens(**{name: values[places] for name, values in self.columns().items()})

    def of_example(self, number: int) -> ProbedTokens:
        """Return the tokens of one example, none if it was not probed."""
        ends = np.searchsorted(self.example, [number, number + 1])
        return self.taken(slice(int(ends[0]), int(ends[1])))

    @classmethod
    def joined(cls, parts: Sequence[ProbedTokens]) -> ProbedTokens:
        """Return the tokens of several parts, one or more, end to end."""
        return cls(
            **{name: np.concatenate([each.columns()[name] for each in parts]) for name in _KINDS}
        )

    def to_table(self) -> pa.Table:
        """Return a table with a row per token; the likeliest tokens are lists of fixed length."""
        arrays = {name: pa.array(values.ravel()) for name, values in self.columns().items()}
        for name in _LISTS:
            arrays[name] = pa.FixedSizeListArray.from_arrays(arrays[name], self.top_ids.shape[1])
        return pa.table(arrays)

    @classmethod
    def from_table(cls, table: pa.Table) -> ProbedTokens:
        """Read such a table."""
        columns: dict[str, npt.NDArray[Any]] = {}
        for name in _KINDS:
            column = table.column(name).combine_chunks()
            values = column.flatten() if name in _LISTS else column
            columns[name] = values.to_numpy(zero_copy_only=False)
            if name in _LISTS:
                columns[name] = columns[name].reshape(-1, column.type.list_size)
        return cls(**columns)


class ProbeFolder:
    """The output of a probe, while it is written and afterwards.

    Args:
        path: The folder; made where it is missing.
        settings: All that decides over the result.

    Raises:
        InputError: It holds something else, or the probe of something else.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.settings = json.loads(json.dumps(settings))  # as it will be read back
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            self._check_ours()
        else:
            path.mkdir(parents=True, exist_ok=True)
            self._write_record({})

    def _check_ours(self) -> None:
        try:
            before = json.loads((self.path / RECORD_NAME).read_text(encoding="utf-8"))["settings"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.path} is not an empty folder, nor one that `lossmask probe` wrote "
                f"({RECORD_NAME}: {error}). Give another one.",
                reason="output_in_use",
            ) from error
        for key in sorted({*before, *self.settings}):
            if before.get(key) != self.settings.get(key):
                raise InputError(
                    f"{self.path} holds the probe of {key}={before.get(key)!r}, now it is "
                    f"{self.settings.get(key)!r}. Give another folder, or delete this one.",
                    reason="different_probe",
                )

    def part(self, number: int) -> ProbedTokens | None:
        """Return a part that was written, None if it was not.

        Raises:
            PreparedDataError: It cannot be read.
        """
        path = self.path / f"part-{number:05d}.parquet"
        if not path.exists():
            return None
        try:
            return ProbedTokens.from_table(pq.read_table(path))
        except (pa.ArrowException, OSError, KeyError) as error:
            raise PreparedDataError(
                f"{path} cannot be read ({error}). Delete it, and the same command makes it again.",
                reason="bad_part",
            ) from error

    def write_part(self, number: int, tokens: ProbedTokens) -> None:
        """Write a part, whole or not at all."""
        path = self.path / f"part-{number:05d}.parquet"
        scratch = path.with_suffix(f".{os.getpid()}.tmp")
        pq.write_table(tokens.to_table(), scratch, compression="zstd")
        scratch.replace(path)

    def finish(self, tokens: int) -> None:
        """Write down how many tokens there are, which says that all parts are there."""
        self._write_record({"tokens": tokens})

    def _write_record(self, more: Mapping[str, Any]) -> None:
        path = self.path / RECORD_NAME
        scratch = path.with_suffix(f".{os.getpid()}.tmp")
        text = json.dumps({"settings": self.settings, **more}, indent=2, ensure_ascii=False)
        scratch.write_text(text + "\n", encoding="utf-8")
        scratch.replace(path)
