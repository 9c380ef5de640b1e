r"""Tokens -> the pieces of text that can be drawn.

A character may take several tokens (an emoji, say), and a token several characters. A piece is the
least run of tokens whose characters belong to no other token::

    tokens   <|im_start|>  user  \n  H  i  \xf0\x9f  \x98\x80
    pieces   ------------  ----  --  -  -  ------------------
"""

from __future__ import annotations

from dataclasses import dataclass

from lossmask.example import Example


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of one token, or of several that share characters, and how it counts.

    Attributes:
        text: The characters; empty for a token that stands for none.
        start: Index of the first character in the example's text.
        token_start: First token.
        token_end: Behind the last token.
        message_index: The message that wrote the first token's text, -1 = the template.
        is_trained: Whether the first token is in the loss.
        is_stop: Whether a stop token is among them.
    """

    text: str
    start: int
    token_start: int
    token_end: int
    message_index: int
    is_trained: bool
    is_stop: bool


def pieces_of(example: Example) -> list[Piece]:
    """Return the pieces of an example, every token in exactly one."""
    stops = {span.token_end - 1 for span in example.spans if span.stop is not None}
    mask, offsets = example.loss_mask.tolist(), example.offsets.tolist()
    message_index = example.message_index.tolist()
    position, count = 0, len(example)
    pieces = []
    while position < count:
        start, end = offsets[position]
        behind = position + 1
        while behind < count and offsets[behind][0] < end:
            end = max(end, offsets[behind][1])
            behind += 1
        pieces.append(
            Piece(
                example.text[start:end],
                start,
                position,
                behind,
                message_index[position],
                mask[position],
                not stops.isdisjoint(range(position, behind)),
            )
        )
        position = behind
    return pieces
