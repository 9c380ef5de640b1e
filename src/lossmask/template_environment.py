"""The Jinja environment of transformers, with origins and turn marks added.

In: the source of a chat template. Out: a compiled template whose rendering is a traced string.
Rules,
globals and filters are taken from the environment that transformers itself compiles chat templates
with, so both render alike; ``rendering`` checks on every call that they did.

What is added:

* operations that leave Python's string methods (``~``, ``"".join``, ``|tojson``, ``str(list)``, …)
  go through the traced versions;
* every ``for`` body begins and ends with a zero-width mark that names the message the loop variable
  holds; a ``{% generation %}`` block becomes a pair of marks;
* any other filter that turns a traced string into a plain one has its result take the coarse
  origin: no operation can lose where text came from;
* what a template reads of the messages, and when, is noted (``look_ahead``), and whether anything
  was computed by another code than transformers' own (``is_unproven``).
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import FilterArgumentError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import do_float, do_int
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter

from lossmask.look_ahead import Watch
from lossmask.template_tail import loops_with_constant_tail
from lossmask.traced_formatting import (
    SafeText,
    dumps,
    escaped,
    format_pieces,
    has_traced,
    percent_format,
    safe,
    text_of,
)
from lossmask.traced_text import (
    LITERAL,
    Mark,
    TracedText,
    coarse,
    concat,
    join,
    mark_text,
    number_from,
    origins_of,
)


class TracedMessage(dict[str, Any]):
    """A message dict that knows its index; the sandbox hides the attribute from templates."""

    _lossmask_message_index: int

    def __init__(self, items: dict[str, Any], index: int) -> None:
        super().__init__(items)
        self._lossmask_message_index = index


def traced_message(items: dict[str, Any], index: int) -> TracedMessage:
    """Return ``TracedMessage(items, index)``, three times as fast."""
    message = dict.__new__(TracedMessage)
    message.update(items)
    message._lossmask_message_index = index
    return message


_PLAIN_STRINGS = frozenset({str, TracedText})
_AS_IN_STR = frozenset(
    {"strip", "lstrip", "rstrip", "startswith", "endswith", "find", "rfind", "index", "count"}
)  # methods that TracedText leaves to str, or that cut by what str finds
_MAPPINGS = frozenset({dict, TracedMessage})
OF_MAPPINGS = frozenset(dir(TracedMessage({}, 0)))  # names that are no key first of all


class _GenerationMarks(Extension):
    """Parse ``{% generation %}`` into its body between two marks, in a scope of its own.

    An environment without ``marks_generation`` leaves the marks out. transformers parses it into a
    ``CallBlock``; both keep variables set inside from leaking out.
    """

    tags = {"generation"}  # noqa: RUF012  (Jinja reads the class attribute)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        assert isinstance(self.environment, TracingEnvironment)
        if not self.environment.marks_generation:
            return nodes.Scope(body).set_lineno(line)
        marked = [
            _call("mark_generation", nodes.Const("generation_start")),
            *body,
            _call("mark_generation", nodes.Const("generation_end")),
        ]
        return nodes.Scope(marked).set_lineno(line)


class TracingCodeGenerator(CodeGenerator):
    """Compile ``a ~ b`` and ``a + b + c`` to one call that keeps origins, marks to plain calls."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self._call_with_tuple("join_values", node.nodes, frame)

    def visit_Add(self, node: nodes.BinExpr, frame: Frame) -> None:
        terms = terms_of(node)
        if len(terms) < MANY_TERMS:
            super().visit_Add(node, frame)
        else:
            self._call_with_tuple("add_values", terms, frame)

    def visit_Output(self, node: nodes.Output, frame: Frame) -> None:
        if frame.buffer is not None or frame.require_output_check:
            super().visit_Output(node, frame)
            return
        others: list[nodes.Expr] = []
        for child in [*node.nodes, None]:
            if child is not None and marking(child) is None and len(terms_of(child)) < MANY_TERMS:
                others.append(child)
                continue
            if others:
                output = nodes.Output(others, lineno=node.lineno, environment=self.environment)
                super().visit_Output(output, frame)
                others = []
            if isinstance(child, nodes.Call):
                self.write_mark(child, frame)
            elif child is not None:
                self.write_sum(child, frame)

    def write_mark(self, node: nodes.Call, frame: Frame) -> None:
        """Write that a mark is yielded."""
        self.writeline("yield ", node)
        self.visit(node, frame)

    def write_sum(self, node: nodes.Expr, frame: Frame) -> None:
        """Write that the terms of a sum are yielded one by one."""
        self.writeline("yield from ", node)
        self._call_with_tuple("added_pieces", terms_of(node), frame)

    def visit_Getattr(self, node: nodes.Getattr, frame: Frame) -> None:
        if not self._visit_key(node.node, node.attr, "getattr", frame):
            super().visit_Getattr(node, frame)

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        key = node.arg.value if isinstance(node.arg, nodes.Const) else None
        is_name = isinstance(key, str) and self._visit_key(node.node, key, "getitem", frame)
        if not is_name:
            super().visit_Getitem(node, frame)

    def _visit_key(self, owner: nodes.Expr, key: str, method: str, frame: Frame) -> bool:
        """Write the look-up of a key in a variable so that one in a message takes no call."""
        if not isinstance(owner, nodes.Name) or key in OF_MAPPINGS:
            return False
        self.write("(")
        self.visit(owner, frame)
        self.write(f"[{key!r}] if ")
        self.visit(owner, frame)
        self.write(f".__class__ is environment.message_class and {key!r} in ")
        self.visit(owner, frame)
        self.write(f" else environment.{method}(")
        self.visit(owner, frame)
        self.write(f", {key!r}))")
        return True

    def visit_Call(self, node: nodes.Call, frame: Frame, forward_caller: bool = False) -> None:
        method = marking(node)
        if method is None:
            super().visit_Call(node, frame, forward_caller=forward_caller)
            return
        self.write(f"environment.{method}(")  # ours: the sandbox has nothing to check
        for argument in node.args:
            self.visit(argument, frame)
            self.write(", ")
        self.write(")")

    def _call_with_tuple(self, method: str, parts: Iterable[nodes.Expr], frame: Frame) -> None:
        self.write(f"environment.{method}((")
        for part in parts:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


