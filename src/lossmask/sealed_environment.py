"""A template that renders contents without looking at them, and is read while it does.

In: the source of a chat template. Out: what ``root_render_func`` yields, one after the other::

    a string or a ``Sealed``  text, or text with whole contents in it
    a ``TracedMessage``       the loop over the messages begins with this one
    ``None``                  and is done with it

Only for messages whose contents are strings, the last loop of a template is read, behind which it
writes what no conversation changes (``template_tail``); other loops leave no mark.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from jinja2 import nodes
from jinja2.compiler import Frame
from jinja2.runtime import Macro, Undefined

from lossmask.sealed_text import ASKABLE, Questions, Sealed, sealed_sum
from lossmask.template_environment import (
    OF_MAPPINGS,
    TracedMessage,
    TracingCodeGenerator,
    TracingEnvironment,
)
from lossmask.traced_text import concat

_AS_OF_STRINGS = {
    **dict.fromkeys(("defined", "string", "iterable", "sequence"), True),
    **dict.fromkeys(("undefined", "none", "mapping", "number", "integer", "float"), False),
    **dict.fromkeys(("boolean", "true", "false", "callable"), False),
}
"""Tests whose answer is the same for all strings."""


class _SealedCodeGenerator(TracingCodeGenerator):
    """Let a template yield what a reader has to tell apart."""

    def write_mark(self, node: nodes.Call, frame: Frame) -> None:
        environment = self.environment
        assert isinstance(environment, SealedEnvironment)
        loop, *names = node.args
        is_read = isinstance(loop, nodes.Const) and {loop.value} == environment.constant_tails
        if not is_read or len(names) > 1:
            super().write_mark(node, frame)
        elif not names:
            self.writeline("yield None", node)
        else:
            self.writeline("if ", node)
            self.visit(names[0], frame)
            self.write(".__class__ is environment.message_class:")
            self.indent()
            self.writeline("yield ", node)
            self.visit(names[0], frame)
            self.outdent()

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        self.write("environment.shown(")

    def _output_child_post(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        self.write(")")


class SealedEnvironment(TracingEnvironment):
    """The environment of templates that render sealed contents.

    Attributes:
        questions: Of the rendering that goes on.
    """

    code_generator_class = _SealedCodeGenerator
    marks_generation = False
    questions: Questions

    def __init__(self) -> None:
        super().__init__()
        self._absent: dict[str, Undefined] = {}
        self.concat = _joined  # type: ignore[assignment]
        self.filters = {name: self._sealed_filter(name, f) for name, f in self.filters.items()}
        tests: dict[str, Any] = {**self.tests}
        self.tests = {name: self._sealed_test(name, test) for name, test in tests.items()}
        self._holding = [self.globals.get("namespace"), self.globals.get("dict")]
        now: Any = self.globals.get("strftime_now")
        if now is not None:
            self._now = lambda _content, *arguments: now(*arguments)
            self.globals["strftime_now"] = lambda *arguments: self._asked_for_time(arguments)

    def shown(self, value: Any) -> Any:
        """Return what is written for a value."""
        return value if value.__class__ is Sealed else str(self._finalize(value))

    def mark_start(self, loop: int, *values: object) -> str:
        super().mark_start(loop, *values)
        return ""

    def mark_end(self, loop: int) -> str:
        super().mark_end(loop)
        return ""

    def added_pieces(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if any(value.__class__ is Sealed for value in values):
            return (functools.reduce(lambda a, b: a + b, values),)
        return super().added_pieces(values)

    def add_values(self, values: tuple[Any, ...]) -> Any:
        if any(value.__class__ is Sealed for value in values):
            return functools.reduce(lambda a, b: a + b, values)
        return super().add_values(values)

    def join_values(self, values: tuple[Any, ...]) -> Any:
        if not any(value.__class__ is Sealed for value in values):
            return super().join_values(values)
        plain = super().join_values
        return sealed_sum([v if v.__class__ is Sealed else plain((v,)) for v in values])

    def getattr(self, obj: Any, attribute: str) -> Any:
        if obj.__class__ is TracedMessage:
            if attribute in OF_MAPPINGS and attribute != "get":
                self._refuse()  # its keys have an order, which is not looked at
            if attribute not in obj and attribute != "get":
                absent = self._absent.get(attribute)
                if absent is None:
                    absent = self._absent[attribute] = self.undefined(obj=obj, name=attribute)
                return absent
        if obj.__class__ is Sealed:
            return functools.partial(obj.ask, attribute) if attribute in ASKABLE else self._refuse()
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if obj.__class__ is Sealed and argument.__class__ is int:
            return obj[argument]
        self._refuse_sealed((obj, argument))
        return super().getitem(obj, argument)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        if (
            __obj.__class__ is not functools.partial
            and __obj.__class__ is not Macro
            and not any(__obj is each for each in __self._holding)
        ):
            __self._refuse_sealed((*args, *kwargs.values()))
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        self._refuse_sealed((left, right))
        return super().call_binop(context, operator, left, right)

    def _asked_for_time(self, arguments: tuple[Any, ...]) -> Any:
        return self.questions.ask_anything(0, self._now, arguments)

    def _refuse(self, *_: object) -> Any:
        self.questions.refuse()

    def _refuse_sealed(self, values: Iterable[object]) -> None:
        if any(value.__class__ is Sealed for value in values):
            self._refuse()

    def _sealed_filter(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def sealed(*args: Any, **kwargs: Any) -> Any:
            given = [*args, *kwargs.values()]
            if name == "join" and _holds_sealed(args[1:2]):
                return self._refuse() if kwargs else self._join(*args[1:])
            place = next((k for k, value in enumerate(given) if value.__class__ is Sealed), None)
            if place is None or name in ("default", "d"):
                return function(*args, **kwargs)
            value, others = given[place], args[place + 1 :]
            if kwargs or place > 1:
                return self._refuse()
            if name == "string":
                return value
            if name in ("length", "count"):
                return value.measured(len)
            if name in ("trim", "replace"):
                return value.ask({"trim": "strip"}.get(name, name), *others)
            return self._refuse()

        return sealed

    def _join(self, values: list[Any], between: Any = "", *others: Any) -> Any:
        if others or not all(isinstance(each, (str, Sealed)) for each in (between, *values)):
            return self._refuse()
        return _joined([each for value in values for each in (between, value)][1:])

    def _sealed_test(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def sealed(*args: Any) -> Any:
            if not any(value.__class__ is Sealed for value in args):
                return function(*args)
            if args[0].__class__ is Sealed and len(args) == 1 and name in _AS_OF_STRINGS:
                return _AS_OF_STRINGS[name]
            return self._refuse()

        return sealed


def _holds_sealed(values: Iterable[object]) -> bool:
    return any(
        isinstance(value, list) and any(each.__class__ is Sealed for each in value)
        for value in values
    )


def _joined(values: Iterable[Any]) -> Any:
    pieces = list(values)
    if any(piece.__class__ is Sealed for piece in pieces):
        return sealed_sum(pieces)
    return concat(pieces)
