r"""A :class:`Diff` at a terminal: what became of the rows, then rows with their tokens aligned.

In: a diff. Out: rich renderables; nothing is printed here. Of a row that differs, the line of A
stands above that of B, tokens that stand for each other in the same column, and marks below::

    1 assistant A │ <|im_start|>assistant⏎⟦Hello<|im_end|>⟧⏎
                B │ <|im_start|>assistant⏎⟦Hello⟧<|im_end|>⏎
                  │                              ----------

Lines in which nothing differs are drawn once, or left out. Trained text is green; without colour it
stands between ``⟦`` and ``⟧``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, zip_longest

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from lossmask.diff_words import Sides, counted, sentences
from lossmask.diffing import KINDS, Change, Diff, ExamplePair, RowDiff
from lossmask.example import Example
from lossmask.pieces import Piece, pieces_of
from lossmask.terminal import visible
from lossmask.token_alignment import text_of

__all__ = ["show_diff", "show_legend", "show_row"]

_TRAINED = ("#06351a on #8fe3b0", "#06351a on #c3f4d6")
_STOP = "bold #ffffff on #c2304a"
_OUT = ("grey66", "grey50")
_GAP, _BORDER = "╌", "¦"
_MARGIN = 14
_NARROWEST = 20  # columns of text: below, lines are cut by the terminal rather than by us
_LISTED = 8
_NOT_SHOWN = "not shown (--row draws all of a row)"
_MARKS = {"examples": "!", "text": "!", "ids": "≈", "only_a": "-", "only_b": "+", "weight": "~"}
_MARK_STYLES = {"-": "bold red", "+": "bold green", "±": "bold yellow", "~": "bold yellow"}
_LEGEND = (
    "- in the loss of A only  + of B only  ± of each some  ~ other weight\n"
    "≈ the same text in other tokens, ¦ where one begins  ! other text  ╌ nothing"
)


def show_diff(diff: Diff, sides: Sides) -> RenderableType:
    """Account for every row, and say what differs."""
    names = Table.grid(padding=(0, 2))
    for letter, name, about in (("A", sides.a, sides.about_a), ("B", sides.b, sides.about_b)):
        shown = visible(about if name == letter else f"{name}: {about}")
        names.add_row(Text(letter, "bold cyan"), Text(shown, overflow="fold"))
    parts: list[RenderableType] = [names, Text(), _account(diff, sides)]
    if diff.rows_by_kind:
        parts += [Text(), _kinds(diff)]
    if said := sentences(diff, sides):
        listed = Table.grid(padding=(0, 1))
        for each in said:
            listed.add_row("•", Text(visible(each), overflow="fold"))
        parts += [Text(), listed]
    return Group(*parts)


def _account(diff: Diff, sides: Sides) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    table.add_column(overflow="fold")
    table.add_row(Text(f"{diff.rows:,}", "bold"), "rows")
    table.add_row(Text(f"{diff.same:,}", "green"), "the same on both sides")
    table.add_row(Text(f"{diff.differing:,}", "yellow"), "differ")
    for count, rejecting, rejected in (
        (diff.only_a, sides.b, diff.rejected_b),
        (diff.only_b, sides.a, diff.rejected_a),
    ):
        if rejected:
            table.add_row(Text(f"{count:,}", "red"), Text(f"rejected by {rejecting} only"))
            for reason, tally in rejected.items():
                said = f"  {reason}, first: {visible(tally.first)}"
                table.add_row(Text(f"{tally.rows:,}", "dim"), Text(said, "dim"))
    if diff.neither:
        table.add_row(Text(f"{diff.neither:,}", "red"), "rejected by both")
    for letter, tokens, supervised in zip("AB", diff.tokens, diff.supervised, strict=True):
        share = f"{supervised / tokens:.1%}" if tokens else "none"
        table.add_row(
            Text(f"{supervised:,}", "green"),
            f"of {tokens:,} tokens in the loss of {letter} ({share})",
        )
    return table


def _kinds(diff: Diff) -> Table:
    table = Table("difference", "rows", "tokens", box=None, padding=(0, 2), header_style="dim")
    for column in table.columns[1:]:
        column.justify = "right"
    for kind, words in KINDS.items():
        if rows := diff.rows_by_kind[kind]:
            tokens = diff.tokens_by_kind.get(kind, 0)
            table.add_row(
                Text.assemble((_MARKS[kind], "bold"), " ", words),
                f"{rows:,}",
                f"{tokens:,}" if tokens else "",
            )
    return table


def show_row(
    found: RowDiff, *, colour: bool, width: int, most_lines: int | None = 40
) -> RenderableType:
    """Draw the examples of a row, aligned.

    Args:
        found: The row.
        colour: False marks trained text with brackets.
        width: Columns of the terminal.
        most_lines: Lines of tokens to draw of each example; None: all of them, also those in
            which nothing differs.
    """
    what = "; ".join(KINDS[kind] for kind in found.kinds) or "no difference"
    parts: list[RenderableType] = [
        Rule(Text(visible(found.place)), align="left"),
        Text(what, "dim", overflow="fold"),
    ]
    for number, pair in enumerate(found.pairs, start=1):
        if len(found.pairs) > 1:
            parts.append(Text(_title(number, len(found.pairs), pair), "cyan"))
        room = max(width - _MARGIN - 4, _NARROWEST)
        lines = list(_broken(_cells(pair), room, colour=colour))
        if pair.a is None or pair.b is None:
            parts += _drawn_alone(lines, found.messages, "B" if pair.a is None else "A", most_lines)
        else:
            parts += _drawn(lines, found.messages, most_lines)
        if pair.segments and pair.changes:
            parts.append(_changes(pair, width))
    return Group(*parts)


def show_legend() -> RenderableType:
    """Say what the marks below lines mean."""
    return Text(f"\n{_LEGEND}", "dim", overflow="fold")


def _title(number: int, total: int, pair: ExamplePair) -> str:
    if pair.a is None or pair.b is None:
        side, example = ("A", pair.a) if pair.b is None else ("B", pair.b)
        assert example is not None
        count = counted(example.supervised_count, "token")
        return f"example {number} of {total}: {side} only, {count} in the loss"
    return f"example {number} of {total}"


@dataclass(frozen=True, slots=True)
class _Cell:
    """Text of either side that stands in the same columns, and the mark below it.

    Attributes:
        a: The piece of A that it is of, None where A has nothing.
        b: The same of B.
        a_text: Its text, or a slice of it.
        b_text: The same of B.
        borders: Whether a token of A, of B begins here that is no token of the other side.
    """

    a: Piece | None
    b: Piece | None
    a_text: str
    b_text: str
    mark: str
    borders: tuple[bool, bool] = (False, False)

    @property
    def owner(self) -> int:
        return self.a.message_index if self.a else self.b.message_index if self.b else -1

    @property
    def ends_line(self) -> bool:
        """Whether both sides, as far as they have something here, go on on the next line."""
        texts = [text for text, piece in ((self.a_text, self.a), (self.b_text, self.b)) if piece]
        return all("\n" in text for text in texts)


def _cells(pair: ExamplePair) -> Iterator[_Cell]:
    ours, theirs = _by_token(pair.a), _by_token(pair.b)
    if not pair.segments:
        yield from (_Cell(piece, None, piece.text, "", " ") for piece in ours)
        yield from (_Cell(None, piece, "", piece.text, " ") for piece in theirs)
        return
    marks = {token: _mark(change) for change in pair.changes for token in _tokens_of(change)}
    a_at = b_at = 0
    for segment in pair.segments:
        mine, a_at = _until(ours, a_at, segment.a_end)
        other, b_at = _until(theirs, b_at, segment.b_end)
        texts = ["".join(piece.text for piece in pieces) for pieces in (mine, other)]
        if segment.kind == "tokens" and texts[0] == texts[1] != "":
            mark = marks.get(("a", segment.a_start), _MARKS["ids"])
            yield from _sliced(mine, other, mark)
            continue
        for a, b in zip_longest(mine, other):
            mark = _marked(marks, "a", a) or _marked(marks, "b", b) or " "
            yield _Cell(a, b, a.text if a else "", b.text if b else "", mark)


def _sliced(mine: Sequence[Piece], other: Sequence[Piece], mark: str) -> Iterator[_Cell]:
    """Yield cells of the same text in other tokens, cut where either side has a border."""
    ends = [[*accumulate(len(piece.text) for piece in pieces)] for pieces in (mine, other)]
    i = j = at = 0
    for end in sorted({*ends[0], *ends[1]}):
        while ends[0][i] <= at:
            i += 1
        while ends[1][j] <= at:
            j += 1
        a, b = mine[i], other[j]
        begins = at in ends[0], at in ends[1]
        text = a.text[at - ends[0][i] + len(a.text) :][: end - at]
        yield _Cell(a, b, text, text, mark, begins)
        at = end


def _marked(marks: Mapping[tuple[str, int], str], side: str, piece: Piece | None) -> str:
    """Return the first mark of a piece's tokens."""
    tokens = range(piece.token_start, piece.token_end) if piece else ()
    return next((marks[side, token] for token in tokens if (side, token) in marks), "")