def marking(node: nodes.Node) -> str | None:
    """Return the name of the method that a node calls to mark a loop or tag, if it is one."""
    called: Any = node.node if isinstance(node, nodes.Call) else None
    is_ours = isinstance(called, nodes.EnvironmentAttribute) and called.name in _MARKING
    return str(called.name) if is_ours else None


_MARKING = frozenset({"mark_start", "mark_end", "mark_generation"})
MANY_TERMS = 3


def terms_of(node: nodes.Expr) -> list[nodes.Expr]:
    """Return the terms of ``a + b + c``, which is ``(a + b) + c``."""
    terms = []
    while isinstance(node, nodes.Add):
        terms.append(node.right)
        node = node.left
    return [node, *reversed(terms)]


class TracingEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox of transformers' chat templates, rendering to traced strings.

    Not thread-safe: it notes which message is being rendered, for error messages.
    """

    code_generator_class = TracingCodeGenerator
    intercepted_binops = frozenset({"%"})
    message_class = TracedMessage
    concat = staticmethod(concat)

    marks_generation = True

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_GenerationMarks, loopcontrols],
            finalize=self._finalize,
        )
        from transformers.utils.chat_template_utils import _compile_jinja_template  # slow to import

        reference = _compile_jinja_template("").environment
        self.globals.update(reference.globals)
        self.filters.update(
            {name: _keep_origin(function) for name, function in reference.filters.items()}
        )
        self.filters.update(
            {name: self._unproven(function) for name, function in _TRACED_FILTERS.items()}
        )
        attr, random = self.filters["attr"], self.filters["random"]
        self.filters |= {
            "attr": self._unproven(lambda *args: attr(self, *args)),  # leads to any method
            "forceescape": self._unproven(self.filters["forceescape"]),  # traced, it is not Markup
            "pprint": self._unproven(self.filters["pprint"]),  # tells types apart
        }
        self.filters["random"] = jinja2.pass_context(self._noting(random))
        lipsum: Any = self.globals["lipsum"]
        self.globals["lipsum"] = self._noting(lipsum)
        self.tests["sameas"] = self._same_as
        self.current_message: int | None = None
        self.watch = Watch()
        self.is_unproven = False
        self.constant_tails: frozenset[int] = frozenset()
        self.marking_loops: set[int] = set()
        self._loop_message: dict[int, int] = {}
        self._mark_texts: dict[tuple[str, int], str] = {}
        self._outer_message: dict[int, int | None] = {}

    def begin(self, messages: int = 0) -> None:
        """Forget the state of the rendering before; the one to come is of ``messages`` messages."""
        self.current_message = None
        self.is_unproven = False
        self.marking_loops.clear()
        self.watch.begin(messages)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        if template.find(nodes.EvalContextModifier) is not None:
            raise jinja2.TemplateSyntaxError("lossmask cannot trace {% autoescape %}", 1)
        constant = loops_with_constant_tail(template)
        self.constant_tails = frozenset(
            number for number, loop in enumerate(_mark_loops(template)) if loop in constant
        )
        template.set_environment(self)
        return template

    def mark_start(self, loop: int, *values: object) -> str:
        """Return the mark that opens a loop body, or nothing if no message is bound."""
        for value in values:
            if type(value) is TracedMessage:
                break
        else:
            self._loop_message.pop(loop, None)
            return ""
        index = value._lossmask_message_index
        self._outer_message[loop] = self.current_message
        self.current_message = self._loop_message[loop] = index
        self.marking_loops.add(loop)
        self.watch.start(index)
        return self._mark("start", index)

    def mark_end(self, loop: int) -> str:
        """Return the mark that closes a loop body, or nothing if no message was bound."""
        index = self._loop_message.get(loop)
        if index is None:
            return ""
        self.current_message = self._outer_message[loop]
        self.watch.end(index)
        return self._mark("end", index)

    def mark_generation(self, kind: Any) -> str:
        """Return the mark of a ``{% generation %}`` tag."""
        message = self.current_message
        return self._mark(kind, -1 if message is None else message)

    def _mark(self, kind: Any, index: int) -> str:
        known = self._mark_texts.get((kind, index))
        if known is None:
            known = self._mark_texts[kind, index] = mark_text(Mark(kind, index))
        return known

    def _finalize(self, value: Any) -> Any:
        if type(value) in _PLAIN_STRINGS or not isinstance(value, (list, tuple, dict)):
            return value
        self.is_unproven = True
        return text_of(value)

    def _unproven(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a filter of ours: that its text is the one of Jinja's has to be seen each time.

        One that takes the context is not computed while a template is compiled, unseen.
        """
        noting = self._noting(function)

        @jinja2.pass_context
        @functools.wraps(function)
        def noted(_context: Any, *args: Any, **kwargs: Any) -> Any:
            if function is _trim_filter and type(args[0]) in _PLAIN_STRINGS:
                return function(*args, **kwargs)
            return noting(*args, **kwargs)

        return noted

    def _noting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def noting(*args: Any, **kwargs: Any) -> Any:
            self.is_unproven = True
            return function(*args, **kwargs)

        return noting

    def _same_as(self, value: Any, other: Any) -> bool:
        """Return whether two values are one object, which of equal strings only Python knows."""
        if isinstance(value, str) and isinstance(other, str):
            self.is_unproven = True
        return value is other

    def join_values(self, values: tuple[Any, ...]) -> str:
        """Return ``a ~ b ~ …``."""
        if any(type(value) not in _PLAIN_STRINGS for value in values):
            self.is_unproven = True
        return concat([text_of(value) for value in values])

    def add_values(self, values: tuple[Any, ...]) -> Any:
        """Return ``a + b + c + …``: strings at once, anything else one after the other."""
        for value in values:
            if type(value) not in _PLAIN_STRINGS:
                return functools.reduce(operator.add, values)
        return concat(values)

    def added_pieces(self, values: tuple[Any, ...]) -> tuple[str, ...]:
        """Return what is written for ``{{ a + b + c }}``: strings one by one, or their sum."""
        for value in values:
            if type(value) not in _PLAIN_STRINGS:
                return (str(self._finalize(functools.reduce(operator.add, values))),)
        return values

    def getattr(self, obj: Any, attribute: str) -> Any:
        if type(obj) in _MAPPINGS and attribute not in OF_MAPPINGS:
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        if attribute == "encode" and isinstance(obj, TracedText):
            raise jinja2.TemplateError("bytes cannot be traced")
        if type(obj) is str and hasattr(str, attribute):
            obj = TracedText(obj)
        if isinstance(obj, TracedText) and attribute not in _AS_IN_STR:
            self.is_unproven = True
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if type(obj) in _MAPPINGS and type(argument) is str and argument in obj:
            return obj[argument]
        if type(obj) is str and isinstance(argument, str):
            obj = TracedText(obj)
        if isinstance(obj, TracedText) and not isinstance(argument, int):
            self.is_unproven = True
        return super().getitem(obj, argument)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            self.is_unproven = True
            return percent_format(left, right)
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        template: str = value.__self__

        def traced_format(*args: Any, **kwargs: Any) -> str:
            plain = str.__str__(wrapped(*args, **kwargs))
            if value.__name__ == "format" and (origins_of(template) == LITERAL).all():
                try:
                    pieces = format_pieces(SandboxedFormatter(self), template, args, kwargs)
                except (LookupError, TypeError, ValueError):  # a format this does not take apart
                    pieces = []
                if "".join(pieces) == plain:
                    return concat(pieces)
            return coarse(plain, (template, list(args), kwargs))

        return traced_format


