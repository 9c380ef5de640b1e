"""Examples and summaries for a person at a terminal.

In: examples, outcomes, counts. Out: rich renderables; nothing is printed here. How tokens are drawn
says ``token_drawing``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from lossmask.data_files import RawRow
from lossmask.errors import LossmaskError
from lossmask.example import Example, Span
from lossmask.explanations import FINDINGS
from lossmask.instruction_styles import StyleCost
from lossmask.outcome import Lost, Rejection
from lossmask.preparing import Counts
from lossmask.token_drawing import (
    STOP_STYLE,
    STRADDLE_STYLE,
    TokenDrawing,
    role_style,
    trained_style,
)
from lossmask.visible_text import visible as visible

_LISTED = 4  # weights in a legend


def has_colour(console: Console) -> bool:
    """Return whether a console draws colours."""
    return console.color_system is not None and not console.no_color


def show_example(
    example: Example,
    messages: Sequence[Any],
    *,
    number: int,
    total: int,
    colour: bool,
    ids: bool = False,
    place: str = "",
) -> RenderableType:
    """Draw one example line by line: what is trained, what is not, where each turn stops.

    Args:
        example: The example.
        messages: The conversation, for the roles in the margin.
        number: 1-based number among the examples of the row.
        total: Examples of the row.
        colour: False marks supervised runs with brackets instead.
        ids: Whether token ids stand below the tokens.
        place: Where the row stands, for the title.
    """
    share, count = example.supervised_count / len(example), example.supervised_count
    where = f", {visible(place)}" if place else ""  # last, as it may not fit
    title = (
        f"example {number} of {total}: {len(example)} tokens, {count} supervised "
        f"({share:.1%}){where}"
    )
    return Group(
        Rule(Text(title), align="left"),
        TokenDrawing(example, messages, colour=colour, ids=ids),
        *([Text(), _legend(example)] if colour else []),
        _turn_table(example, messages),
    )


def _legend(example: Example) -> Text:
    """Say what the colours of an example mean."""
    weights = sorted({float(weight) for weight in example.loss_weights if weight}, reverse=True)
    shown = weights if len(weights) <= _LISTED else [weights[0], weights[-1]]
    legend = Text(no_wrap=True, overflow="ellipsis")
    for weight in shown:
        name = " trained " if weights == [1.0] else f" weight {weight:g} "
        legend.append(name, trained_style(weight, 0)).append(" ")
    if any(span.stop is not None for span in example.spans):
        legend.append(" stop ", STOP_STYLE).append(" ")
    legend.append(" not trained ", role_style(None))
    if any(finding.kind == "boundary_straddle" for finding in example.findings):
        legend.append(" ┊ tokenized apart here", STRADDLE_STYLE)
    return legend


def _turn_table(example: Example, messages: Sequence[Any]) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name, justify in _TURN_COLUMNS:
        table.add_column(name, justify=justify, no_wrap=name != "trained text")
    spans: dict[int, Span] = {span.message_index: span for span in example.spans}
    shown = max(
        [*spans, int(example.message_index.max(initial=-1))]
    )  # no spans: only prompts are trained
    for index, message in enumerate(messages[: shown + 1]):
        owned = int((example.message_index == index).sum())
        role = Text(visible(str(message["role"])), role_style(str(message["role"])))
        if span := spans.get(index):
            text = example.text[span.start : span.end]
            stop = Text(visible(span.stop), STOP_STYLE) if span.stop else Text("none", "yellow")
            count = Text(str(span.token_end - span.token_start), "green")
            written = Text(
                _shortened(text.removesuffix(span.stop or "")), no_wrap=True, overflow="ellipsis"
            )
            table.add_row(str(index), role, str(owned), count, stop, written)
        else:
            table.add_row(str(index), role, str(owned), "-", "", "", style="dim")
    notes = [Text(f"{each.kind}: {visible(each.detail)}") for each in example.findings]
    parts: list[RenderableType] = [Text(), table] if messages else []
    return Group(*parts, *([Text(), *notes] if notes else []))


_TURN_COLUMNS: tuple[tuple[str, Literal["left", "right"]], ...] = (
    ("message", "right"),
    ("role", "left"),
    ("tokens", "right"),
    ("trained", "right"),
    ("stop", "left"),
    ("trained text", "left"),
)


def _shortened(text: str, width: int = 60) -> str:
    shown = visible(text)
    return shown if len(shown) <= width else f"{shown[: width // 2]} … {shown[-width // 2 :]}"


def show_error(error: LossmaskError) -> RenderableType:
    """Draw an error that ends a command."""
    head = ("error", "bold red"), f" ({error.reason}): "
    return Text.assemble(*head, visible(str(error)), overflow="fold")


def show_cost(cost: StyleCost) -> RenderableType:
    """Say what making tokens of a style's headers costs."""
    listed = ", ".join(map(visible, cost.new_tokens)) or "none"
    return Text(
        f"special tokens added: {listed}; {cost.new_rows} new rows in the embedding, which begin "
        "as the mean of what they replace and have to be trained; an exchange is "
        f"{cost.saved_per_exchange} tokens shorter ({cost.tokens_per_exchange} to "
        f"{cost.tokens_per_exchange_after}, two words of text left out)"
    )


