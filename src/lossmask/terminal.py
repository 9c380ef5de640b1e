"""Examples and summaries for a person at a terminal.

In: examples, outcomes, counts. Out: rich renderables; nothing is printed here. Supervised text is
green, a stop token is reversed, everything else dim. Without colour, supervised runs stand between
``⟦`` and ``⟧``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

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
from lossmask.pieces import Piece, pieces_of
from lossmask.preparing import Counts

_TRAINED = ("#06351a on #8fe3b0", "#06351a on #c3f4d6")  # alternating, so that tokens can be told
_STOP = "bold #ffffff on #c2304a"
_OUT = ("grey66", "grey50")
_MARGIN = 12
_CONTROL_PICTURES = {code: 0x2400 + code for code in range(32)} | {0x7F: 0x2421}


def has_colour(console: Console) -> bool:
    """Return whether a console draws colours."""
    return console.color_system is not None and not console.no_color


def show_example(
    example: Example, messages: Sequence[Any], *, number: int, total: int, colour: bool
) -> RenderableType:
    """Draw one example line by line: what is trained, what is not, where each turn stops.

    Args:
        example: The example.
        messages: The conversation, for the roles in the margin.
        number: 1-based number among the examples of the row.
        total: Examples of the row.
        colour: False marks supervised runs with brackets instead.
    """
    share = example.supervised_count / len(example)
    title = (
        f"example {number} of {total}: {len(example)} tokens, "
        f"{example.supervised_count} supervised ({share:.1%})"
    )
    lines = [_draw_line(line, messages, colour) for line in _lines(pieces_of(example))]
    body = Text("\n", overflow="fold", no_wrap=False).join(lines)
    return Group(Rule(Text(title), align="left"), body, Text(), _turn_table(example, messages))


def _lines(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    line: list[Piece] = []
    for piece in pieces:
        line.append(piece)
        if "\n" in piece.text:
            yield line
            line = []
    if line:
        yield line


def _draw_line(line: Sequence[Piece], messages: Sequence[Any], colour: bool) -> Text:
    owner = next((piece.message_index for piece in line if piece.message_index >= 0), None)
    margin = "" if owner is None else f"{owner} {messages[owner]['role']}"
    drawn, inside = Text.assemble((f"{margin:>{_MARGIN}} │ ", "cyan")), False
    for number, piece in enumerate(line):
        if not colour and piece.is_trained != inside:
            drawn.append("⟦" if piece.is_trained else "⟧")
            inside = piece.is_trained
        style = _TRAINED[number % 2] if piece.is_trained else _OUT[number % 2]
        drawn.append(visible(piece.text), _STOP if piece.is_stop else style)
    if inside:
        drawn.append("⟧")
    return drawn


def visible(text: str) -> str:
    """Make white space and control characters visible; nothing can steer the terminal."""
    shown = text.replace("\n", "⏎").replace("\t", "⇥").translate(_CONTROL_PICTURES)
    return "".join(c if c.isprintable() or c == "\u200d" else f"\\u{ord(c):04x}" for c in shown)


def _turn_table(example: Example, messages: Sequence[Any]) -> Table:
    table = Table("message", "role", "trained tokens", "stop token", "supervised text", expand=True)
    spans: dict[int, Span] = {span.message_index: span for span in example.spans}
    shown = max([*spans, int(example.message_index.max())])  # no spans: only prompts are trained
    for index, message in enumerate(messages[: shown + 1]):
        if span := spans.get(index):
            text = example.text[span.start : span.end]
            stop = Text(visible(span.stop), _STOP) if span.stop else Text("none", "yellow")
            count = Text(str(span.token_end - span.token_start), "green")
            table.add_row(str(index), message["role"], count, stop, Text(_shortened(text)))
        else:
            table.add_row(str(index), message["role"], "-", "", "", style="dim")
    notes = [f"{finding.kind}: {visible(finding.detail)}" for finding in example.findings]
    table.caption = Text("\n".join(notes)) if notes else None
    table.caption_justify = "left"
    return table


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
