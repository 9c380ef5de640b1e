r"""A conversation -> its text, with the template line behind every character besides its origin.

In: a chat template and what it renders. Out: a :class:`~lossmask.traced_rendering.Rendering` whose
origins are :class:`LinedOrigins`, which carry a line per character through slicing and
concatenation, so that whatever the pipeline puts together still knows. The template is rendered a
second time for that, with messages that nobody traces; what is traced is the line: each ``{{ … }}``
and each piece of literal text, in the body, a macro or a block, gives the characters it writes the
line it stands on, unless an inner one wrote them before::

    1  {%- macro turn(m) -%}              <|im_start|>user\n    lines 2 2 2 … 2
    2  <|im_start|>{{ m.role }}           Hi                    line  3
    3  {{ m.content }}<|im_end|>          <|im_end|>            line  3
    4  {%- endmacro -%}

A string in an expression has the line that it stands on, any other part of one the line where that
begins. Where both renderings are not the same text, or a filter put characters of several lines
together outside of any expression, the line is unknown (0).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
from jinja2 import nodes
from jinja2.compiler import Frame
from transformers import PreTrainedTokenizerBase

from lossmask.rendering import ChatTemplate, Message
from lossmask.template_environment import (
    TracingCodeGenerator,
    TracingEnvironment,
    marking,
    terms_of,
)
from lossmask.traced_formatting import text_of
from lossmask.traced_rendering import Rendering
from lossmask.traced_text import COARSE, Origins, TracedText, leaf_of, origins_of

Lines = npt.NDArray[np.int32]
"""int32 (n,): 1-based line of the template that wrote each character, 0 where it is unknown."""

_SHIFT = 32


class LinedOrigins(npt.NDArray[np.int64]):
    """Origins of n characters that know the template line behind each.

    A slice and a concatenation know it too; anything else that is computed from them does not.
    """

    lines: Lines | None = None

    @staticmethod
    def of(origins: Origins, lines: Lines) -> LinedOrigins:
        """Return a view of some origins with lines."""
        lined = origins.view(LinedOrigins)
        lined.lines = lines
        return lined

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        if self.lines is not None and isinstance(key, slice):
            found.lines = self.lines[key]
        return found

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        result = super().__array_function__(func, types, args, kwargs)
        if func is np.concatenate and not kwargs:
            return LinedOrigins.of(result, np.concatenate([lines_of(each) for each in args[0]]))
        return result


def lines_of(origins: Origins) -> Lines:
    """Return the template line behind each character, zeros for origins that do not know it."""
    lines = origins.lines if isinstance(origins, LinedOrigins) else None
    return np.zeros(len(origins), np.int32) if lines is None else lines


class LinedTemplate(ChatTemplate):
    """A chat template whose renderings know the template line behind each character."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: str | None = None,
        *,
        trace_tools: bool = False,
    ) -> None:
        super().__init__(tokenizer, chat_template, trace_tools=trace_tools)
        self._line_templates: dict[str, jinja2.Template] = {}

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = False,
        template_variables: Mapping[str, Any] | None = None,
    ) -> Rendering:
        """Render with origins that are :class:`LinedOrigins`.

        Raises:
            TemplateError: As :meth:`ChatTemplate.render`.
        """
        rendering = super().render(
            messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            template_variables=template_variables,
        )
        lines = self._lines(
            rendering.text, messages, tools, add_generation_prompt, template_variables or {}
        )
        return replace(rendering, origins=LinedOrigins.of(rendering.origins, lines))

    def _lines(
        self,
        text: str,
        messages: Sequence[Message],
        tools: Sequence[Any] | None,
        add_generation_prompt: bool,
        template_variables: Mapping[str, Any],
    ) -> Lines:
        seen = self._seen_by_template(messages, tools, template_variables)
        seen.setdefault("documents", None)
        seen["add_generation_prompt"] = add_generation_prompt
        try:
            lined: str = self._line_template(self.source(tools)).render(**seen)
        except MemoryError:
            raise
        except Exception:  # it did render a moment ago, and need not do so twice
            return np.zeros(len(text), np.int32)
        if lined != text:  # what is drawn by chance, or told by the clock
            return np.zeros(len(text), np.int32)
        origins = origins_of(lined)
        is_known = (origins >= 0) & (origins & COARSE != COARSE)
        lines: Lines = np.where(is_known, leaf_of(origins), 0).astype(np.int32)
        return lines

    def _line_template(self, source: str) -> jinja2.Template:
        compiled = self._line_templates.get(source)
        if compiled is None:
            compiled = self._line_templates[source] = LineEnvironment().from_string(source)
        return compiled