def _by_token(example: Example | None) -> list[Piece]:
    return [] if example is None else pieces_of(example)


def _until(pieces: Sequence[Piece], at: int, end: int) -> tuple[list[Piece], int]:
    behind = at
    while behind < len(pieces) and pieces[behind].token_end <= end:
        behind += 1
    return list(pieces[at:behind]), behind


def _tokens_of(change: Change) -> Iterable[tuple[str, int]]:
    yield from (("a", token) for token in range(change.a_start, change.a_end))
    yield from (("b", token) for token in range(change.b_start, change.b_end))


def _mark(change: Change) -> str:
    kinds = set(change.kinds)
    if {"only_a", "only_b"} <= kinds:
        return "±"
    for kind in ("only_a", "only_b", "weight", "ids"):
        if kind in kinds:
            return _MARKS[kind]
    return "!"


@dataclass(slots=True)
class _Line:
    a: Text
    b: Text
    marks: Text
    owner: int = -1

    @property
    def differs(self) -> bool:
        return bool(self.marks.plain.strip())


def _broken(cells: Iterable[_Cell], room: int, *, colour: bool) -> Iterator[_Line]:
    """Yield lines that fit, broken behind line feeds; brackets close at their ends."""
    line, used, inside = _Line(Text(), Text(), Text()), 0, [False, False]
    for cell in cells:
        wanted = [piece is not None and piece.is_trained for piece in (cell.a, cell.b)]
        slices = (_slices(visible(text), room - 4) for text in (cell.a_text, cell.b_text))
        for first, second in zip_longest(*slices):
            texts = first or "", second or ""
            width = max(map(cell_len, texts), default=0)
            if used and used + width + 4 > room:
                yield _closed(line, inside)
                line, used, inside = _Line(Text(), Text(), Text()), 0, [False, False]
            if not colour:
                used += _borders(line, cell) + _brackets(line, inside, wanted)
            used += width
            line.owner = cell.owner if line.owner < 0 else line.owner
            _append(line.a, texts[0], width, _style(cell, cell.a))
            _append(line.b, texts[1], width, _style(cell, cell.b))
            line.marks.append(cell.mark * width, _MARK_STYLES.get(cell.mark, "bold cyan"))
        if cell.ends_line:
            yield _closed(line, inside)
            line, used, inside = _Line(Text(), Text(), Text()), 0, [False, False]
    if used:
        yield _closed(line, inside)


