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

import numpy as np
import numpy.typing as npt

from lossmask.sealed_text import Asked

Positions = npt.NDArray[np.int64]
Place = tuple[int, int, int]

_MOST_OF_A_SHAPE = 8
_MOST_MESSAGES = 200_000  # of all skeletons together


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """An example without its contents.

    Attributes:
        pieces: Literal, nothing in the place of a content, literal, …, literal.
        sizes: Of each piece, bytes of UTF-8.
        shown: The messages whose contents stand there, ascending.
        turns: Of each turn in the loss: the place of its content in ``shown``, and how many
            characters before and behind it are in the loss.
        messages: int64 (contents,), ``shown``.
        places: int64 (turns,), the place of each.
        before: int64 (turns,), bytes before the content of each.
        behind: int64 (turns,), bytes behind it.
    """

    pieces: list[str]
    sizes: list[int]
    shown: list[int]
    turns: list[tuple[int, int, int]]
    messages: Positions
    places: Positions
    before: Positions
    behind: Positions

    @classmethod
    def of(cls, text: str, written: Sequence[Place], completions: Sequence[Place]) -> Frame:
        """Take the contents out of an example.

        Args:
            text: The rendering.
            written: Message, first character, end: of each content that is not empty, ascending.
            completions: Message, first character, end: of each turn in the loss, ascending, which
                is the content and some literals around it.
        """
        pieces, at = [], 0
        for _, start, end in written:
            pieces += [text[at:start], ""]
            at = end
        pieces.append(text[at:])
        place_of = {index: place for place, (index, *_) in enumerate(written)}
        turns, before, behind = [], [], []
        for index, first, last in completions:
            place = place_of[index]
            _, start, end = written[place]
            turns.append((place, start - first, last - end))
            before.append(size_in_bytes(text[first:start]))
            behind.append(size_in_bytes(text[end:last]))
        shown = [index for index, *_ in written]
        places = [place for place, *_ in turns]
        arrays = (np.array(each, np.int64) for each in (shown, places, before, behind))
        return cls(pieces, [*map(size_in_bytes, pieces)], shown, turns, *arrays)

    def filled(self, contents: Sequence[str]) -> PlainLayout:
        """Put contents in.

        Args:
            contents: Of each message.
        """
        shown = [contents[index] for index in self.shown]
        pieces, sizes = self.pieces.copy(), self.sizes.copy()
        pieces[1::2] = shown
        text = "".join(pieces)
        sizes[1::2] = map(len if text.isascii() else size_in_bytes, shown)
        return PlainLayout(text, self, pieces, sizes)


@dataclass(frozen=True, slots=True, eq=False)
class PlainLayout:
    """A rendered conversation.

    Attributes:
        text: The rendering.
        frame: What stands around the contents.
        pieces: Literal, content, literal, …, literal.
        sizes: Of each piece, bytes of UTF-8.
    """

    text: str
    frame: Frame
    pieces: list[str]
    sizes: list[int]

    @classmethod
    def of(cls, text: str, written: Sequence[Place], completions: Sequence[Place]) -> PlainLayout:
        """Return a text with its places in characters, as of :meth:`Frame.of`."""
        contents = {index: text[start:end] for index, start, end in written}
        last = max(contents, default=-1)
        frame = Frame.of(text, written, completions)
        return frame.filled([contents.get(index, "") for index in range(last + 1)])

    @property
    def written(self) -> list[Place]:
        """Message, first character, end: of each content that is not empty, ascending."""
        borders = [*accumulate(map(len, self.pieces))]
        return [*zip(self.frame.shown, borders[::2], borders[1::2], strict=False)]

    @property
    def completions(self) -> list[Place]:
        """Message, first character, end: of each turn in the loss, ascending."""
        written = self.written
        return [
            (written[place][0], written[place][1] - before, written[place][2] + behind)
            for place, before, behind in self.frame.turns
        ]


def size_in_bytes(piece: str) -> int:
    """Return how long a text is in UTF-8, where half a character takes up three bytes."""
    return len(piece) if piece.isascii() else len(piece.encode(errors="surrogatepass"))


@dataclass(frozen=True, slots=True, eq=False)
class Skeleton:
    """What stays the same.

    Attributes:
        frames: The examples of a conversation.
        asked: Message, method, arguments and answer: what another conversation has to agree in.
    """

    frames: list[Frame]
    asked: list[tuple[int, Callable[..., Any], tuple[Any, ...], Any]]

    @classmethod
    def of(cls, layouts: Sequence[PlainLayout], asked: Asked) -> Skeleton:
        """Take the contents out of the examples of a conversation."""
        questions = [(*question, answer) for question, answer in asked.items()]
        return cls([layout.frame for layout in layouts], questions)

    @property
    def size(self) -> int:
        """Messages that its examples show."""
        return sum(len(frame.shown) for frame in self.frames)

    def filled(self, contents: Sequence[str]) -> list[PlainLayout] | None:
        """Lay out another conversation of the same shape, None if the template might do otherwise.

        Args:
            contents: Of each message; those and only those that were empty are.
        """
        for index, method, arguments, answer in self.asked:
            try:
                given = method(contents[index], *arguments)
            except (IndexError, TypeError, ValueError):  # the sixth character of five, say
                return None
            if answer is not None:
                if given != answer:
                    return None
            elif given != contents[index] and given != [contents[index]]:
                return None
        return [frame.filled(contents) for frame in self.frames]


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
