"""Data files in any layout -> one file of JSON Lines in another, with a report of every loss.

Rows in = rows converted + rows rejected; the rejected ones lie beside the output with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from lossmask.converting import TARGETS, convert_row
from lossmask.data_files import RawRow, check_files, read_rows
from lossmask.encoded_rows import json_line, rejected_record
from lossmask.errors import InputError, LossmaskError
from lossmask.formats import to_normal
from lossmask.layout import Layout
from lossmask.outcome import Rejection
from lossmask.policy import nearest

SHOWN = 3


@dataclass(slots=True)
class Conversion:
    """What became of the rows.

    Attributes:
        rows_in: Rows read.
        rows_converted: Rows written.
        rows_lossy: Of those, rows that lost something.
        losses: What was lost -> in how many rows, and the first few places.
        rejections: Reason -> how many rows, and the first few places.
    """

    rows_in: int = 0
    rows_converted: int = 0
    rows_lossy: int = 0
    losses: dict[str, tuple[int, list[str]]] = field(default_factory=dict)
    rejections: dict[str, tuple[int, list[str]]] = field(default_factory=dict)


def convert_files(
    paths: Sequence[Path],
    output: Path,
    to: str,
    *,
    layout: Layout | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Conversion:
    """Convert data files.

    Args:
        paths: Data files, in any format that ``data_files`` and ``formats`` read.
        output: The file to write; beside it ``OUTPUT.rejected.jsonl`` if a row is rejected.
        to: One of ``converting.TARGETS``.
        layout: How the rows are laid out.
        overwrite: Replace an output that is there.
        progress: Told the bytes of input done.

    Returns:
        Counts with ``rows_in == rows_converted + rejected rows``.

    Raises:
        InputError: The target is unknown, a file is missing or no data, there is no row, or the
            output is there.
    """
    if to not in TARGETS:
        raise InputError(f"cannot convert to {to!r}; {nearest(to, list(TARGETS))}")
    check_files(paths)
    rejected_path = output.with_name(output.name + ".rejected.jsonl")
    for path in (output, rejected_path):
        if path.exists() and not overwrite:
            raise InputError(f"{path} exists: choose another, or replace it with --overwrite")
    output.parent.mkdir(parents=True, exist_ok=True)
    written, refused = (path.with_name(path.name + ".tmp") for path in (output, rejected_path))
    done = Conversion()
    with written.open("w", encoding="utf-8") as kept, refused.open("w", encoding="utf-8") as left:
        for raw in read_rows(paths):
            _convert(raw, to, layout or Layout(), done, kept, left)
            progress(raw.size)
    if not done.rows_in:
        written.unlink()
        refused.unlink()
        raise InputError(f"no rows in {', '.join(map(str, paths))}", reason="no_rows")
    written.replace(output)
    rejected_path.unlink(missing_ok=True)
    if done.rejections:
        refused.replace(rejected_path)
    else:
        refused.unlink()
    return done


def _convert(
    raw: RawRow, to: str, layout: Layout, done: Conversion, kept: IO[str], left: IO[str]
) -> None:
    done.rows_in += 1
    try:
        row, losses = convert_row(to_normal(raw.parse(), layout), to)
    except LossmaskError as error:
        rejection = Rejection.from_error(error)
        _count(done.rejections, rejection.reason, f"{raw.place}: {error}")
        left.write(json_line(rejected_record(raw, rejection)))
        return
    kept.write(json_line(row))
    done.rows_converted += 1
    done.rows_lossy += bool(losses)
    for what in dict.fromkeys(what for _, what in losses):
        index = next(index for index, each in losses if each == what)
        where = "" if index is None else f", message {index}"
        _count(done.losses, what, f"{raw.place}{where}")


def _count(counts: dict[str, tuple[int, list[str]]], what: str, place: str) -> None:
    count, places = counts.get(what, (0, []))
    counts[what] = (count + 1, [*places, place][:SHOWN])
