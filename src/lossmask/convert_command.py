"""``lossmask convert``: data in one layout -> data in another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.progress import TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from lossmask.command_options import Data, LayoutOption, read_layout
from lossmask.converting_files import Conversion, convert_files
from lossmask.data_files import total_bytes
from lossmask.terminal import progress_bar, visible


def convert_command(
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write (JSON Lines).")],
    to: Annotated[
        str, typer.Option("--to", help="openai, sharegpt, alpaca, anthropic, axolotl or swift.")
    ],
    layout: LayoutOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output.")] = False,
    lossless: Annotated[
        bool, typer.Option("--lossless", help="Exit code 1 if a row loses anything.")
    ] = False,
) -> None:
    """Convert data into another tool's layout; whatever it cannot say is reported.

    Every row is accounted for: rows in = converted + rejected, the rejected ones with their reason
    in OUTPUT.rejected.jsonl. Exit code 1 if any row is rejected.
    """
    total = total_bytes(data)
    with progress_bar(TransferSpeedColumn()) as progress:
        task = progress.add_task("convert", total=total)
        done = convert_files(
            data,
            output,
            to,
            layout=read_layout(layout or []),
            overwrite=overwrite,
            progress=lambda size: progress.advance(task, size),
        )
        progress.update(task, total=total or 1, completed=total or 1)
    Console().print(show_conversion(done, str(output), to))
    if done.rejections or (lossless and done.rows_lossy):
        raise typer.Exit(1)


def show_conversion(done: Conversion, output: str, to: str) -> RenderableType:
    """Draw what became of the rows."""
    rejected = done.rows_in - done.rows_converted
    head = Text.assemble(
        (f"{done.rows_in:,} rows in, {done.rows_converted:,} converted to {to} in {output}, "),
        (f"{rejected:,} rejected", "red" if rejected else "default"),
        f"; {done.rows_lossy:,} lost something",
    )
    tables: list[RenderableType] = [head]
    for title, counts in (("lost", done.losses), ("rejected", done.rejections)):
        if not counts:
            continue
        table = Table(title, "rows", "for example", title_justify="left")
        for what, (count, places) in sorted(counts.items(), key=lambda item: -item[1][0]):
            table.add_row(visible(what), f"{count:,}", Text("\n".join(map(visible, places))))
        tables.append(table)
    return Group(*tables)
