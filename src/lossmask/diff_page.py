"""A :class:`Diff` -> one self-contained HTML page: rows side by side, tokens that differ outlined.

In: a diff with the rows to draw. Out: the page; ``assets/web/diff.js`` draws its data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from lossmask.diff_words import Sides, change_mapping, diff_mapping
from lossmask.diffing import KINDS, Diff, ExamplePair, RowDiff
from lossmask.example import Example
from lossmask.html_page import html_page
from lossmask.token_data import PieceTable, token_data

__all__ = ["diff_page"]


def diff_page(diff: Diff, sides: Sides) -> str:
    """Return the page.

    Args:
        diff: What was found, with the rows to draw.
        sides: What A and B are called.
    """
    table = PieceTable()
    data = diff_mapping(diff, sides) | {
        "words": dict(KINDS),
        "shown": [_row(found, table) for found in diff.shown],
        "table": table.entries,
    }
    return html_page(
        f"lossmask diff: {sides.a} and {sides.b}",
        data,
        scripts=("tokens.js", "diff.js"),
        styles=("tokens.css", "diff.css"),
    )


def _row(found: RowDiff, table: PieceTable) -> dict[str, Any]:
    return {
        "row": found.row,
        "place": found.place,
        "kinds": list(found.kinds),
        "pairs": [_pair(pair, found.messages, table) for pair in found.pairs],
    }


def _pair(
    pair: ExamplePair, messages: tuple[Mapping[str, Any], ...], table: PieceTable
) -> dict[str, Any]:
    def drawn(example: Example | None) -> dict[str, Any] | None:
        return None if example is None else token_data(example, messages, table=table)

    return {
        "a": drawn(pair.a),
        "b": drawn(pair.b),
        "segments": [list(asdict(each).values()) for each in pair.segments],
        "changes": [change_mapping(pair, change) for change in pair.changes],
    }
