"""A probe for a person at a terminal: findings and examples in, rich renderables out.

The deeper a token's colour, the higher its loss, from green to red. Without colour a bar below each
token is as high as its loss::

    12 │ billing | urgent | phone<|im_end|>
       │ ████▂▂▂▁▁▇▇▇▇▇▇▁▁▅▅▅▅▅▅▁▁▁▁▁▁▁▁▁▁
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from lossmask.example import Example
from lossmask.learned_tokens import CARRIED, Findings, PartLoss, TokenKind, ignore_setting
from lossmask.pieces import Piece, pieces_of
from lossmask.probed_tokens import ProbedTokens
from lossmask.token_text import TokenTexts
from lossmask.visible_text import visible

__all__ = [
    "LEVELS",
    "show_findings",
    "show_probed_example",
    "show_spread",
    "show_surprises",
    "spread_of",
]

LEVELS = (0.05, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Losses in nats at which the next colour begins."""
_STYLES = (
    "#0a4021 on #a6e5be",
    "#33461a on #dcecab",
    "#4d4413 on #faeaa0",
    "#56330f on #fbc884",
    "#5a1f12 on #f69c78",
    "#ffffff on #d9533f",
    "#ffffff on #a01230",
)
_BARS = "▁▂▃▄▅▆▇"  # as many as there are levels between and around LEVELS
_OUT = "grey50"
_MARGIN = 4
_CONTEXT_LINES = 2
_ROWS = 12


def show_findings(
    findings: Findings,
    texts: TokenTexts,
    policy: Mapping[str, Any] | None = None,
    *,
    before: Findings | None = None,
) -> RenderableType:
    """Draw what a probe found: the loss by part, what is learned at once, what carries the loss.

    Args:
        findings: What was found.
        texts: What tokens spell.
        policy: Of the prepared data.
        before: What was found with another model on the same tokens.
    """
    learned, carrying = _learned(findings, texts, policy or {}), _carrying(findings, texts)
    return Group(_parts_table(findings, before), *learned, *carrying)


def _heading(text: str) -> RenderableType:
    return Group(Text(), Rule(Text(text, "bold"), align="left", style="grey50"))


def _parts_table(findings: Findings, before: Findings | None) -> Table:
    if before is None:
        table = _table("part", "tokens", "loss", "ranked first")
    else:
        table = _table("part", "tokens", "loss before", "loss", "first before", "ranked first")
    whole = PartLoss(findings.tokens, findings.loss, findings.first)
    for name, part in [*findings.parts.items(), ("all in the loss", whole)]:
        earlier: PartLoss | Findings | None = None
        if before is not None:
            earlier = before if part is whole else before.parts[name]
        losses = [f"{each.loss:.4f}" for each in (earlier, part) if each is not None]
        firsts = [f"{each.first:.1%}" for each in (earlier, part) if each is not None]
        style = "bold" if part is whole else ""
        table.add_row(name, f"{part.tokens:,}", *losses, *firsts, style=style)
    return table


def _learned(
    findings: Findings, texts: TokenTexts, policy: Mapping[str, Any]
) -> Iterator[RenderableType]:
    criterion = findings.criterion
    rule = (
        f"mean loss below {criterion.mean_loss:g}, ranked first in at least "
        f"{criterion.first:.0%} of at least {criterion.count} places"
    )
    yield _heading("learned at once")
    yield Text(rule, "grey50")
    if not findings.learned:
        yield Text("No token of the data is: nothing to ignore.")
        return
    yield _kinds_table(findings.learned[:_ROWS], texts)
    yield from _more(len(findings.learned))
    share = findings.learned_tokens / findings.tokens
    text = Text.assemble(
        "These are ",
        (f"{share:.1%}", "bold green"),
        " of the tokens in the loss and have ",
        (f"{findings.learned_loss_share:.1%}", "bold green"),
        " of it. The loss is ",
        (f"{findings.loss:.4f}", "bold"),
        " with them",
    )
    if findings.loss_without is None:
        yield text.append(", and there are no others.")
    else:
        yield (
            text.append(" and ").append(f"{findings.loss_without:.4f}", "bold").append(" without.")
        )
    setting = ignore_setting(findings.learned, policy)
    if setting is not None:
        chance = policy.get("ignore_probability", 0.8)
        yield Text(f"To leave each of them out by chance ({chance:.0%}), prepare the data with")
        yield Text(f"  -p {shlex.quote(setting)}", "bold cyan", overflow="fold")
    if any(kind.is_stop for kind in findings.learned):
        yield Text(
            "A stop token is among them. Ignored by chance it stays in the loss now and then, "
            "which keeps the model stopping.",
            "grey50",
        )


def _carrying(findings: Findings, texts: TokenTexts) -> Iterator[RenderableType]:
    yield _heading("carry the loss")
    yield Text(
        f"{CARRIED:.0%} of the loss is that of {len(findings.carrying):,} of "
        f"{findings.carrying_kinds_of:,} kinds of tokens; place by place, of "
        f"{findings.carried_by:.1%} of the tokens",
        "grey50",
    )
    yield _kinds_table(findings.carrying[:_ROWS], texts, shares=True)
    yield from _more(len(findings.carrying))