def show_rejection(raw: RawRow, rejection: Rejection) -> RenderableType:
    """Draw why a row cannot be encoded."""
    where = "" if rejection.message_index is None else f", message {rejection.message_index}"
    return Panel(
        Text(visible(rejection.detail)),
        title=Text(f"{raw.place}{where}: {rejection.reason}"),
        title_align="left",
        border_style="red",
    )


def summary(counts: Counts, output: str) -> RenderableType:
    """Account for every row of a ``prepare`` run."""
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    table.add_column()
    share = counts.supervised_tokens / counts.tokens if counts.tokens else 0.0
    table.add_row(f"[bold]{counts.rows_in:,}", "rows in")
    table.add_row(f"[green]{counts.rows_kept:,}", "kept")
    table.add_row(
        f"[red]{counts.rows_rejected:,}", f"rejected{escape(_see_rejected(counts, output))}"
    )
    for reason, count in counts.rejections.most_common():
        table.add_row(f"[dim]{count:,}", f"[dim]  {reason}")
    table.add_row(f"[bold]{counts.examples:,}", f"examples{_expansion(counts)}")
    table.add_row(f"[bold]{counts.tokens:,}", "tokens")
    table.add_row(f"[green]{counts.supervised_tokens:,}", f"supervised tokens ({share:.1%})")
    if counts.lost.tokens:
        table.add_row(
            f"[yellow]{counts.lost.tokens:,}", lost_to_truncation(counts.lost, counts.tokens)
        )
    for kind, count in counts.findings.most_common():
        table.add_row(f"[yellow]{count:,}", f"{kind}: {FINDINGS.get(kind, '')}")
    return Panel(
        table, title=Text(f"prepared in {output}"), title_align="left", border_style="green"
    )


def lost_to_truncation(lost: Lost, kept: int) -> str:
    """Say what truncation took away besides the tokens, of which so many are kept."""
    share = lost.tokens / (lost.tokens + kept)
    return (
        f"tokens lost to --max-length ({share:.1%}), {lost.supervised_tokens:,} of them supervised;"
        f" turns lost: {lost.turns:,}, whole examples: {lost.examples:,}, replies cut: "
        f"{lost.cut_replies:,}"
    )


def _see_rejected(counts: Counts, output: str) -> str:
    return f": see {output}/rejected.jsonl" if counts.rows_rejected else ""


def _expansion(counts: Counts) -> str:
    more = counts.examples - counts.rows_kept
    if not more:
        return ""
    return (
        f", {more:,} more than rows: the template rewrites earlier turns, and each is trained as "
        "it was generated (--history last for one example a row)"
    )


def progress_bar(*columns: ProgressColumn) -> Progress:
    """Return a bar on standard error, with more columns in the middle."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        *columns,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
