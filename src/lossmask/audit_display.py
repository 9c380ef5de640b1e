"""An audit as rich text."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from lossmask.auditing import Audit, Tally, by_rows
from lossmask.explanations import FINDINGS, REASONS
from lossmask.terminal import lost_to_truncation, visible


def show_audit(audit: Audit, *, is_proved: bool) -> RenderableType:
    """Draw an audit: the account of the rows, what was found, what was refused.

    Args:
        audit: The audit.
        is_proved: Whether every row was held against perturbation, too.
    """
    parts: list[RenderableType] = [_account(audit, is_proved)]
    if audit.findings:
        parts.append(_tallies("finding", audit.findings, audit.rows_in, FINDINGS, "yellow"))
    if audit.rejections:
        parts.append(_tallies("rejected", audit.rejections, audit.rows_in, REASONS, "red"))
    return Group(*parts)


def _account(audit: Audit, is_proved: bool) -> RenderableType:
    share = audit.supervised_tokens / max(audit.tokens, 1)
    repeated = audit.repeated_tokens / max(audit.tokens, 1)
    stopped = audit.turns - audit.turns_without_stop
    lines = [
        ("bold", audit.rows_in, "rows in"),
        ("green", audit.rows_kept, "kept"),
        ("red", audit.rows_rejected, "rejected"),
        ("bold", audit.examples, f"examples; {audit.rows_expanded:,} rows became more than one"),
        ("bold", audit.tokens, "tokens"),
        ("green", audit.supervised_tokens, f"supervised ({share:.1%})"),
        ("yellow", audit.repeated_tokens, f"context repeated by --history expand ({repeated:.1%})"),
        ("bold", audit.turns, f"supervised turns; {stopped:,} end with a stop token"),
    ]
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    table.add_column()
    for style, number, what in lines:
        table.add_row(f"[{style}]{number:,}", what)
    if audit.lost.tokens:
        table.add_row(
            f"[yellow]{audit.lost.tokens:,}", lost_to_truncation(audit.lost, audit.tokens)
        )
    if is_proved:
        table.add_row(
            f"[green]{audit.rows_kept:,}", "rows proved: perturbation agrees with every origin"
        )
    return Panel(table, title="audit", title_align="left", border_style="green")


def _tallies(
    title: str, tallies: dict[str, Tally], rows_in: int, meanings: dict[str, str], style: str
) -> RenderableType:
    table = Table("rows", "share", "count", title, expand=True)
    for column in table.columns[:3]:
        column.justify = "right"
    for kind, tally in by_rows(tallies):
        text = Text(kind, style)
        text.append(f"  {meanings.get(kind, '')}", "default")
        for place in tally.places:
            text.append(f"\n{visible(place)}", "dim")
        share = f"{tally.rows / rows_in:.1%}"
        table.add_row(f"{tally.rows:,}", share, f"{tally.count:,}", text)
    return table
