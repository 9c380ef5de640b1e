"""Contents that a template may write, but not look at unnoticed.

In: the contents of a conversation, each wrapped in a :class:`Sealed`. Out: a :class:`Questions`,
every answer that the template got about them while it rendered. A template is a program without
chance: whatever contents give the same answers, it writes the same around them::

    {% if '</think>' in m.content %}      asked: ``__contains__('</think>')``, answered: False
    {{ m.content | trim }}                asked: ``strip()``, answered: what it was
    {% if m.content | length > 2 %}       asked: is ``len(…) > 2``, answered: True
    {{ m.content | upper }}               broken: what follows from that is not known

A ``Sealed`` is no ``str``: what Python does with strings by itself, unseen, fails.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, NoReturn

ASKABLE = frozenset(
    {"strip", "lstrip", "rstrip", "startswith", "endswith", "find", "count", "replace", "split"}
)
"""Methods of strings whose answer can be asked for again."""
_STRIPS = frozenset({"strip", "lstrip", "rstrip"})
_PLAIN = (str, int, type(None))


Asked = dict[tuple[int, Callable[..., Any], tuple[Any, ...]], Any]
"""Message, method of ``str`` and arguments -> the answer; None for the content as it was."""


class Inspected(Exception):
    """A template looks at a content in a way that no question stands for."""


class Questions:
    """What a template asked of contents that are not empty.

    Args:
        contents: Of each message.

    Attributes:
        asked: The answers so far.
        is_broken: Whether it looked at anything else.
    """

    def __init__(self, contents: Sequence[str]) -> None:
        self._contents = contents
        self.asked: Asked = {}
        self.is_broken = False

    def sealed(self, index: int) -> Sealed | str:
        """Return the content of a message; one that is empty is known to be."""
        return Sealed((index,), self) if self._contents[index] else ""

    def ask(self, index: int, method: str, arguments: tuple[Any, ...]) -> Any:
        """Return the answer, None if it is the content as it was."""
        plain = self.plain(arguments)
        content = self._contents[index]
        function = getattr(str, method)
        try:
            answer = function(content, *plain)
        except Exception:
            self.refuse()
        if answer == content or answer == [content]:
            answer = None
        elif not isinstance(answer, (bool, int)):
            self.refuse()
        self.asked[index, function, plain] = answer
        return answer

    def plain(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return arguments as they are for whatever content."""
        plain: list[Any] = []
        for value in values:
            if isinstance(value, tuple):
                plain.append(self.plain(value))
            elif isinstance(value, _PLAIN):
                plain.append(str.__str__(value) if isinstance(value, str) else value)
            else:
                self.refuse()
        return tuple(plain)

    def ask_anything(
        self, index: int, function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> Any:
        """Return what a function of a content says, which is not None."""
        try:
            answer = function(self._contents[index], *arguments)
        except Exception:
            self.refuse()
        self.asked[index, function, arguments] = answer
        return answer

    def refuse(self) -> NoReturn:
        """Note that a template looks at more than can be asked.

        Raises:
            Inspected: Always.
        """
        self.is_broken = True
        raise Inspected


class Sealed:
    """Text made of literals and of whole contents, by the number of their message."""

    __slots__ = ("parts", "questions")

    def __init__(self, parts: tuple[str | int, ...], questions: Questions) -> None:
        self.parts = parts
        self.questions = questions

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of ``str``."""
        first = self.parts[0]
        if len(self.parts) > 1 and method in _STRIPS and not arguments:
            return self._stripped(method)
        if len(self.parts) > 1 or isinstance(first, str):
            self.questions.refuse()
        answer = self.questions.ask(first, method, arguments)
        if answer is not None:
            return answer
        return [self] if method == "split" else self

    def measured(self, function: Callable[..., Any], *arguments: Any) -> Measured:
        """Return what a function of a content returns, to be compared only."""
        if len(self.parts) > 1 or isinstance(self.parts[0], str):
            self.questions.refuse()
        return Measured(self.parts[0], self.questions, _How(function, _hows(arguments)))

    def _stripped(self, method: str) -> Sealed:
        """Strip text whose contents have no white space to be stripped."""
        stripped = list(self.parts)
        for place, own in ((0, "lstrip"), (-1, "rstrip")):
            if method not in ("strip", own):
                continue
            while isinstance(part := stripped[place], str) and not part.strip():
                del stripped[place]  # a content is left, at least
            if isinstance(part, str):
                stripped[place] = getattr(part, own)()
            elif self.questions.ask(part, own, ()) is not None:
                self.questions.refuse()
        return Sealed(tuple(stripped), self.questions)

    def __add__(self, other: object) -> Sealed:
        return sealed_sum((self, other))

    def __radd__(self, other: object) -> Sealed:
        return sealed_sum((other, self))

    def __bool__(self) -> bool:
        return True  # a content that is empty is not sealed

    def __contains__(self, part: object) -> bool:
        return bool(self.ask("__contains__", part))

    def __getitem__(self, key: object) -> Measured:
        if isinstance(key, slice):
            return self.measured(_slice, key.start, key.stop, key.step)
        return self.measured(_item, key)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (str, Sealed)):
            return False
        if isinstance(other, Sealed) and other.parts == self.parts:
            return True
        return bool(self.ask("__eq__", other))

    def __ne__(self, other: object) -> bool:
        return not self == other


class _How(NamedTuple):
    """A function of a content, with further arguments that are plain or ask of it, too."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    def of(self, content: str) -> Any:
        """Call the function."""
        given = [each.of(content) if isinstance(each, _How) else each for each in self.arguments]
        return self.function(content, *given)


def _hows(arguments: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(each.how if isinstance(each, Measured) else each for each in arguments)


class Measured:
    """Something about a content, such as its length, which a template may compare."""

    __slots__ = ("how", "index", "questions")

    def __init__(self, index: int, questions: Questions, how: _How) -> None:
        self.index = index
        self.questions = questions
        self.how = how

    def _compare(self, comparison: Callable[..., Any], *other: object) -> bool:
        compared = (comparison, self.how, *self.questions.plain(other))
        return bool(self.questions.ask_anything(self.index, _compared, compared))

    def __add__(self, number: object) -> Measured:
        if not isinstance(number, int):
            self.questions.refuse()
        return Measured(self.index, self.questions, _How(_plus, (self.how, number)))

    def __sub__(self, number: object) -> Measured:
        return self + (-number if isinstance(number, int) else number)

    def __bool__(self) -> bool:
        return self._compare(operator.truth)

    def __eq__(self, other: object) -> bool:
        return self._compare(operator.eq, other)

    def __ne__(self, other: object) -> bool:
        return self._compare(operator.ne, other)

    def __lt__(self, other: object) -> bool:
        return self._compare(operator.lt, other)

    def __le__(self, other: object) -> bool:
        return self._compare(operator.le, other)

    def __gt__(self, other: object) -> bool:
        return self._compare(operator.gt, other)

    def __ge__(self, other: object) -> bool:
        return self._compare(operator.ge, other)


def _compared(content: str, comparison: Callable[..., Any], how: _How, *other: Any) -> bool:
    return bool(comparison(how.of(content), *other))


def _plus(_content: str, value: Any, number: int) -> Any:
    return value + number


def _slice(content: str, start: Any, stop: Any, step: Any) -> str:
    return content[start:stop:step]


def _item(content: str, key: Any) -> str:
    return content[key]


def sealed_sum(values: Iterable[object]) -> Sealed:
    """Return strings and sealed text, at least one of these, one behind the other."""
    parts: list[str | int] = []
    questions = None
    for value in values:
        if isinstance(value, Sealed):
            questions = value.questions
            parts += value.parts
        elif isinstance(value, str):
            parts.append(str.__str__(value))
        else:
            raise TypeError(f"no text: {type(value).__name__}")
    assert questions is not None
    return Sealed(tuple(parts), questions)


def _refusing(self: Sealed | Measured, *_: object) -> NoReturn:
    self.questions.refuse()


for _name in (
    *("__str__", "__repr__", "__format__", "__hash__", "__len__", "__iter__", "__getitem__"),
    *("__getattr__", "__html__", "__reversed__", "__call__", "__contains__"),
    *("__lt__", "__le__", "__gt__", "__ge__"),
    *("__int__", "__float__", "__index__", "__complex__", "__trunc__", "__round__", "__abs__"),
    *("__neg__", "__pos__", "__invert__", "__bytes__", "__reduce_ex__"),
    *(
        f"__{side}{name}__"
        for name in ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "divmod", "pow")
        for side in ("", "r")
    ),
):
    for _class in (Sealed, Measured):
        if _name not in vars(_class) or _name == "__hash__":
            setattr(_class, _name, _refusing)
