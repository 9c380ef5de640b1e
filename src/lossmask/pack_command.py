"""``lossmask pack``: a prepared folder -> how well it packs, and which examples lie where."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from lossmask.errors import InputError
from lossmask.example import IGNORE_INDEX
from lossmask.packed_examples import pack_examples
from lossmask.packing import Packs
from lossmask.prepared import PreparedDataset, load_prepared

_BAR = 76
_SHADES = ("█", "▒")


def pack_command(
    prepared: Annotated[
        Path, typer.Argument(help="Folder that `prepare` wrote.", show_default=False)
    ],
    max_length: Annotated[
        int, typer.Option("--max-length", min=1, help="Tokens of a pack.", show_default=False)
    ],
    show: Annotated[
        list[int] | None,
        typer.Option("--show", help="Number of a pack to look into; can be given again."),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Examples of the padded batches to compare with.")
    ] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the order, as that of `train`.")] = 0,
) -> None:
    """Show how well prepared examples pack, and which lie in a pack. Writes nothing.

    `train --packing LENGTH` makes the same packs, by best-fit decreasing over all examples.
    """
    data = load_prepared(prepared)
    packs = pack_examples(data, max_length, seed=seed).packs
    console = Console()
    padded = padded_tokens(packs.lengths, batch_size, seed=seed)
    console.print(show_packing(packs, batch_size, padded))
    for number in show or []:
        console.print(show_pack(data, packs, number))


def padded_tokens(lengths: np.typing.NDArray[np.int64], batch_size: int, *, seed: int) -> int:
    """Count the positions of an epoch of padded batches, in an order drawn by the seed.

    Args:
        lengths: (examples,) tokens of each example.
        batch_size: Examples of a batch, each padded to the longest of it.
        seed: Of the order.
    """
    drawn = np.random.default_rng(seed).permutation(lengths)
    firsts = np.arange(0, len(drawn), batch_size)
    sizes = np.diff([*firsts.tolist(), len(drawn)])
    return int((np.maximum.reduceat(drawn, firsts) * sizes).sum())


def show_packing(packs: Packs, batch_size: int, padded: int) -> RenderableType:
    """Draw how full packs are, and what padded batches of the same examples would cost.

    Args:
        packs: The packs.
        batch_size: Examples of a padded batch.
        padded: Positions of an epoch of such batches.
    """
    documents, tokens = len(packs.documents), int(packs.lengths.sum())
    most = int(np.diff(packs.starts).max())
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    table.add_column()
    table.add_row(f"{documents:,}", f"examples, {tokens:,} tokens")
    table.add_row(
        f"[bold]{len(packs):,}",
        f"packs of {packs.max_length:,} tokens; no packing has fewer than {packs.lower_bound:,}",
    )
    table.add_row(
        f"{documents / len(packs):,.1f}", f"examples in a pack on average, {most:,} at most"
    )
    table.add_row(f"[green]{packs.efficiency:.2%}", "of the packs is filled")
    table.add_row(
        f"[red]{1 - tokens / padded:.2%}",
        f"of padded batches of {batch_size:,} is padding: {padded - tokens:,} positions that packs "
        "avoid",
    )
    return table


def show_pack(data: PreparedDataset, packs: Packs, number: int) -> RenderableType:
    """Draw which examples lie where in a pack.

    Raises:
        InputError: There is no such pack.
    """
    if not 0 <= number < len(packs):
        raise InputError(
            f"there is no pack {number}: the {len(packs):,} packs are numbered from 0 to "
            f"{len(packs) - 1}.",
            reason="no_such_pack",
        )
    members = packs[number]
    lengths = packs.lengths[members]
    ends = np.cumsum(lengths)
    rows = data.rows
    table = Table(box=None, padding=(0, 2, 0, 0))
    for header in ("", "example", "input row", "positions", "tokens", "supervised"):
        table.add_column(header, justify="left" if header in ("", "positions") else "right")
    for place, (member, length, end) in enumerate(
        zip(members.tolist(), lengths.tolist(), ends.tolist(), strict=True)
    ):
        supervised = _supervised(data[member])
        table.add_row(
            _SHADES[place % 2],
            f"{member:,}",
            f"{int(rows[member]):,}",
            f"{end - length:,} to {end - 1:,}",
            f"{length:,}",
            f"{supervised:,} ({supervised / length:.0%})",
        )
    filled = int(ends[-1])
    title = (
        f"pack {number:,}: {filled:,} of {packs.max_length:,} tokens "
        f"({filled / packs.max_length:.1%}), {_counted(len(members), 'example')}"
    )
    bar = _bar(ends.tolist(), packs.max_length)
    return Group(Text(), Text(title, "bold"), Text(bar, overflow="crop", no_wrap=True), table)


def _supervised(example: dict[str, Any]) -> int:
    """Count the tokens in the loss. The first of an example is not: nothing predicts it."""
    return int(np.count_nonzero(example["labels"][1:] != IGNORE_INDEX))


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _bar(ends: list[int], max_length: int) -> str:
    """Draw a pack as a line of characters, examples in turn dark and light, ``·`` where it ends."""
    cells = [round(end / max_length * _BAR) for end in ends]
    drawn, start = "", 0
    for place, cell in enumerate(cells):
        drawn += _SHADES[place % 2] * (cell - start)
        start = cell
    return drawn + "·" * (_BAR - start)
