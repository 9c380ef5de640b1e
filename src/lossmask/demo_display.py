"""Draw the demo on a terminal: examples and a `DemoResult` in, tables and coloured text out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from lossmask.example import Example
from lossmask.terminal import has_colour, show_example, visible

if TYPE_CHECKING:
    from lossmask.demo import DemoResult


def progress_bars(console: Console) -> Progress:
    """Make the bars of the demo, each with a note on how its arm is doing."""
    return Progress(
        TextColumn("{task.description:<16}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        console=console,
    )


def print_prepared(
    console: Console, rows: Sequence[Sequence[dict[str, str]]], examples: Sequence[Example]
) -> None:
    """Print what was prepared, and one example of it."""
    tokens = sum(map(len, examples))
    supervised = sum(example.supervised_count for example in examples)
    console.print(
        f"{len(rows)} conversations: {tokens:,} tokens, {supervised:,} of them "
        f"({supervised / tokens:.1%}) are what the model has to generate."
    )
    number = max(range(20), key=lambda row: len(examples[row].spans))
    console.print(
        show_example(examples[number], rows[number], number=1, total=1, colour=has_colour(console))
    )


def print_predictions(console: Console, result: DemoResult, count: int = 3) -> None:
    """Print the first held-out prompts and what was answered before and after."""
    for prediction in result.predictions[:count]:
        table = Table.grid(padding=(0, 2))
        table.add_row(Text("right answer"), Text(prediction.expected, "bold"))
        for name, answer in (
            ("before", prediction.before),
            ("completions only", prediction.after_completions),
            ("full sequence", prediction.after_full_sequence),
        ):
            is_right = answer == prediction.expected
            mark = Text("  right", "green") if is_right else Text("  wrong", "red")
            table.add_row(Text(name), Text.assemble(visible(answer), mark))
        prompt = Text(" ".join(prediction.prompt.split()), "grey66")
        title = Text("a held-out prompt and its answers")
        console.print(Panel(Group(prompt, Text(), table), title=title, title_align="left"))


def print_verdict(console: Console, result: DemoResult) -> None:
    """Print how many epochs each arm needed."""
    table = Table(title=f"held-out answers that are exactly right (target {result.target:.0%})")
    for header in ("loss on", "tokens in the loss", "epochs needed", "after each epoch", "seconds"):
        table.add_column(header)
    for arm in (result.completions, result.full_sequence):
        most = len(arm.accuracies) - 1
        table.add_row(
            arm.name,
            f"{arm.supervised_tokens:,}",
            str(arm.epochs_needed) if arm.epochs_needed is not None else f"more than {most}",
            " ".join(f"{share:.0%}" for share in arm.accuracies),
            f"{arm.seconds:.0f}",
        )
    console.print(table)
    console.print(verdict(result))


def verdict(result: DemoResult) -> str:
    """Say in a sentence how the two arms compare, whatever came out."""
    masked, full = result.completions, result.full_sequence
    if masked.epochs_needed is None:
        best = f"{max(masked.accuracies):.0%} against {max(full.accuracies):.0%}"
        return f"Too short for the answers to be right. Best so far, completions only: {best}."
    if full.epochs_needed is None:
        later = f"after {len(full.accuracies) - 1} epochs it had {full.accuracies[-1]:.0%} right"
    else:
        later = f"it needed {full.epochs_needed}"
    return (
        f"Loss on completions only: the answers were right after {masked.epochs_needed} epochs; "
        f"on the full sequence: {later}. Same model, rows, order, optimizer and learning rate."
    )
