"""Data files, and two ways to encode them -> a :class:`Diff`.

Rows are encoded by A in processes of its own; what became of them travels on to those of B, which
encode the same rows and compare. Only the first rows that differ are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from lossmask.confinement import Limits
from lossmask.data_files import RawRow, check_files, in_chunks, read_rows
from lossmask.diffing import Comparison, Diff
from lossmask.errors import InputError
from lossmask.foreign_masks import ForeignSource
from lossmask.preparing import EncoderSource
from lossmask.worker import Chunk, Progress
from lossmask.workers import Outcomes, Workers

__all__ = ["diff_data"]

ROWS_PER_CHUNK = 100


def diff_data(
    paths: Sequence[Path],
    a: EncoderSource,
    b: EncoderSource | ForeignSource,
    *,
    limits: Limits | None = None,
    limit: int = 3,
    row: int | None = None,
    workers: int = 1,
    progress: Progress = lambda done: None,
) -> Diff:
    """Encode every row of data files in two ways and compare.

    Starts processes, so a script calls it under ``if __name__ == "__main__":``.

    Args:
        paths: Data files, in any format that ``data_files`` and ``formats`` read.
        a: Tokenizer, template and policy of A.
        b: Those of B, or another tool's way.
        limits: What one row may cost on either side.
        limit: How many rows that differ are kept to be shown.
        row: Compare this row (0-based) only, and keep it whether it differs or not.
        workers: Processes of each side; the result is the same for any number.
        progress: Told the bytes of input done.

    Raises:
        InputError: A file is missing or no data, or there is no row, or no such row.
        TemplateError: The first rows all reach the limits.
        PolicyError: The other tool is not installed.
    """
    check_files(paths)
    limits = limits or Limits()
    whole = Diff()
    is_foreign = isinstance(b, ForeignSource)
    with Workers(a.load, limits) as ours, Workers(b.load, limits) as theirs:
        ours.start(workers)
        theirs.start(workers)
        ours.try_template(islice(_rows(paths, row), ROWS_PER_CHUNK))
        rows = enumerate(in_chunks(_rows(paths, row), ROWS_PER_CHUNK))
        encoded = ours.encode((Chunk(n, chunk, Outcomes()) for n, chunk in rows), workers)
        pairs = (
            Chunk(
                chunk.number,
                chunk.rows,
                Comparison(chunk.results.all, a.layout, limit, row is not None, not is_foreign),
            )
            for chunk in encoded
        )
        finished: dict[int, Diff] = {}
        merged = 0
        for chunk in theirs.encode(pairs, workers, progress):
            finished[chunk.number] = chunk.results.diff
            while merged in finished:  # in order, so that the first rows are the ones shown
                whole.merge(finished.pop(merged), limit if row is None else 1)
                merged += 1
    if not whole.rows:
        listed = ", ".join(map(str, paths))
        what = f"no rows in {listed}" if row is None else f"{listed}: there is no row {row}"
        raise InputError(what, reason="no_rows")
    return whole


def _rows(paths: Sequence[Path], row: int | None) -> Iterator[RawRow]:
    return (raw for raw in read_rows(paths) if row is None or raw.row == row)