def _borders(line: _Line, cell: _Cell) -> int:
    """Draw where tokens begin that the other side does not have; return the columns taken."""
    if cell.borders[0] == cell.borders[1]:
        return 0
    for text, begins in zip((line.a, line.b), cell.borders, strict=True):
        text.append(_BORDER if begins else _GAP, "dim")
    line.marks.append(" ")
    return 1


def _slices(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)] or [""]


def _brackets(line: _Line, inside: list[bool], wanted: Sequence[bool]) -> int:
    """Open and close brackets where trained text begins and ends; return the columns taken."""
    if list(wanted) == inside:
        return 0
    for text, was, is_trained in zip((line.a, line.b), inside, wanted, strict=True):
        if was == is_trained:
            text.append(_GAP, "dim")
        else:
            text.append("⟦" if is_trained else "⟧")
    line.marks.append(" ")
    inside[:] = wanted
    return 1


def _closed(line: _Line, inside: Sequence[bool]) -> _Line:
    for text, is_open in zip((line.a, line.b), inside, strict=True):
        text.append("⟧" if is_open else "")
    return line


def _append(line: Text, text: str, width: int, style: str) -> None:
    line.append(text, style)
    line.append(_GAP * (width - cell_len(text)), "dim")


def _style(cell: _Cell, piece: Piece | None) -> str:
    """Return how a piece is drawn; that it is a stop token may be known of the other side only."""
    if piece is None:
        return "dim"
    if not piece.is_trained:
        return _OUT[piece.token_start % 2]
    is_stop = any(each is not None and each.is_stop for each in (cell.a, cell.b))
    return _STOP if is_stop else _TRAINED[piece.token_start % 2]


