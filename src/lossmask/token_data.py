r"""An example -> compact plain data that ``assets/web/tokens.js`` draws.

In: an example, its messages, and where known who wrote which character. Out: a mapping of JSON
values. Text and ids are kept once per distinct piece (see ``pieces``) in a table, which the
examples of a page can share; whatever stays the same over many tokens is kept as runs::

    tokens    <|im_start|>  user  \n    Hi    <|im_end|>  ...
    pieces    [0,           1,    2,    3,    4, ...]        numbers in the table
    table     [["<|im_start|>", 7], ["user", 412], ["\n", 9], ["Hi", 80], ["<|im_end|>", 8]]
    messages  [[3, -1], [1, 0], ...]                         so many tokens, of this message
    weights   [[10, 0], [4, 1], ...]                         so many tokens, of this weight
    parts     [[9, "prompt"], [1, "scaffold"], ...]          so many tokens, part of this

An entry of the table is ``[text, id]``; ``[text, [id, id], [hex, hex]]`` where tokens share a
character (their bytes, left out where they are not known); ``[text, []]`` for text that no token
stands for. All positions count characters (code points), as Python does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from lossmask.example import Example
from lossmask.pieces import pieces_of
from lossmask.policy import PARTS

if TYPE_CHECKING:
    from lossmask.attribution import Author

__all__ = ["PieceTable", "token_data"]


class PieceTable:
    """The distinct pieces of one or many examples, each with a number.

    Args:
        spell: Token id -> the bytes it spells, for tokens that share a character; None if unknown.

    Attributes:
        entries: What ``tokens.js`` takes as ``table``.
    """

    def __init__(self, spell: Callable[[int], bytes | None] = lambda number: None) -> None:
        self.entries: list[list[Any]] = []
        self._spell = spell
        self._numbers: dict[tuple[str, tuple[int, ...]], int] = {}

    def number(self, text: str, ids: Sequence[int]) -> int:
        """Return the number of a piece, a new one where it is new."""
        key = (text, tuple(ids))
        found = self._numbers.setdefault(key, len(self._numbers))
        if found == len(self.entries):
            self.entries.append(self._entry(text, ids))
        return found

    def _entry(self, text: str, ids: Sequence[int]) -> list[Any]:
        if len(ids) == 1:
            return [text, ids[0]]
        spelled = [self._spell(number) or b"" for number in ids]
        if not ids or b"".join(spelled) != text.encode():  # whose bytes are whose is not known
            return [text, list(ids)]
        return [text, list(ids), [each.hex() for each in spelled]]


def token_data(
    example: Example,
    messages: Sequence[Mapping[str, Any]],
    *,
    authors: Sequence[Author] = (),
    table: PieceTable | None = None,
) -> dict[str, Any]:
    """Return an example as plain data.

    Args:
        example: The example, n tokens.
        messages: The conversation, for the roles; empty for rows of text.
        authors: Runs that cover the example's text, from ``attribution.attribute``.
        table: Shared by several examples, whose page then hands it to ``tokens.js``; by default
            the example has one of its own, under ``table``.

    Example:
        >>> from lossmask import Encoder
        >>> from lossmask.embedded import DEMO_MODEL
        >>> messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hey"}]
        >>> [example] = Encoder.from_pretrained(DEMO_MODEL).encode(messages)
        >>> data = token_data(example, messages)
        >>> data["roles"], data["weights"]
        (['user', 'assistant'], [[10, 0], [4, 1], [1, 0]])
    """
    kept = PieceTable() if table is None else table
    data: dict[str, Any] = {
        "tokens": len(example),
        "supervised": example.supervised_count,
        "roles": [str(message["role"]) for message in messages],
        "pieces": _numbers(example, kept),
        "messages": _runs(example.message_index.tolist()),
        "weights": [[n, _plain(weight)] for n, weight in _runs(example.loss_weights.tolist())],
        "stops": [span.token_end - 1 for span in example.spans if span.stop is not None],
        "findings": [[each.kind, each.detail, each.message_index] for each in example.findings],
    }
    if authors:
        data["authors"] = _author_runs(authors)
    if example.parts is not None:
        data["parts"] = _runs(PARTS[part] for part in example.parts.tolist())
    if example.ignorable is not None:
        data["ignorable"] = _runs([int(each) for each in example.ignorable])
    if table is None:
        data["table"] = kept.entries
    return data


def _numbers(example: Example, table: PieceTable) -> list[int]:
    """Return the numbers of the pieces, and of the text between them, that spell the text."""
    ids, text = example.input_ids.tolist(), example.text
    numbers, at = [], 0
    for piece in pieces_of(example):
        if piece.text:
            if piece.start > at:
                numbers.append(table.number(text[at : piece.start], ()))
            at = piece.start + len(piece.text)
        numbers.append(table.number(piece.text, ids[piece.token_start : piece.token_end]))
    if at < len(text):
        numbers.append(table.number(text[at:], ()))
    return numbers


def _runs(values: Iterable[Any]) -> list[list[Any]]:
    """Return ``[how many, value]`` of each run of the same value."""
    return [[sum(1 for _ in run), value] for value, run in groupby(values)]


def _plain(weight: float) -> float | int:
    """Return a weight as the shortest number that rounds to it: 0.1, not 0.10000000149."""
    number = float(str(np.float32(weight)))
    return int(number) if number.is_integer() else number


def _author_runs(authors: Sequence[Author]) -> dict[str, Any]:
    """Return ``[characters, message, field, offset in it, template line]``, -1 for unknown."""
    fields = list(dict.fromkeys(each.field for each in authors if each.field is not None))
    runs = [
        [
            each.end - each.start,
            each.message_index,
            -1 if each.field is None else fields.index(each.field),
            -1 if each.field_start is None else each.field_start,
            -1 if each.template_line is None else each.template_line,
        ]
        for each in authors
    ]
    return {"fields": fields, "runs": runs}
