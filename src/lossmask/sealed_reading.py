"""What a template of sealed contents yields -> its text, where contents stand, where messages end.

In: the pieces that ``sealed_environment`` tells of. Out: a :class:`SealedReading`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lossmask.look_ahead import Watch
from lossmask.sealed_text import Asked, Sealed
from lossmask.template_environment import TracedMessage


@dataclass(frozen=True, slots=True, eq=False)
class SealedText:
    """A rendering around contents that were not looked at.

    Attributes:
        text: The rendering.
        written: Message, first character, end: of each content, in the order of the text.
        ends: Number of messages -> where these, rendered alone, are proven to end.
        asked: What the template asked of the contents, and the answers.
    """

    text: str
    written: list[tuple[int, int, int]]
    ends: Mapping[int, int]
    asked: Asked

    def parts(self) -> list[Any]:
        """Return literal, number of a message, literal, …, literal."""
        parts: list[Any] = []
        at = 0
        for index, start, end in self.written:
            parts += [self.text[at:start], index]
            at = end
        return [*parts, self.text[at:]]


class Unreadable(Exception):
    """A template writes something that is not read here."""


class SealedReading:
    """Reads one rendering, and tells a watch how far it is while that goes on.

    Args:
        contents: Of each message.
        watch: Notes what the template looks at meanwhile.

    Attributes:
        pieces: Strings that make up the text.
        written: Message, first character, end: of each content, in the order of the text.
    """

    def __init__(self, contents: Sequence[str], watch: Watch) -> None:
        self._contents = contents
        self._watch = watch
        self._starts: list[tuple[int, int]] = []
        self._ends: list[int] = []
        self._length = 0
        self.pieces: list[str] = []
        self.written: list[tuple[int, int, int]] = []

    def read(self, rendering: Iterable[object]) -> None:
        """Read all that a template yields.

        Raises:
            Unreadable: It yields what is no text.
        """
        at, pieces, written, watch = 0, self.pieces, self.written, self._watch
        for piece in rendering:
            if isinstance(piece, str):
                pieces.append(piece)
                at += len(piece)
            elif isinstance(piece, Sealed):
                for part in piece.parts:
                    text = part if isinstance(part, str) else self._contents[part]
                    if not isinstance(part, str):
                        written.append((part, at, at + len(text)))
                    pieces.append(text)
                    at += len(text)
            elif piece is None:
                self._ends.append(at)
                if len(self._ends) <= len(self._starts):
                    watch.end(self._starts[-1][0])
            elif isinstance(piece, TracedMessage):
                index = piece._lossmask_message_index
                self._starts.append((index, at))
                watch.start(index)
            else:
                raise Unreadable
        self._length = at

    def ends(self, count: int) -> dict[int, int]:
        """Return where each beginning of ``count`` messages ends that is proven to render alike.

        All of them are one of these, whatever is proven.
        """
        whole = {count: self._length}
        if not self._starts or len(self._starts) != len(self._ends):
            return whole
        first, before = self._starts[0]
        indices = [index for index, _ in self._starts]
        if indices != list(range(first, count)) or self._ends[-1] != self._length:
            return whole
        holds = self._watch.holds
        ends = {first: before} if first and holds(first) else {}
        for index, end in zip(indices, self._ends, strict=True):
            if holds(index + 1):
                ends[index + 1] = end
        return ends | whole
