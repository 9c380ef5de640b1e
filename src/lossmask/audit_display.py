"""An audit as rich text: the verdict, what was found with what to do, then statistics.

In: an audit. Out: rich renderables; nothing is printed here. All text of the data is made visible,
so that nothing of it is read as markup or steers the terminal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from lossmask.audit_statistics import summarised
from lossmask.auditing import Audit
from lossmask.diagnosis import Diagnosis
from lossmask.severities import FOUND, REJECTED, SEVERITIES, Advice, Severity
from lossmask.tallies import Tally, worst_first
from lossmask.terminal import lost_to_truncation, visible

_STYLES: dict[Severity, tuple[str, str]] = {
    "error": ("✗", "bold red"),
    "warning": ("▲", "yellow"),
    "note": ("·", "cyan"),
}
_SOURCES_SHOWN = 8
_FACTS_SHOWN = 6
_BAR = 24
_COLUMNS = ("min", "p5", "p50", "p95", "p99", "max", "mean")


def show_audit(
    audit: Audit, *, is_proved: bool = False, template: Diagnosis | None = None
) -> RenderableType:
    """Draw an audit: the account of the rows, what was found, the worst first, and statistics.

    Args:
        audit: The audit.
        is_proved: Whether every row was held against perturbation, too.
        template: What is known of the template in use, None if it was not looked at.
    """
    parts: list[RenderableType] = [_account(audit, is_proved)]
    parts += _found(audit)
    if template is not None and (facts := template.at_least("warning")):
        parts += [Text(), _heading("template", f"{len(facts)} of its traits need care")]
        for fact in facts[:_FACTS_SHOWN]:
            severity: Severity = "error" if fact.verdict == "error" else "warning"
            sign, style = _STYLES[severity]
            parts.append(_item(Text(sign, style), Text(visible(fact.sentence))))
        more = len(facts) - _FACTS_SHOWN
        rest = f"{more} more; " if more > 0 else ""
        parts.append(_item(Text(), Text(f"{rest}all of it: lossmask doctor", "dim")))
    if audit.examples:
        parts += [Text(), *_statistics(audit)]
    if audit.not_told:
        parts += [Text(), _heading("not told", "what cannot be said of this input")]
        parts += [_item(Text("·", "dim"), Text(each, "dim")) for each in audit.not_told]
    return Group(*parts)


def _account(audit: Audit, is_proved: bool) -> RenderableType:
    share = audit.supervised_tokens / max(audit.tokens, 1)
    stopped = audit.turns - audit.turns_without_stop
    expanded = f"; {audit.rows_expanded:,} rows became more than one" if audit.rows_expanded else ""
    lines = [
        ("bold", audit.rows_in, "rows in"),
        ("green", audit.rows_kept, "kept"),
        ("red" if audit.rows_rejected else "default", audit.rows_rejected, "rejected"),
        ("bold", audit.examples, f"examples{expanded}"),
        ("bold", audit.tokens, "tokens"),
        ("green", audit.supervised_tokens, f"supervised ({share:.1%})"),
        ("bold", audit.turns, f"supervised turns; {stopped:,} end with a stop token"),
    ]
    if audit.repeated_tokens:
        repeated = audit.repeated_tokens / max(audit.tokens, 1)
        lines.append(
            (
                "yellow",
                audit.repeated_tokens,
                f"context repeated by --history expand ({repeated:.1%})",
            )
        )
    if audit.lost.tokens:
        lines.append(("yellow", audit.lost.tokens, lost_to_truncation(audit.lost, audit.tokens)))
    if is_proved:
        lines.append(
            ("green", audit.rows_kept, "rows proved: perturbation agrees with every origin")
        )
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for style, number, what in lines:
        table.add_row(Text(f"{number:,}", style), Text(what))
    worst = audit.worst
    style = "green" if worst in (None, "note") else _STYLES[worst][1]
    return Panel(
        table, title=_verdict(audit), title_align="left", border_style=style, padding=(0, 1)
    )


def _verdict(audit: Audit) -> Text:
    counts = Counter(FOUND[kind].severity for kind in audit.findings)
    counts.update(REJECTED[reason].severity for reason in audit.rejections)
    if not counts:
        return Text("audit: nothing found", "bold green")
    title = Text("audit: ", "bold")
    listed = [
        Text(f"{counts[severity]} {severity}{'s' if counts[severity] > 1 else ''}", style)
        for severity in SEVERITIES
        if counts[severity]
        for style in [_STYLES[severity][1]]
    ]
    return title + Text(", ").join(listed)


def _found(audit: Audit) -> Iterator[RenderableType]:
    """Yield what was found by severity, of each the rejections first."""
    for severity in SEVERITIES:
        rejected = _of(severity, audit.rejections, REJECTED)
        found = _of(severity, audit.findings, FOUND)
        for is_rejected, kind, tally, advice in [
            *((True, *each) for each in rejected),
            *((False, *each) for each in found),
        ]:
            yield Text()
            yield _finding(kind, tally, advice, audit.rows_in, is_rejected=is_rejected)


def _of(
    severity: Severity, tallies: Mapping[str, Tally], known: Mapping[str, Advice]
) -> list[tuple[str, Tally, Advice]]:
    return [
        (kind, tally, known[kind])
        for kind, tally in worst_first(tallies, known)
        if known[kind].severity == severity
    ]


def _finding(
    kind: str, tally: Tally, advice: Advice, rows_in: int, *, is_rejected: bool
) -> RenderableType:
    sign, style = _STYLES[advice.severity]
    head = Text(kind, style)
    head.append(f"  {advice.severity}", "dim")
    head.append(f"  {_how_many(tally, rows_in, is_rejected=is_rejected)}", "default")
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("effect", Text(advice.effect))
    table.add_row("fix", Text(advice.fix, "green"))
    for number, each in enumerate(tally.instances):
        table.add_row("" if number else "where", Text(visible(str(each)), "dim"))
    return _item(Text(sign, style), Group(head, Text(advice.meaning), table))


def _how_many(tally: Tally, rows_in: int, *, is_rejected: bool) -> str:
    what = "rejected " if is_rejected else ""
    if tally.rows is None:
        return f"{tally.count:,} times"
    share = f"{tally.rows / max(rows_in, 1):.1%}"
    rows = f"{tally.rows:,} {what}row{'' if tally.rows == 1 else 's'} ({share})"
    return rows if tally.count <= tally.rows else f"{rows}, {tally.count:,} times"


def _item(sign: Text, body: RenderableType) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=1)
    table.add_column(overflow="fold")
    table.add_row(sign, body)
    return Padding(table, (0, 1))


def _heading(title: str, says: str) -> RenderableType:
    return Rule(Text.assemble((title, "bold"), f": {says}"), align="left", style="dim")


def _statistics(audit: Audit) -> Iterator[RenderableType]:
    statistics = audit.statistics
    yield _heading("statistics", f"{audit.examples:,} examples")
    table = Table(
        "of an example",
        *_COLUMNS,
        box=None,
        padding=(0, 1),
        header_style="dim",
    )
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for name, counted in (
        ("tokens", statistics.lengths),
        ("supervised", statistics.supervised),
        ("turns", statistics.turns),
    ):
        numbers = summarised(counted)
        table.add_row(name, *(f"{numbers[column]:,.{_digits(column)}f}" for column in _COLUMNS))
    shares = summarised(statistics.shares)
    table.add_row("share", *(f"{shares[column] / 1000:.1%}" for column in _COLUMNS))
    yield table
    yield Text()
    yield _parts(audit)
    if audit.stop_rate is not None:
        yield Text()
        style = "green" if audit.stop_rate == 1 else "yellow"
        yield Text.assemble(
            " ", (f"{audit.stop_rate:.1%}", style), " of supervised turns train their stop token"
        )
    if len(statistics.sources) > 1:
        yield Text()
        yield _sources(audit)


def _digits(column: str) -> int:
    return 1 if column == "mean" else 0


def _parts(audit: Audit) -> Table:
    table = Table("part", "tokens", "share", "supervised", "", box=None, padding=(0, 1))
    table.header_style = "dim"
    for column in table.columns[1:4]:
        column.justify, column.no_wrap = "right", True
    total = max(audit.tokens, 1)
    for part, counts in audit.statistics.by_part().items():
        tokens, supervised = counts["tokens"], counts["supervised_tokens"]
        if tokens:
            width = max(round(_BAR * tokens / total), 1)
            trained = round(width * supervised / tokens)
            bar = Text("█" * trained, "green") + Text("░" * (width - trained), "dim")
            share = f"{tokens / total:.1%}"
            table.add_row(part, f"{tokens:,}", share, f"{supervised:,}", bar)
    return table


def _sources(audit: Audit) -> Table:
    table = Table("source", "rows", "kept", "examples", "tokens", "supervised", box=None)
    table.header_style, table.padding = "dim", (0, 1)
    table.columns[0].overflow = "fold"
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    listed = audit.statistics.by_source()
    for name, source in listed[:_SOURCES_SHOWN]:
        share = source.supervised_tokens / max(source.tokens, 1)
        numbers = (source.rows, source.rows_kept, source.examples, source.tokens)
        table.add_row(Text(visible(name)), *(f"{n:,}" for n in numbers), f"{share:.1%}")
    if (more := len(listed) - _SOURCES_SHOWN) > 0:
        table.add_row(Text(f"{more:,} more: --json", "dim"))
    return table