def _more(count: int) -> Iterator[Text]:
    if count > _ROWS:
        yield Text(f"and {count - _ROWS:,} more; --json FILE has them all", "grey50")


def _kinds_table(kinds: Sequence[TokenKind], texts: TokenTexts, *, shares: bool = False) -> Table:
    table = _table("token", "id", "places", "mean loss", "ranked first", "of the loss", "")
    most = max((kind.loss_share for kind in kinds), default=0) or 1
    for kind in kinds:
        bar = "█" * round(kind.loss_share / most * 14) if shares else ""
        note = Text("stop token", "grey50") if kind.is_stop and not shares else Text(bar, "red")
        table.add_row(
            Text.assemble((_quoted(texts.text_of(kind.token)), _style_of(kind.mean_loss))),
            str(kind.token),
            f"{kind.count:,}",
            f"{kind.mean_loss:.4f}",
            f"{kind.first:.1%}",
            f"{kind.loss_share:.1%}",
            note,
        )
    return table


def _table(*headers: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="grey50")
    for header in headers:
        is_number = header not in ("token", "part", "", "context", "predicted")
        table.add_column(
            header, justify="right" if is_number else "left", no_wrap=True, overflow="ellipsis"
        )
    return table


def level_of(loss: float) -> int:
    """Return which colour a loss has, 0 for the lowest."""
    return int(np.searchsorted(LEVELS, loss, side="right"))


def _quoted(text: str, width: int = 24) -> str:
    """Return a token so that the white space at its ends is seen."""
    shown = visible(text)
    if shown[:1] == " " or shown[-1:] == " ":
        shown = shown.replace(" ", "·")
    return shown if len(shown) <= width else f"{shown[: width - 1]}…"


def show_spread(probed: ProbedTokens, *, width: int, colour: bool) -> RenderableType:
    """Draw which share of the tokens, and of the loss, has which loss, and explain the colours.

    Args:
        probed: The tokens; those not in the loss are left out.
        width: Cells of a line.
        colour: False draws bars of different height instead.
    """
    legend = Text(f"{'nats':<8}", "grey50")
    lower = ["0", *(f"{level:g}" for level in LEVELS)]
    for level, low in enumerate(lower):
        legend.append(f" {low}+ " if colour else f"{_BARS[level]} {low}+  ", _style(level, colour))
    lines = [
        _stacked(name, values, width - 8, colour)
        for name, values in zip(("tokens", "loss"), spread_of(probed), strict=True)
    ]
    return Group(*lines, legend, Text())


def spread_of(probed: ProbedTokens) -> tuple[list[float], list[float]]:
    """Return how many tokens in the loss there are of each level, and the sum of their loss."""
    tokens = probed.taken(probed.weight != 0)
    level = np.searchsorted(LEVELS, tokens.loss, side="right")
    sizes = np.abs(tokens.weight.astype(np.float64)) * tokens.loss
    counts, sums = (
        np.bincount(level, values, minlength=len(LEVELS) + 1).tolist() for values in (None, sizes)
    )
    return counts, sums


def _stacked(name: str, values: Sequence[float], width: int, colour: bool) -> Text:
    """Draw the shares of a whole end to end."""
    ends = np.round(np.cumsum([0, *values]) / (sum(values) or 1) * width).astype(int).tolist()
    drawn = Text(f"{name:<8}", "grey50")
    for level, (start, end) in enumerate(pairwise(ends)):
        label = f"{values[level] / (sum(values) or 1):.0%}" if colour else ""
        fits = label if len(label) + 2 <= end - start else ""
        fill = " " if colour else _BARS[level]
        drawn.append(f"{fits:{fill}^{end - start}}" if end > start else "", _style(level, colour))
    return drawn


def _style(level: int, colour: bool) -> str:
    return _STYLES[level] if colour else ""


def show_surprises(
    probed: ProbedTokens,
    spelled: Callable[[int], Example],
    texts: TokenTexts,
    *,
    count: int = 8,
) -> RenderableType:
    """Draw the tokens in the loss that the model expected least, and what it expected instead.

    Args:
        probed: The tokens.
        spelled: The number of an example -> the example with its text.
        texts: What tokens spell.
        count: How many.
    """
    in_loss = probed.taken(probed.weight != 0)
    order = np.lexsort((in_loss.position, in_loss.example, -in_loss.loss))[:count]
    table = _table("example", "place", "context", "loss", "rank", "predicted")
    for place in order.tolist():
        token = in_loss.taken(slice(place, place + 1))
        example, position = int(token.example[0]), int(token.position[0])
        table.add_row(
            f"{example:,}",
            f"{position:,}",
            _context(spelled(example), position, float(token.loss[0])),
            f"{token.loss[0]:.2f}",
            f"{token.rank[0]:,}",
            _predictions(token, texts, 2),
        )
    return Group(_heading("greatest surprises"), table)


def _context(example: Example, position: int, loss: float, before: int = 16) -> Text:
    start, end = example.offsets[position].tolist()
    left = visible(example.text[max(0, start - before) : start])
    return Text.assemble(
        (f"{left:>{before}}", _OUT), (_quoted(example.text[start:end], 14), _style_of(loss))
    )


