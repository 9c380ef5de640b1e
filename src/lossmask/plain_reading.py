"""What a plain template yields -> its text, who wrote what, where each message ends.

In: the pieces that ``plain_environment`` tells of. Out: a :class:`PlainReading`.
"""

from __future__ import annotations

from collections.abc import Iterable

from lossmask.look_ahead import Watch
from lossmask.template_environment import TracedMessage
from lossmask.traced_text import LITERAL, TracedText


class Unreadable(Exception):
    """A template writes something that is not read here."""


class PlainReading:
    """Reads one rendering, and tells a watch how far it is while that goes on.

    Args:
        watch: Notes what the template looks at meanwhile.

    Attributes:
        pieces: Strings that make up the text.
        runs: First character, length and origin of each run that is not literal.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._starts: list[tuple[int, int]] = []
        self._ends: list[int] = []
        self._length = 0
        self.pieces: list[str] = []
        self.runs: list[tuple[int, int, int]] = []

    def read(self, rendering: Iterable[object]) -> None:
        """Read all that a template yields.

        Raises:
            Unreadable: A sum is not one of strings, or a mark stands where none is read.
        """
        at, pieces, runs, watch = 0, self.pieces, self.runs, self._watch
        for piece in rendering:
            kind = piece.__class__
            if kind is str:
                pieces.append(piece)  # type: ignore[arg-type]
                at += len(piece)  # type: ignore[arg-type]
            elif piece is None:
                if len(self._ends) == len(self._starts):
                    raise Unreadable
                self._ends.append(at)
                watch.end(self._starts[-1][0])
            elif kind is TracedMessage:
                if len(self._ends) != len(self._starts):
                    raise Unreadable
                index = piece._lossmask_message_index  # type: ignore[attr-defined]
                self._starts.append((index, at))
                watch.start(index)
            else:
                for term in piece if kind is tuple else (piece,):  # type: ignore[attr-defined]
                    if term.__class__ is TracedText:
                        if term._marks:
                            raise Unreadable
                        start = at
                        for length, origin in term._runs:
                            if origin != LITERAL:
                                runs.append((start, length, origin))
                            start += length
                    elif term.__class__ is not str:
                        raise Unreadable
                    pieces.append(term)
                    at += len(term)
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
