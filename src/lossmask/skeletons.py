r"""Laid-out conversations without their contents: what a template writes around any others.

In: a conversation that was laid out, and what the template asked of its contents. Out: a
:class:`Skeleton`, which lays out any other conversation of the same shape that gives the same
answers::

    <|im_start|>user\n [0] <|im_end|>\n<|im_start|>assistant\n [1] <|im_end|>\n
                                                                ^^^^^^^^^^^^^^^ in the loss
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from lossmask.sealed_text import Asked

_MOST_OF_A_SHAPE = 8
_MOST_MESSAGES = 200_000  # of all skeletons together


@dataclass(frozen=True, slots=True, eq=False)
class PlainLayout:
    """A rendered conversation, all positions in characters.

    Attributes:
        text: The rendering.
        written: Message, first character, end: of each content that is not empty, ascending.
        completions: Message, first character, end: of each turn in the loss, ascending.
    """

    text: str
    written: list[tuple[int, int, int]]
    completions: list[tuple[int, int, int]]


@dataclass(frozen=True, slots=True, eq=False)
class _Example:
    """An example without its contents.

    Attributes:
        pieces: Literal, nothing in the place of a content, literal, …, literal.
        shown: The messages whose contents stand there.
        turns: Of each turn in the loss: the place of its content in ``shown``, and how many
            characters before and behind it are in the loss.
    """

    pieces: list[str]
    shown: list[int]
    turns: list[tuple[int, int, int]]

    @classmethod
    def of(cls, layout: PlainLayout) -> _Example:
        pieces, at = [], 0
        for _, start, end in layout.written:
            pieces += [layout.text[at:start], ""]
            at = end
        places = {index: place for place, (index, *_) in enumerate(layout.written)}
        turns = []
        for index, first, last in layout.completions:
            place = places[index]
            _, start, end = layout.written[place]
            turns.append((place, start - first, last - end))
        shown = [index for index, *_ in layout.written]
        return cls([*pieces, layout.text[at:]], shown, turns)

    def filled(self, contents: Sequence[str]) -> PlainLayout:
        pieces = self.pieces.copy()
        pieces[1::2] = [contents[index] for index in self.shown]
        borders = [*accumulate(map(len, pieces))]
        written = [*zip(self.shown, borders[::2], borders[1::2], strict=False)]
        completions = []
        for place, before, behind in self.turns:
            index, start, end = written[place]
            completions.append((index, start - before, end + behind))
        return PlainLayout("".join(pieces), written, completions)


@dataclass(frozen=True, slots=True, eq=False)
class Skeleton:
    """What stays the same.

    Attributes:
        examples: The examples of a conversation.
        asked: Message, method, arguments and answer: what another conversation has to agree in.
    """

    examples: list[_Example]
    asked: list[tuple[int, Callable[..., Any], tuple[Any, ...], Any]]

    @classmethod
    def of(cls, layouts: Sequence[PlainLayout], asked: Asked) -> Skeleton:
        """Take the contents out of the examples of a conversation."""
        questions = [(*question, answer) for question, answer in asked.items()]
        return cls([*map(_Example.of, layouts)], questions)

    @property
    def size(self) -> int:
        """Messages that its examples show."""
        return sum(len(example.shown) for example in self.examples)

    def filled(self, contents: Sequence[str]) -> list[PlainLayout] | None:
        """Lay out another conversation of the same shape, None if the template might do otherwise.

        Args:
            contents: Of each message; those and only those that were empty are.
        """
        for index, method, arguments, answer in self.asked:
            given = method(contents[index], *arguments)
            if answer is not None:
                if given != answer:
                    return None
            elif given != contents[index] and given != [contents[index]]:
                return None
        return [example.filled(contents) for example in self.examples]


class Skeletons:
    """Skeletons by the shape of their conversations."""

    def __init__(self) -> None:
        self._of_shape: dict[Any, list[Skeleton]] = {}
        self._messages = 0

    def add(self, shape: Any, skeleton: Skeleton) -> None:
        """Keep one; the oldest ones go where there are too many."""
        self._messages += skeleton.size
        if self._messages > _MOST_MESSAGES:
            self._of_shape.clear()
            self._messages = skeleton.size
        known = self._of_shape.setdefault(shape, [])
        known.insert(0, skeleton)
        del known[_MOST_OF_A_SHAPE:]

    def filled(self, shape: Any, contents: Sequence[str]) -> list[PlainLayout] | None:
        """Lay out a conversation by one of them, None if none fits."""
        for skeleton in self._of_shape.get(shape, ()):
            layouts = skeleton.filled(contents)
            if layouts is not None:
                return layouts
        return None
