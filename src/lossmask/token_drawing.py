r"""An example's tokens, drawn on lines that fit a terminal.

In: an example and the messages it is of. Out: a rich renderable::

      0 system │ Be brief.<|im_end|>⏎
               │ <|im_start|>user⏎
        1 user │ Hi<|im_end|>⏎
               │ <|im_start|>assistant⏎
   2 assistant │ ⟦Hello<|im_end|>■⟧⏎

A line of the text begins a line, and goes on below where it is longer. In colour, trained tokens
stand on green, the greener the more they count, on orange where their weight is negative; a stop
token is white on red; what is not trained has the quiet colour of who wrote it. Without colour
trained runs stand in ``⟦ ⟧``, with their weight where it is not 1 (``⟦0.5|…⟧``), and ``■`` follows
a stop token. In both, ``┊`` is where a prompt ends inside what would be one token, and white space
that nobody sees is drawn: ``⏎``, ``⇥``, and ``·`` for spaces at either end of a line or beside
another space. With ids, tokens stand in columns, each above its id.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from lossmask.example import Example
from lossmask.pieces import Piece, pieces_of
from lossmask.token_colours import STOP_COLOURS, colours_of_weight
from lossmask.visible_text import clusters, isolated, on_its_own, visible

STOP_STYLE = f"bold {STOP_COLOURS[0]} on {STOP_COLOURS[1]}"
UNTRAINED_STOP = f"bold {STOP_COLOURS[1]}"
STRADDLE_STYLE = "bold #d08700"
_MARGIN, _WIDEST_MARGIN = 12, 20
_LEAST_WIDTH = 8
_TEMPLATE = ("grey58", "grey46")  # two of each, in turn, so that tokens can be told apart
_OF_ROLE = {
    "system": ("#a48fc4", "#8d78ad"),
    "developer": ("#a48fc4", "#8d78ad"),
    "user": ("#6f9bd8", "#5a84bf"),
    "assistant": ("#6fa08a", "#5b8a75"),
    "tool": ("#c09a4e", "#a5833f"),
}
_OTHER_ROLE = ("#8a9aa0", "#748489")
_UNSEEN = re.compile(r"(?<![^ \n]) | (?![^ \n])")  # spaces beside nothing that is seen


def trained_style(weight: float, turn: int) -> str:
    """Return the style of a trained token of some weight, not 0; see ``colours_of_weight``."""
    ink, ground = colours_of_weight(weight, turn)
    return f"{ink} on {ground}"


def role_style(role: str | None, turn: int = 0) -> str:
    """Return the quiet colour of a role, of the template where it is None."""
    return _TEMPLATE[turn] if role is None else _OF_ROLE.get(role, _OTHER_ROLE)[turn]


@dataclass(frozen=True, slots=True)
class _Segment:
    """Text of one style; ``run`` tells what reads as one, ``ids`` stand below it."""

    text: str
    style: str
    run: int = 0
    ids: str = ""
    is_mark: bool = False


@dataclass(frozen=True, slots=True)
class _Line:
    """Segments behind a margin."""

    owner: int
    segments: list[_Segment] = field(default_factory=list)


class TokenDrawing:
    """Draws the tokens of an example.

    Args:
        example: The example.
        messages: The conversation, for the roles.
        colour: False marks supervised runs with brackets instead.
        ids: Whether token ids stand below the tokens.
    """

    def __init__(
        self,
        example: Example,
        messages: Sequence[Mapping[str, Any]],
        *,
        colour: bool,
        ids: bool = False,
    ) -> None:
        self._example, self._colour, self._ids = example, colour, ids
        self._roles = [visible(str(message["role"])) for message in messages]
        self._unseen = {found.start() for found in _UNSEEN.finditer(example.text)}
        if ids:  # columns have gaps between them
            self._unseen = set(range(len(example.text)))
        self._pieces = pieces_of(example)
        self._turns = {piece.token_start: n % 2 for n, piece in enumerate(self._pieces)}
        kinds = {f.message_index for f in example.findings if f.kind == "boundary_straddle"}
        self._straddles = {s.token_start for s in example.spans if s.message_index in kinds}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        labels = [self._label(line.owner) for line in self._lines()]
        margin = min(max([_MARGIN, *map(cell_len, labels)]), _WIDEST_MARGIN)
        width = max(options.max_width - margin - 3, _LEAST_WIDTH)
        shown = -1
        for line, label in zip(self._lines(), labels, strict=True):
            role = self._roles[line.owner] if 0 <= line.owner < len(self._roles) else None
            name = label if line.owner != shown else ""
            shown = line.owner if line.owner >= 0 else shown
            for segments in _wrapped(line.segments, width, in_columns=self._ids):
                for row in _rows(segments, in_columns=self._ids):
                    bar = (f"{_fitted(name, margin)} │ ", role_style(role))
                    yield Text.assemble(bar, *row, no_wrap=True, overflow="ignore")
                    name = ""

    def _label(self, owner: int) -> str:
        if owner < 0:
            return ""
        return f"{owner} {self._roles[owner]}" if owner < len(self._roles) else str(owner)

    def _lines(self) -> Iterator[_Line]:
        """Yield a line for each line of the text; the owner is who wrote something of it."""
        pieces: list[Piece] = []
        for number, piece in enumerate(self._pieces):
            pieces.append(piece)
            if "\n" in piece.text or number == len(self._pieces) - 1:
                owner = next((p.message_index for p in pieces if p.message_index >= 0), -1)
                yield _Line(owner, list(self._segments(pieces)))
                pieces = []

    def _segments(self, pieces: Sequence[Piece]) -> Iterator[_Segment]:
        """Yield the segments of a line, with a mark at the borders of trained runs."""
        weights, inside, run = self._example.loss_weights, 0.0, 0
        for number, piece in enumerate(pieces):
            weight = float(weights[piece.token_start])
            changes = weight != inside
            if changes and inside and not self._colour:
                yield _Segment("⟧", "", is_mark=True)
            if piece.token_start in self._straddles:
                yield _Segment("┊", STRADDLE_STYLE, is_mark=True)
            if changes and weight and not self._colour:
                amount = "" if weight == 1 else f"{weight:g}|"
                yield _Segment(f"⟦{amount}", "", is_mark=True)
            run += changes or (
                number > 0 and piece.message_index != pieces[number - 1].message_index
            )
            inside = weight
            yield from self._of_piece(piece, weight, run, begins=changes or not number)
            if piece.is_stop and not self._colour:
                yield _Segment("■", "", is_mark=True)
        if inside and not self._colour:
            yield _Segment("⟧", "", is_mark=True)

    def _of_piece(
        self, piece: Piece, weight: float, run: int, *, begins: bool
    ) -> Iterator[_Segment]:
        style = self._style(piece, weight)
        places = enumerate(piece.text, start=piece.start)
        is_unseen = self._unseen.__contains__
        text = visible("".join("·" if c == " " and is_unseen(at) else c for at, c in places))
        text = on_its_own(text) if begins or self._ids else text
        numbers = self._example.input_ids[piece.token_start : piece.token_end].tolist()
        ids = "+".join(map(str, numbers)) if self._ids else ""
        if text or ids:
            yield _Segment(text, style, run, ids)

    def _style(self, piece: Piece, weight: float) -> str:
        turn = self._turns[piece.token_start]
        if piece.is_stop:
            return STOP_STYLE if weight else UNTRAINED_STOP
        if weight:
            return trained_style(weight, turn)
        owner = piece.message_index
        return role_style(self._roles[owner] if 0 <= owner < len(self._roles) else None, turn)


def _fitted(label: str, width: int) -> str:
    """Return a label of a margin, cut or filled up to its width."""
    while cell_len(label) > width:
        label = label[:-2] + "…"
    return " " * (width - cell_len(label)) + label


def _width(segment: _Segment) -> int:
    return max(cell_len(segment.text), len(segment.ids))


def _wrapped(
    segments: Sequence[_Segment], width: int, *, in_columns: bool
) -> Iterator[list[_Segment]]:
    """Yield the segments of each line on the screen; no character is torn apart."""
    line: list[_Segment] = []
    room = width
    for segment in segments:
        gap = 1 if in_columns and line and not segment.is_mark else 0
        if in_columns and line and _width(segment) + gap > room:
            yield line
            line, room, gap = [], width, 0
        rest = ""
        for cluster in clusters(segment.text):
            taken = cell_len(rest + cluster)
            if taken + gap > room and (rest or line):
                if rest:
                    line.append(replace(segment, text=rest))
                    segment = replace(segment, ids="")
                yield line
                line, room, rest, gap = [], width, "", 0
            rest += cluster
        if rest or segment.ids:
            line.append(replace(segment, text=rest))
            room -= _width(line[-1]) + gap
    if line:
        yield line


def _rows(segments: Sequence[_Segment], *, in_columns: bool) -> Iterator[list[tuple[str, str]]]:
    """Yield the styled texts of one line on the screen, and of the line of ids below it."""
    if not in_columns:
        yield list(_isolated_runs(segments))
        return
    above: list[tuple[str, str]] = []
    below: list[tuple[str, str]] = []
    for number, segment in enumerate(segments):
        before, behind = isolated(segment.text)
        if number and not segment.is_mark and not segments[number - 1].text.startswith("⟦"):
            above.append((" ", ""))
            below.append((" ", ""))
        above.append((before + segment.text + behind, segment.style))
        above.append((" " * (_width(segment) - cell_len(segment.text)), ""))
        below.append((segment.ids.ljust(_width(segment)), "dim"))
    yield above
    yield below


def _isolated_runs(segments: Iterable[_Segment]) -> Iterator[tuple[str, str]]:
    """Yield styled texts; what runs from right to left does so within its run alone."""
    run: list[_Segment] = []
    for segment in [*segments, _Segment("", "", is_mark=True)]:
        if run and (segment.is_mark or segment.run != run[0].run):
            before, behind = isolated("".join(each.text for each in run))
            yield before, ""
            yield from ((each.text, each.style) for each in run)
            yield behind, ""
            run = []
        if segment.is_mark:
            yield segment.text, segment.style
        else:
            run.append(segment)
