"""What a template looked at while it rendered: which beginnings of a conversation render alike.

In: a list of messages that notes who reads it, handed to a template, and the turn marks of the loop
over it. Out: for each number of messages ``k``, whether the template, given only the first ``k``
messages, would have done the same up to the end of message ``k - 1``::

    messages      0        1        2        3
    read at       loop     loop     loop     loop          holds(1), holds(2), holds(3)
    message 1 asks ``loop.last``: is there a message 2?     not holds(2): for the first two
                                                            messages, the answer is another one
    anything before the loop asks ``messages|length``       none holds

Reading message ``j`` tells whether there are more than ``j`` messages, and what it holds. So does
an answer that a template gets before it has finished message ``k - 1`` prove nothing about the
first ``k`` messages if ``j >= k``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, SupportsIndex, TypeVar

T = TypeVar("T")


class Watch:
    """Notes what is read of the messages, and when."""

    __slots__ = ("_count", "_is_inside", "_lost", "_lost_from", "finished", "is_broken")

    def __init__(self) -> None:
        self.begin(0)

    def begin(self, count: int) -> None:
        """Forget the rendering before; this one is of ``count`` messages."""
        self._count = count
        self._is_inside = False
        self._lost: set[int] = set()
        self._lost_from = count
        self.finished = 0
        self.is_broken = False

    def holds(self, count: int) -> bool:
        """Return whether the first ``count`` messages alone render to the same beginning."""
        return not self.is_broken and count < self._lost_from and count not in self._lost

    def start(self, index: int) -> None:
        """Note that the loop over messages begins with one."""
        if self._is_inside or index < self.finished:
            self.is_broken = True  # a loop in a loop, or a second one
        self._is_inside = True
        self.finished = index

    def end(self, index: int) -> None:
        """Note that it is done with one."""
        self._is_inside = False
        self.finished = index + 1

    def read(self, index: int) -> None:
        """Note that message ``index`` is read, wherever in the template."""
        if not self._is_inside and self.finished == self._count:
            self.is_broken = True  # behind the loop
        first = self.finished + 1 if self._is_inside else self.finished
        if first <= index:
            self._lost.update(range(first, index + 1))

    def advance(self, index: int) -> None:
        """Note that a loop goes on to message ``index``; within a message, that looks ahead."""
        if self._is_inside or index != self.finished:
            self.read(index)

    def read_all(self) -> None:
        """Note that it is read how many messages there are."""
        if not self._is_inside and self.finished == self._count:
            self.is_broken = True
        first = self.finished + 1 if self._is_inside else self.finished
        self._lost_from = min(self._lost_from, first)


class WatchedMessages(list[Any]):
    """Messages, or those from ``first`` on, that tell a :class:`Watch` what is read of them."""

    def __init__(self, messages: Iterable[Any], watch: Watch, first: int = 0) -> None:
        super().__init__(messages)
        self._lossmask_watch = watch
        self._lossmask_first = first

    def __iter__(self) -> Iterator[Any]:
        watch, number = self._lossmask_watch, self._lossmask_first
        for message in super().__iter__():
            watch.advance(number)
            yield message
            number += 1

    def __bool__(self) -> bool:
        if super().__len__():
            self._lossmask_watch.read(self._lossmask_first)
            return True
        self._lossmask_watch.read_all()
        return False

    def __getitem__(self, key: SupportsIndex | slice) -> Any:
        watch, first = self._lossmask_watch, self._lossmask_first
        if isinstance(key, slice):
            if key.stop is None and key.step in (None, 1) and (key.start or 0) >= 0:
                start = key.start or 0
                return WatchedMessages(super().__getitem__(key), watch, first + start)
            watch.read_all()
        elif type(key) is int and 0 <= key < super().__len__():
            watch.read(first + key)
        else:
            watch.read_all()
        return super().__getitem__(key)


def _watching_all(method: Callable[..., T]) -> Callable[..., T]:
    def watched(self: WatchedMessages, *arguments: Any) -> T:
        self._lossmask_watch.read_all()
        return method(self, *arguments)

    return watched


for _name in (
    *("__len__", "__contains__", "__reversed__", "__add__", "__mul__", "__rmul__", "__repr__"),
    *("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"),
    *("copy", "count", "index"),
):
    setattr(WatchedMessages, _name, _watching_all(getattr(list, _name)))


def _added_to(self: WatchedMessages, other: Any) -> Any:
    """Return ``other + self``, which ``list`` leaves to its left side."""
    self._lossmask_watch.read_all()
    return (
        other + list.__getitem__(self, slice(None)) if isinstance(other, list) else NotImplemented
    )


WatchedMessages.__radd__ = _added_to  # type: ignore[attr-defined]