def _call(method: str, *arguments: nodes.Expr) -> nodes.Output:
    function = nodes.EnvironmentAttribute(method)
    return nodes.Output([nodes.Call(function, list(arguments), [], None, None)])


def _mark_loops(template: nodes.Template) -> list[nodes.For]:
    """Mark the bodies of all loops; return the loops, each at its number."""
    loops = list(template.find_all(nodes.For))
    for number, loop in enumerate(loops):
        names = [
            nodes.Name(name.name, "load")
            for name in [loop.target, *loop.target.find_all(nodes.Name)]
            if isinstance(name, nodes.Name)
        ]
        loop.body.insert(0, _call("mark_start", nodes.Const(number), *names))
        _mark_jumps(loop.body, number)
        loop.body.append(_call("mark_end", nodes.Const(number)))
    return loops


def _mark_jumps(body: list[Any], number: int) -> None:
    """Put the end mark before each ``continue`` and ``break`` of one loop."""
    for place in reversed(range(len(body))):
        node = body[place]
        if not isinstance(node, nodes.Node):
            continue
        if isinstance(node, (nodes.Continue, nodes.Break)):
            body.insert(place, _call("mark_end", nodes.Const(number)))
        for name, value in node.iter_fields():
            is_inner = isinstance(node, nodes.For) and name != "else_"
            if isinstance(value, list) and not is_inner:
                _mark_jumps(value, number)