class _LineCodeGenerator(TracingCodeGenerator):
    """Compile what is written to calls that note the line of the template."""

    def visit_Output(self, node: nodes.Output, frame: Frame) -> None:
        if frame.require_output_check:  # a template that extends another, which none can load
            super().visit_Output(node, frame)
            return
        for child in node.nodes:
            if marking(child) is not None:
                continue
            self.start_write(frame, child)
            if isinstance(child, nodes.TemplateData):
                data = child.as_const(frame.eval_ctx)
                self.write(f"environment.literal_at({child.lineno}, {data!r}, True)")
            else:
                self.write("environment.text_at(")
                self._write_lined(child, frame)
                self.write(f", {_first_line(child)})")
            self.end_write(frame)

    def _write_lined(self, node: nodes.Expr, frame: Frame) -> None:
        """Write an expression, each part of whose text has the line that it stands on."""
        if isinstance(node, nodes.Const) and isinstance(node.value, str):
            self.write(f"environment.literal_at({node.lineno}, {node.value!r}, False)")
        elif isinstance(node, nodes.Concat):
            self.write("environment.join_values((")
            for term in node.nodes:
                self.write("environment.value_at(environment.text_of(")
                self._write_lined(term, frame)
                self.write(f"), {_first_line(term)}), ")
            self.write("))")
        elif isinstance(node, nodes.Add):
            self.write("environment.add_values((")
            for term in terms_of(node):
                self._write_lined(term, frame)
                self.write(", ")
            self.write("))")
        elif isinstance(node, nodes.CondExpr) and node.expr2 is not None:
            self.write("(")
            self._write_lined(node.expr1, frame)
            self.write(" if ")
            self.visit(node.test, frame)
            self.write(" else ")
            self._write_lined(node.expr2, frame)
            self.write(")")
        else:
            self.write("environment.value_at(")
            self.visit(node, frame)
            self.write(f", {_first_line(node)})")


def _first_line(node: nodes.Node) -> int:
    return min(each.lineno for each in [node, *node.find_all(nodes.Node)] if each.lineno)


class LineEnvironment(TracingEnvironment):
    """Renders to traced strings whose leaves are the lines of the template."""

    code_generator_class = _LineCodeGenerator
    text_of = staticmethod(text_of)

    def literal_at(self, line: int, text: str, is_data: bool) -> str:
        """Return literal text that begins on a line of the template; data may go on behind it."""
        rows = np.full(len(text), line, np.int64)
        if is_data:
            ends = np.fromiter((c == "\n" for c in text), np.int64, len(text))
            rows += np.cumsum(ends) - ends
        return TracedText(text, rows << _SHIFT | np.arange(len(text)))

    def value_at(self, value: Any, line: int) -> Any:
        """Return a value; the characters of a text that have no line yet with this one."""
        if not isinstance(value, str):
            return value
        origins = origins_of(value)
        is_known = (origins >= 0) & (origins & COARSE != COARSE)
        if is_known.all():
            return value
        own = np.int64(line) << _SHIFT | np.arange(len(value))
        return TracedText(value, np.where(is_known, origins, own))

    def text_at(self, value: Any, line: int) -> Any:
        """Return what is written for a value, each character with its line."""
        written = str(self._finalize(value))
        return self.value_at(written, line)
