"""Examples -> how long they are, how much of them counts, what of it is what.

Numbers are counted by value, so that statistics of parts of the data add up exactly, in memory that
depends on how many different lengths there are, not on how many rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lossmask.policy import PARTS

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
SOURCES_LISTED = 100
_GROUPS = ("content", "reasoning", "tool_calls", "stop", "prompt", "scaffold")
"""Parts as statistics name them: those of tool calls together."""


@dataclass(slots=True)
class Source:
    """What rows of one file, or of one value of the column ``source``, came to."""

    rows: int = 0
    rows_kept: int = 0
    examples: int = 0
    tokens: int = 0
    supervised_tokens: int = 0

    def add(self, other: Source) -> None:
        """Add the counts of other rows of the same source."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def to_mapping(self) -> dict[str, Any]:
        """Return the counts as plain data."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(slots=True)
class Statistics:
    """Of examples.

    Attributes:
        lengths: Tokens of an example -> how many examples.
        supervised: Tokens in the loss of an example -> how many examples.
        shares: Share of an example in the loss, in thousandths -> how many examples.
        turns: Supervised turns of an example -> how many examples.
        parts: int64 (parts, 2): tokens of each of ``PARTS``, and those of them in the loss.
        stops_trained: Supervised turns that end with a stop token in the loss.
        sources: By name.
    """

    lengths: Counter[int] = field(default_factory=Counter)
    supervised: Counter[int] = field(default_factory=Counter)
    shares: Counter[int] = field(default_factory=Counter)
    turns: Counter[int] = field(default_factory=Counter)
    parts: npt.NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((len(PARTS), 2), np.int64)
    )
    stops_trained: int = 0
    sources: dict[str, Source] = field(default_factory=dict)

    def add(
        self, length: int, supervised: int, *, turns: int, stops: int, parts: npt.NDArray[np.int64]
    ) -> None:
        """Count one example.

        Args:
            length: Its tokens.
            supervised: Those in the loss.
            turns: Its supervised turns.
            stops: Those of them that end with a stop token in the loss.
            parts: int64 (parts, 2), as :func:`count_parts` gives it.
        """
        self.lengths[length] += 1
        self.supervised[supervised] += 1
        self.shares[round(1000 * supervised / max(length, 1))] += 1
        self.turns[turns] += 1
        self.stops_trained += stops
        self.parts += parts

    def source(self, name: str) -> Source:
        """Return the counts of a source, to be added to."""
        if name not in self.sources:
            self.sources[name] = Source()
        return self.sources[name]

    def merge(self, other: Statistics) -> None:
        """Add the statistics of other examples."""
        for name in ("lengths", "supervised", "shares", "turns"):
            getattr(self, name).update(getattr(other, name))
        self.parts += other.parts
        self.stops_trained += other.stops_trained
        for name, source in other.sources.items():
            self.source(name).add(source)

    def by_part(self) -> dict[str, dict[str, int]]:
        """Return tokens, and those in the loss, of each part: those of tool calls together."""
        found = {name: {"tokens": 0, "supervised_tokens": 0} for name in _GROUPS}
        for part, (tokens, supervised) in zip(PARTS, self.parts.tolist(), strict=True):
            group = found[part.partition(".")[0]]
            group["tokens"] += tokens
            group["supervised_tokens"] += supervised
        return found

    def by_source(self) -> list[tuple[str, Source]]:
        """Return the sources, those of the most rows first; all behind the largest as one."""
        ordered = sorted(self.sources.items(), key=lambda item: (-item[1].rows, item[0]))
        if len(ordered) <= SOURCES_LISTED:
            return ordered
        rest = Source()
        for _, source in ordered[SOURCES_LISTED:]:
            rest.add(source)
        more = len(ordered) - SOURCES_LISTED
        return [*ordered[:SOURCES_LISTED], (f"({more:,} others)", rest)]

    def to_mapping(self) -> dict[str, Any]:
        """Return everything as plain data, for JSON."""
        shares = {name: value / 1000 for name, value in summarised(self.shares).items()}
        return {
            "length": summarised(self.lengths),
            "supervised_tokens": summarised(self.supervised),
            "supervised_share": shares,
            "turns": summarised(self.turns),
            "parts": self.by_part(),
            "sources": {name: source.to_mapping() for name, source in self.by_source()},
        }


def count_parts(
    parts: npt.NDArray[np.int8], in_loss: npt.NDArray[np.bool_], starts: Sequence[int] = (0,)
) -> npt.NDArray[np.int64]:
    """Count the tokens of each part in examples that lie end to end.

    Args:
        parts: int8 (tokens,), indices into ``PARTS``.
        in_loss: bool (tokens,).
        starts: Where each of k examples begins; the last one reaches to the end.

    Returns:
        int64 (k, parts, 2): all tokens, and those in the loss.
    """
    ends = [*starts[1:], len(parts)]
    lengths = [end - start for start, end in zip(starts, ends, strict=True)]
    width = len(PARTS) * 2
    cell = np.repeat(np.arange(len(starts)) * width, lengths) + parts * np.int64(2) + in_loss
    counts = np.bincount(cell, minlength=len(starts) * width).reshape(-1, len(PARTS), 2)
    counts[:, :, 0] += counts[:, :, 1]
    return counts.astype(np.int64)


def summarised(counted: Mapping[int, int]) -> dict[str, float]:
    """Return mean, least, most and percentiles of numbers that were counted by value.

    A percentile is the least number that so many percent of all do not exceed.

    Example:
        >>> summarised({1: 98, 7: 1, 9: 1})["p99"]
        7
    """
    if not counted:
        return {}
    values = np.array(sorted(counted), np.int64)
    many = np.array([counted[value] for value in values.tolist()], np.int64)
    up_to = np.cumsum(many)
    total = int(up_to[-1])
    found = {
        f"p{percent}": int(values[np.searchsorted(up_to, -(-percent * total // 100))])
        for percent in PERCENTILES
    }
    mean = float((values * many).sum() / total)
    return {"mean": mean, "min": int(values[0]), **found, "max": int(values[-1])}