def _keep_origin(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a filter so that a plain result of a traced input takes the coarse origin."""

    @functools.wraps(function)  # copies Jinja's pass_context and pass_eval_context attributes
    def traced_filter(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        if isinstance(result, str) and not isinstance(result, TracedText):
            sources = [value for value in (*args, *kwargs.values()) if has_traced(value)]
            return coarse(result, sources) if sources else result
        return result

    return traced_filter


def _trim_filter(value: Any, chars: str | None = None) -> str:
    return text_of(value).strip(chars)


def _join_filter(value: Any, d: str = "", attribute: str | int | None = None) -> str:
    if attribute is not None:
        raise jinja2.TemplateError("lossmask cannot trace |join with an attribute")
    return join(text_of(d), [text_of(item) for item in value])


def _replace_filter(s: Any, old: Any, new: Any, count: int | None = None) -> str:
    text = str(text_of(s))  # no longer safe, as in jinja2.filters.do_replace
    traced = text if isinstance(text, TracedText) else TracedText(text)
    return traced.replace(text_of(old), text_of(new), -1 if count is None else count)


def _format_filter(value: Any, *args: Any, **kwargs: Any) -> str:
    if args and kwargs:
        raise FilterArgumentError("can't handle positional and keyword arguments at the same time")
    return percent_format(text_of(value), kwargs or args)


def _indent_filter(s: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    """Indent lines as Jinja's ``|indent`` does (jinja2.filters.do_indent)."""
    indention = width if isinstance(width, str) else " " * width
    lines = concat((text_of(s), "\n")).splitlines()
    if blank:
        indented = join("\n" + indention, lines)
    else:
        head, *tail = lines
        indented = join(
            "\n", [head, *(concat((indention, line)) if line else line for line in tail)]
        )
    whole = concat((indention, indented)) if first else indented
    return safe(whole) if isinstance(s, SafeText) else whole


def _number_filter(read: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``|int`` or ``|float`` so that a number read from traced text keeps its origin."""

    @functools.wraps(read)
    def traced_filter(value: Any, *args: Any, **kwargs: Any) -> Any:
        number = read(value, *args, **kwargs)
        given = {**dict(zip(("default", "base"), args, strict=False)), **kwargs, "default": None}
        is_default = read(value, **given) is None
        return number if is_default else number_from(value, number)

    return traced_filter


_TRACED_FILTERS: dict[str, Callable[..., Any]] = {
    "tojson": dumps,
    "string": text_of,
    "join": _join_filter,
    "replace": _replace_filter,
    "format": _format_filter,
    "int": _number_filter(do_int),
    "float": _number_filter(do_float),
    "e": lambda value: safe(escaped(text_of(value))),
    "escape": lambda value: safe(escaped(text_of(value))),
    "indent": _indent_filter,
    "safe": safe,
    "trim": _trim_filter,
}
