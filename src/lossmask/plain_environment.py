"""A traced template that is read while it renders: its pieces, its messages, their ends.

In: the source of a chat template. Out: what ``root_render_func`` yields, one after the other::

    a string                  text, traced where a message wrote it
    a tuple of strings        the terms of a sum, not yet put together
    a ``TracedMessage``       the loop over the messages begins with this one
    ``None``                  and is done with it

Only for messages of strings, and only the last loop of a template, behind which it writes what no
conversation changes (``template_tail``); marks of other loops are text, as in
:class:`TracingEnvironment`, and ``{% generation %}`` leaves none.
"""

from __future__ import annotations

from typing import Any

from jinja2 import nodes
from jinja2.compiler import Frame
from jinja2.runtime import Undefined

from lossmask.template_environment import (
    OF_MAPPINGS,
    TracedMessage,
    TracingCodeGenerator,
    TracingEnvironment,
    terms_of,
)


class _PlainCodeGenerator(TracingCodeGenerator):
    """Let a template yield what a reader has to tell apart."""

    def write_mark(self, node: nodes.Call, frame: Frame) -> None:
        environment = self.environment
        assert isinstance(environment, PlainEnvironment)
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

    def write_sum(self, node: nodes.Expr, frame: Frame) -> None:
        self.writeline("yield (", node)
        for term in terms_of(node):
            self.visit(term, frame)
            self.write(", ")
        self.write(")")


class PlainEnvironment(TracingEnvironment):
    """The environment of templates that render plain messages while they are read."""

    code_generator_class = _PlainCodeGenerator
    marks_generation = False

    def __init__(self) -> None:
        super().__init__()
        self._absent: dict[str, Undefined] = {}

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Look an attribute up; what a message has not is the same object each time."""
        if obj.__class__ is TracedMessage and attribute not in obj and attribute not in OF_MAPPINGS:
            absent = self._absent.get(attribute)
            if absent is None:
                absent = self._absent[attribute] = self.undefined(obj=obj, name=attribute)
            return absent
        return super().getattr(obj, attribute)