def _style_of(loss: float) -> str:
    return _STYLES[level_of(loss)]


def _predictions(token: ProbedTokens, texts: TokenTexts, count: int) -> Text:
    shown = Text()
    for guess, logprob in zip(
        token.top_ids[0, :count].tolist(), token.top_logprobs[0, :count].tolist(), strict=True
    ):
        shown.append(_quoted(texts.text_of(guess), 12)).append(
            f" {np.exp(logprob):.0%}  ", "grey50"
        )
    return shown


@dataclass(frozen=True, slots=True)
class _Cell:
    """A piece of a line as it is drawn: its text, and the loss of its worst token, if known."""

    text: str
    loss: float | None
    is_stop: bool


def show_probed_example(
    example: Example, probed: ProbedTokens, *, number: int, row: int, width: int, colour: bool
) -> RenderableType:
    """Draw an example line by line, each token by its loss.

    Lines in which no token was looked at are left out, but for the last two before one that was.

    Args:
        example: With its text.
        probed: Its tokens.
        number: Of the example.
        row: The input row that it came from.
        width: Cells of a line.
        colour: False draws a bar below each token instead.
    """
    losses = dict(zip(probed.position.tolist(), probed.loss.tolist(), strict=True))
    mean = f"{np.mean(probed.loss):.4f}" if len(probed) else "-"
    title = (
        f"example {number:,} (input row {row:,}): {len(probed):,} of {len(example):,} tokens "
        f"predicted, mean loss {mean}"
    )
    drawn: list[Text] = []
    for owner, cells, left_out in _lines(example, losses):
        if left_out:
            drawn.append(Text(f"{'':>{_MARGIN}} ┆ {left_out}", "grey39"))
        drawn += _draw_line(owner, cells, width - _MARGIN - 3, colour)
    return Group(_heading(title), *drawn)


def _lines(example: Example, losses: Mapping[int, float]) -> Iterator[tuple[str, list[_Cell], str]]:
    """Yield the lines of an example: who wrote it, its cells, and what was left out before it."""
    waiting: list[tuple[str, list[_Cell], int]] = []
    for pieces in _split(pieces_of(example)):
        owner = next((each.message_index for each in pieces if each.message_index >= 0), None)
        cells = [_cell(piece, losses) for piece in pieces]
        tokens = pieces[-1].token_end - pieces[0].token_start
        waiting.append(("" if owner is None else str(owner), cells, tokens))
        if any(cell.loss is not None for cell in cells):
            hidden, shown = waiting[: -_CONTEXT_LINES - 1], waiting[-_CONTEXT_LINES - 1 :]
            note = _left_out(hidden)
            for name, line, _ in shown:
                yield name, line, note
                note = ""
            waiting = []
    if waiting:
        yield "", [], _left_out(waiting)


def _left_out(lines: Sequence[tuple[str, list[_Cell], int]]) -> str:
    tokens = sum(count for *_, count in lines)
    return f"{tokens:,} tokens that were not looked at" if tokens else ""


def _split(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    line: list[Piece] = []
    for piece in pieces:
        line.append(piece)
        if "\n" in piece.text:
            yield line
            line = []
    if line:
        yield line


def _cell(piece: Piece, losses: Mapping[int, float]) -> _Cell:
    known = [losses[at] for at in range(piece.token_start, piece.token_end) if at in losses]
    return _Cell(visible(piece.text), max(known) if known else None, piece.is_stop)


def _draw_line(owner: str, cells: Sequence[_Cell], width: int, colour: bool) -> Iterator[Text]:
    """Draw a line, wrapped to the width; without colour each with its bars below."""
    margin = (f"{owner:>{_MARGIN}} │ ", "cyan")
    text, bars, used = Text.assemble(margin), "", 0
    for cell in cells:
        style = _OUT if cell.loss is None else _style(level_of(cell.loss), colour)
        bar = " " if cell.loss is None else _BARS[level_of(cell.loss)]
        if cell.is_stop and cell.loss is not None:
            style += " bold underline"
        for fitting in _fitting(cell.text, width, used):
            if fitting is None:
                yield from _finished(text, bars, colour)
                text, bars, used = Text.assemble((f"{'':>{_MARGIN}} │ ", "cyan")), "", 0
            else:
                text.append(fitting, style)
                bars += bar * cell_len(fitting)
                used += cell_len(fitting)
    if cells:
        yield from _finished(text, bars, colour)


def _fitting(text: str, width: int, used: int) -> Iterator[str | None]:
    """Yield what of a text fits on the line, None where the next line begins, and so on."""
    start = 0
    for place, character in enumerate(text):
        size = cell_len(character)
        if used + size > width:
            yield text[start:place]
            yield None
            start, used = place, 0
        used += size
    yield text[start:]


def _finished(text: Text, bars: str, colour: bool) -> Iterator[Text]:
    yield text
    if not colour and bars.strip():
        yield Text(f"{'':>{_MARGIN}} │ {bars.rstrip()}")
