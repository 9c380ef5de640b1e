"""An example -> a piece of HTML for notebooks.

Static: styles stand on the elements, there is no script and nothing is loaded. Whatever the example
holds is escaped. A long example is cut in the middle, and says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby

from lossmask.example import Example
from lossmask.pieces import Piece, pieces_of
from lossmask.token_colours import STOP_COLOURS, colours_of_weight
from lossmask.visible_text import runs_from_right, visible

_AT_EITHER_END = 400  # pieces that are shown of a longer example
_BOX = (
    "font:13px/1.7 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;white-space:pre-wrap;"
    "overflow-wrap:anywhere;max-height:32em;overflow:auto;padding:.6em .8em;"
    "border:1px solid rgba(128,128,128,.4);border-radius:6px"
)
_TITLE = "font-family:system-ui,sans-serif;margin-bottom:.4em"
_QUIET = "opacity:.62"
_HATCHED = "repeating-linear-gradient(135deg,transparent 0 4px,rgba(74,37,0,.22) 4px 6px)"


def example_html(example: Example) -> str:
    """Draw an example: trained tokens on green, a stop token on red, all else quiet.

    Args:
        example: The example, n tokens.
    """
    count = example.supervised_count
    share = f" ({count / len(example):.1%})" if len(example) else ""
    pieces = list(enumerate(pieces_of(example)))
    left_out = pieces[_AT_EITHER_END:-_AT_EITHER_END]
    drawn = "".join(_runs(example, pieces[:_AT_EITHER_END] if left_out else pieces))
    if left_out:
        tokens = left_out[-1][1].token_end - left_out[0][1].token_start
        note = f"{tokens:,} tokens are left out here"
        drawn += f'<div style="{_TITLE};{_QUIET}">… {note} …</div>'
        drawn += "".join(_runs(example, pieces[-_AT_EITHER_END:]))
    title = f"{len(example):,} tokens, {count:,} supervised{share}"
    return f'<div style="{_BOX}"><div style="{_TITLE}"><b>{title}</b></div>{drawn}</div>'


def _runs(example: Example, pieces: Sequence[tuple[int, Piece]]) -> Iterator[str]:
    """Yield the pieces; a run of text from right to left is isolated from what is around it."""
    for _, run in groupby(pieces, key=lambda each: (each[1].is_trained, each[1].message_index)):
        listed = list(run)
        drawn = "".join(_drawn(example, piece, number % 2) for number, piece in listed)
        text = "".join(piece.text for _, piece in listed)
        yield f"<bdi>{drawn}</bdi>" if runs_from_right(text) else drawn


def _drawn(example: Example, piece: Piece, turn: int) -> str:
    weight = float(example.loss_weights[piece.token_start])
    ids = "+".join(map(str, example.input_ids[piece.token_start : piece.token_end].tolist()))
    author = "template" if piece.message_index < 0 else f"message {piece.message_index}"
    told = f"token {piece.token_start}, id {ids}, {author}, weight {weight:g}"
    shown = escape(visible(piece.text)).replace("⏎", "⏎\n")
    return f'<span style="{_style(piece, weight, turn)}" title="{told}">{shown}</span>'


def _style(piece: Piece, weight: float, turn: int) -> str:
    if not weight:
        return _QUIET
    ink, ground = STOP_COLOURS if piece.is_stop else colours_of_weight(weight, turn)
    hatched = f";background-image:{_HATCHED}" if weight < 0 and not piece.is_stop else ""
    return f"color:{ink};background-color:{ground}{hatched}"