def _drawn(
    lines: Sequence[_Line],
    messages: Sequence[Mapping[str, object]],
    most: int | None,
) -> list[RenderableType]:
    """Return lines with their margins, those that differ and the ones beside them."""
    near = {k + step for k, line in enumerate(lines) if line.differs for step in (-1, 0, 1)}
    wanted = [k for k in range(len(lines)) if most is None or k in near]
    shown = wanted if most is None else wanted[:most]
    drawn: list[RenderableType] = []
    last = -1
    for k in shown:
        if k > last + 1:
            drawn.append(_left_out(k - last - 1, "alike"))
        drawn += _with_margin(lines[k], messages)
        last = k
    if left := len(wanted) - len(shown):
        drawn.append(_left_out(left, _NOT_SHOWN))
    elif last + 1 < len(lines):
        drawn.append(_left_out(len(lines) - last - 1, "alike"))
    return drawn


def _left_out(count: int, why: str) -> Text:
    return Text(f"{'':>{_MARGIN}} ⋮ {counted(count, 'line')} {why}", "dim")


def _drawn_alone(
    lines: Sequence[_Line],
    messages: Sequence[Mapping[str, object]],
    side: str,
    most: int | None,
) -> list[RenderableType]:
    """Return the lines of an example that only one side has."""
    drawn: list[RenderableType] = [
        _row_of(_role(line, messages), side, line.a if side == "A" else line.b)
        for line in lines[:most]
    ]
    if most is not None and len(lines) > most:
        drawn.append(_left_out(len(lines) - most, _NOT_SHOWN))
    return drawn


def _role(line: _Line, messages: Sequence[Mapping[str, object]]) -> str:
    if line.owner < 0:
        return ""
    known = line.owner < len(messages)
    return f"{line.owner} {messages[line.owner]['role'] if known else 'message'}"


def _with_margin(line: _Line, messages: Sequence[Mapping[str, object]]) -> Iterator[Text]:
    role = _role(line, messages)
    if not line.differs:
        yield _row_of(role, " ", line.a)
        return
    yield _row_of(role, "A", line.a)
    yield _row_of("", "B", line.b)
    line.marks.rstrip()
    yield _row_of("", " ", line.marks)


def _row_of(role: str, side: str, text: Text) -> Text:
    margin = Text(f"{visible(role)[: _MARGIN - 2]:>{_MARGIN - 2}} ", "cyan")
    drawn = Text.assemble(margin, (side, "bold cyan"), (" │ ", "cyan"), text)
    drawn.no_wrap, drawn.overflow = True, "ignore"
    return drawn


def _changes(pair: ExamplePair, width: int) -> Table:
    """Return a table of the changes; with weights, where there are others than 0 and 1."""
    weights = [_weights(pair, change) for change in pair.changes]
    plain = {"1", "0", "0 → 1", "1 → 0", ""}
    columns = ["A", "B", "", "what", *(["weight"] if set(weights) - plain else []), "text"]
    table = Table(*columns, box=None, padding=(0, 1), header_style="dim")
    table.columns[-1].overflow = "fold"
    for change, weight in zip(pair.changes[:_LISTED], weights, strict=False):
        cells: list[str | Text] = [
            _range(change.a_start, change.a_end),
            _range(change.b_start, change.b_end),
            Text(_mark(change), _MARK_STYLES.get(_mark(change), "bold cyan")),
            Text(change.place),
            *([weight] if "weight" in columns else []),
            Text(_texts(pair, change, max(width // 2 - 4, 16))),
        ]
        table.add_row(*cells)
    if (more := len(pair.changes) - _LISTED) > 0:
        table.caption = f"and {counted(more, 'change')} more: --json FILE lists them all"
        table.caption_justify = "left"
    return table


def _weights(pair: ExamplePair, change: Change) -> str:
    """Say which weights tokens have in A and in B."""
    told = []
    for example, start, end in (
        (pair.a, change.a_start, change.a_end),
        (pair.b, change.b_start, change.b_end),
    ):
        found = [] if example is None else example.loss_weights[start:end].tolist()
        told.append(", ".join(f"{weight:g}" for weight in dict.fromkeys(found)))
    return told[0] if told[0] == told[1] else " → ".join(filter(None, told))


def _range(start: int, end: int) -> str:
    if start == end:
        return ""
    return f"{start}" if end == start + 1 else f"{start}-{end - 1}"


def _texts(pair: ExamplePair, change: Change, most: int) -> str:
    a = "" if pair.a is None else text_of(pair.a, change.a_start, change.a_end)
    b = "" if pair.b is None else text_of(pair.b, change.b_start, change.b_end)
    shown = [_shortened(visible(text), most) for text in (a, b)]
    return shown[0] if a == b or not b else shown[1] if not a else f"{shown[0]} → {shown[1]}"


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 2 :]}"
