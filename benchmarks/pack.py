"""Measure packing against TRL's packer and against the lower bound, and print the table.

    python benchmarks/pack.py                              # 1,000,000 lengths; TRL on 100,000
    python benchmarks/pack.py --peer-documents 1000000     # TRL on all of them, a minute for each
    python benchmarks/pack.py --write packing-figures.md   # the table as Markdown, too

Both pack the same lengths in one process, in turn, and times are medians. TRL's ``_pack_bfd`` is
given a column without values, so that moving tokens is in neither time. Exit code 1 if the two do
not put the same lengths together.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from rich.console import Console
from rich.table import Table
from trl.data_utils import _pack_bfd

from lossmask.packing import Packs, lower_bound, pack, pack_stream

IntArray = npt.NDArray[np.int64]
Draw = Callable[[np.random.Generator, int, int], npt.NDArray[np.floating | np.integer]]

DISTRIBUTIONS: dict[str, Draw] = {
    "chats (log-normal, median 400)": lambda draw, n, most: draw.lognormal(6, 1, n),
    "long chats (log-normal, median 1,800)": lambda draw, n, most: draw.lognormal(7.5, 0.7, n),
    "exponential, mean 500": lambda draw, n, most: draw.exponential(500, n),
    "uniform up to a pack": lambda draw, n, most: draw.integers(1, most + 1, n),
    "uniform up to half a pack": lambda draw, n, most: draw.integers(1, most // 2 + 1, n),
    "short, up to 64": lambda draw, n, most: draw.integers(1, 65, n),
}
HEADERS = (
    "lengths", "packs", "above the bound", "filled", "seconds", "TRL / lossmask, same lengths",
    "packs of 1,000 rows at a time", "streamed",
)  # fmt: skip
TRL_BATCH = 1000
"""``pack_dataset`` packs within batches of ``Dataset.map``, by default of this many rows."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What packing the lengths of one distribution gave."""

    name: str
    documents: int
    packs: int
    lower_bound: int
    efficiency: float
    """Share of the packs that is filled."""
    seconds: float
    """Median, of `pack` on all documents."""
    peer_documents: int
    """How many of them TRL packed."""
    peer_seconds: float
    own_seconds: float
    """Median, of `pack` on those that TRL packed."""
    is_same: bool
    """Whether the two put the same lengths together."""
    packs_in_batches: int
    """Packs where every 1,000 rows are packed by themselves."""
    packs_streamed: int
    """Packs of `pack_stream`."""

    def cells(self) -> tuple[str, ...]:
        """Return a row of the table, in the order of `HEADERS`."""
        ratio = self.peer_seconds / self.own_seconds
        return (
            self.name,
            f"{self.packs:,}",
            self._above(self.packs),
            f"{self.efficiency:.2%}",
            f"{self.seconds:.2f}",
            f"{self.peer_seconds:.1f} s / {self.own_seconds:.3f} s = {ratio:,.0f}",
            self._above(self.packs_in_batches),
            self._above(self.packs_streamed),
        )

    def _above(self, packs: int) -> str:
        return f"{packs / self.lower_bound - 1:+.3%}"


def measure(
    *, documents: int, peer_documents: int, max_length: int, repeats: int, seed: int = 0
) -> list[Measured]:
    """Pack lengths of every distribution, with lossmask and with TRL.

    Args:
        documents: How many lengths.
        peer_documents: How many of them TRL packs as well.
        max_length: Tokens of a pack.
        repeats: How often each is timed; TRL half as often.
        seed: Of the lengths.
    """
    draw = np.random.default_rng(seed)
    measured: list[Measured] = []
    for name, distribution in DISTRIBUTIONS.items():
        drawn = distribution(draw, documents, max_length)
        lengths = np.clip(drawn, 1, max_length).astype(np.int64)
        measured.append(_measure(name, lengths, lengths[:peer_documents], max_length, repeats))
    return measured


def _measure(
    name: str, lengths: IntArray, shared: IntArray, max_length: int, repeats: int
) -> Measured:
    table = _column_of(shared)
    own: list[float] = []
    peer: list[float] = []
    for turn in range(repeats):
        own.append(_seconds(lambda: pack(shared, max_length)))
        if turn % 2 == 0:
            peer.append(_seconds(lambda: _pack_bfd(table, max_length)))
    packs = pack(lengths, max_length)
    batches = [lengths[at : at + TRL_BATCH] for at in range(0, len(lengths), TRL_BATCH)]
    return Measured(
        name=name,
        documents=len(lengths),
        packs=len(packs),
        lower_bound=lower_bound(lengths, max_length),
        efficiency=packs.efficiency,
        seconds=statistics.median(
            _seconds(lambda: pack(lengths, max_length)) for _ in range(repeats)
        ),
        peer_documents=len(shared),
        peer_seconds=statistics.median(peer),
        own_seconds=statistics.median(own),
        is_same=_contents(pack(shared, max_length)) == _contents_of_peer(table, max_length),
        packs_in_batches=sum(len(pack(batch, max_length)) for batch in batches),
        packs_streamed=sum(1 for _ in pack_stream(lengths.tolist(), max_length, length=int)),
    )


def _seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _column_of(lengths: IntArray) -> pa.Table:
    """Return a table as TRL packs it: lists of these lengths, of nulls, which take no memory."""
    ends = np.concatenate([[0], np.cumsum(lengths)])
    lists = pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), pa.nulls(int(ends[-1])))
    return pa.table({"input_ids": lists})


def _contents(packs: Packs) -> list[list[int]]:
    return sorted(packs.lengths[packs[index]].tolist() for index in range(len(packs)))


def _contents_of_peer(table: pa.Table, max_length: int) -> list[list[int]]:
    packed = _pack_bfd(table, max_length)["seq_lengths"].to_pylist()
    return sorted(sorted(lengths, reverse=True) for lengths in packed)


def markdown(rows: Sequence[Measured]) -> str:
    """Return the table as Markdown."""
    lines = [HEADERS, ("---",) * len(HEADERS), *(row.cells() for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def main() -> int:
    """Print the table; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--peer-documents", type=int, default=100_000)
    parser.add_argument("--max-length", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--write", type=Path, help="write the table as Markdown to this file")
    options = parser.parse_args()
    rows = measure(
        documents=options.documents,
        peer_documents=options.peer_documents,
        max_length=options.max_length,
        repeats=options.repeats,
    )
    table = Table(
        *HEADERS,
        title=f"{options.documents:,} lengths into packs of {options.max_length:,}; "
        f"TRL packs {rows[0].peer_documents:,} of them",
    )
    for row in rows:
        table.add_row(*row.cells())
    Console().print(table)
    if options.write is not None:
        options.write.write_text(markdown(rows), encoding="utf-8")
    different = [row.name for row in rows if not row.is_same]
    if different:
        print(f"TRL and lossmask packed differently: {', '.join(different)}", file=sys.stderr)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
