"""Text that is not held against transformers' each time is the same by construction.

Every filter, test and string method of Jinja on every kind of value: either the rendering says that
it is unproven, or its text is the one that transformers renders.
"""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from transformers.utils.chat_template_utils import _compile_jinja_template

from lossmask.look_ahead import WatchedMessages
from lossmask.template_environment import TracedMessage, TracingEnvironment
from lossmask.traced_text import leaf_text
from tests.scenarios import assistant, user

CONTENTS = (
    "Hi <b>&'\" a\nb",
    "",
    "  x  ",
    "items",
    "ß İ ﬁ ŉ x1",
    "a,b,,c",
    "line one\n\nline two \r\nthree\x0bfour\u2028five",
    "123",
    "content",
    "%s {0} {a}",
    "\t tab\there",
    "w" * 40 + " " + "v " * 60,
)
VALUES = (
    *("m.content", "m['content']", "m.role", "'lit <x>'", "m", "messages", "m.items()", "none"),
    *("[m.content, 'z']", "{'a': m.content}", "m.content | length", "unknown", "m.unknown", "1.5"),
    *("true", "(m.content, m.role)", "m.content | safe", "'<q>' | safe", "'<q>' | forceescape"),
    *("m.content | forceescape", "m.content | e", "messages | map(attribute='content')"),
    *("m.content[1:3]", "m.content | list", "m | list", "dict(a=m.content)", "m.content | int"),
    *("namespace(a=m.content)", "m.content | float", "(m.content | safe, 1)"),
)
FILTERS = (
    *("abs", "attr('upper')", "batch(2) | list", "batch(2, '-') | list", "capitalize", "center"),
    *("center(30)", "default", "default('d')", "default('d', true)", "d('d', true)", "dictsort"),
    *("e", "escape", "filesizeformat", "first", "float", "forceescape", "format", "format('x')"),
    *("groupby('role')", "indent", "indent(2)", "indent(2, true)", "indent('>', true, true)"),
    *("int", "items | list", "join", "join(',')", "join(m.content)", "last", "length", "list"),
    *("lower", "map('upper') | list", "map('length') | list", "map(attribute='role') | list"),
    *("max", "min", "pprint", "random", "reject('string') | list", "rejectattr('role') | list"),
    *("replace('a', '<')", "replace('', '-')", "replace('a', 'b', 1)", "reverse"),
    *("reverse | list", "round", "safe", "select('string') | list", "selectattr('role') | list"),
    *("select('sameas', m.content) | list", "slice(2) | list", "sort", "sort(reverse=true)"),
    *("string", "striptags", "sum", "title", "tojson", "tojson(indent=2)", "trim", "trim('a')"),
    *("truncate(10)", "truncate(10, true)", "truncate(10, false, '<>', 0)", "unique | list"),
    *("upper", "urlencode", "urlize", "wordcount", "wordwrap(5)", "wordwrap(5, false)", "xmlattr"),
)
TESTS = (
    *("boolean", "callable", "defined", "divisibleby(2)", "eq('x')", "escaped", "even", "false"),
    *("filter", "float", "ge('a')", "gt('a')", "in('abc')", "in(m)", "integer", "iterable"),
    *("le('m')", "lower", "lt('m')", "mapping", "ne('x')", "none", "number", "odd", "sequence"),
    *("sameas('user')", "sameas(m.content)", "sameas('items')", "string", "test", "true"),
    *("undefined", "upper"),
)
OPERATIONS = (
    *("{v} ~ 'a'", "{v} ~ m.content", "{v} + 'a'", "'<' + {v}", "'<a>' + {v} + m.content"),
    *("{v} + m.content + 1", "m.content + {v}", "{v} * 2", "2 * {v}", "{v} % 3"),
    *("'%s|%s' % ({v}, 1)", "'%s' % {v}", "{v} % m.content", "{v}[0]", "{v}[-1]", "{v}[99]"),
    *("{v}['content']", "{v}['items']", "{v}[1:]", "{v}[::-1]", "{v}[::2]", "{v}[5:2]"),
    *("{v}[-3:-1]", "{v}[99:]", "{v}.items", "{v}.x", "{v}.keys", "{v}.get('content')"),
    *("{v}.content", "{v} == 'x'", "{v} < 'x'", "{v} in m.content", "'a' in {v}"),
    *("{v} in 'abcdefitems'", "not {v}", "{v} and 'y'", "{v} or 'y'", "-{v}", "{v} / 2"),
    *("{v} // 2", "{v} ** 2", "'y' if {v} else 'n'", "{v} is none", "{v}", "[{v}]", "({v},)"),
    *("{{'k': {v}}}", "{{{v}: 1}}", "{{'content': 1}}[{v}]", "{{'items': 2}}.items"),
    *("{{'items': 2}}['items']", "{{'a': 2}}[{v}]", "dict({v})", "dict(a={v})", "dict(m, a={v})"),
    *("namespace(a={v})", "namespace(a={v}).a", "cycler({v}).next()", "joiner({v})()"),
    *("range({v} | length) | list", "'{{}}'.format({v})", "'{{0!r}} {{0:>5}}'.format({v})"),
    *("{v}.format(1)", "'{{a}}'.format_map({{'a': {v}}})", "','.join({v})", "{v}.join(['a'])"),
    *("','.join([{v}, 'z'])", "({v} | safe) + '<'", "'<' + ({v} | safe)", "'<' ~ ({v} | safe)"),
    *("({v} | safe) * 2", "({v} | safe)[1:]", "({v} | safe).upper()"),
    *("({v} | safe).join(['<', '>'])", "'<' + ({v} | forceescape) + '>'"),
    *("({v} | forceescape) + '<'", "({v} | forceescape) + m.content"),
    *("({v} | forceescape).join(['<', '>'])", "({v} | forceescape) | replace('l', '<')"),
    *("({v} | string) + '<'", "({v} | upper) + '<'", "({v} | indent) + '<'", "({v} | trim) + '<'"),
    *("({v} | striptags) + '<'", "('<' | safe) | upper ~ '<'", "{v} is sameas {v}"),
)
STRINGS = ("m.content", "m.role", "'lit <x>,a b'", "m.content | safe", "m.content[1:3]")
ARGUMENTS = (
    *("", "'a'", "' '", "'a', 'b'", "1", "'\\n'", "20", "20, '*'", "none, 1", "' ', 1", "true"),
    *("m.content", "['a', 'b']", "chars='a'", "sep=' '", "0", "'a', 1, 2"),
)
METHODS = tuple(name for name in dir(str) if not name.startswith("_"))
LISTS = ("split", "rsplit", "splitlines", "partition", "rpartition")
EACH = "{% for m in messages %}{{ EXPRESSION }}|{% endfor %}"
SET = (
    "{% for m in messages %}{% set q = EXPRESSION %}{{ q }}|{% for c in q %}{{ c }}{% endfor %}"
    "{% endfor %}"
)
ADDRESS = re.compile(r" at 0x", re.IGNORECASE)  # of an object: another one each time


def _expressions() -> Iterator[str]:
    for value in VALUES:
        yield from (f"({value}) | {name}" for name in FILTERS)
        yield from (f"({value}) is {name}" for name in TESTS)
        yield from (operation.format(v=f"({value})") for operation in OPERATIONS)
    for value, argument in itertools.product(STRINGS, ARGUMENTS):
        yield from (f"({value}).{name}({argument})" for name in METHODS)
        for name in LISTS:
            yield f"({value}).{name}({argument}) | list"
            yield f"({value}).{name}({argument})[0]"


EXPRESSIONS = tuple(_expressions())


def _rendered(compiled: Any, messages: Any) -> str | None:
    """Return the text, None if the template raises."""
    try:
        text: str = compiled.render(
            messages=messages, tools=None, documents=None, add_generation_prompt=False
        )
    except Exception:  # whatever a template raises
        return None
    return text


def _differs(source: str, contents: Sequence[str]) -> str:
    """Say where a text that is not unproven is another one than transformers'; empty if nowhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        expected_of = _compile_jinja_template.__wrapped__(source)
        environment = TracingEnvironment()
        compiled = environment.from_string(source)
    for content in contents:
        messages = [user(content), assistant("A1")]
        traced = [
            TracedMessage({**message, "content": leaf_text(message["content"], index)}, index)
            for index, message in enumerate(messages)
        ]
        environment.begin(2)
        text = _rendered(compiled, WatchedMessages(traced, environment.watch))
        if text is None or environment.is_unproven:
            continue
        expected = _rendered(expected_of, messages)
        if str.__str__(text) != expected and not ADDRESS.search(text):
            return f"{source}: {content!r} -> {str.__str__(text)!r} instead of {expected!r}"
    return ""


def _all_differences(sources: Sequence[str], contents: Sequence[str]) -> list[str]:
    return [found for source in sources if (found := _differs(source, contents))]


def test_a_sample_of_expressions_is_the_same_or_unproven() -> None:
    sample = EXPRESSIONS[::31]
    sources = [EACH.replace("EXPRESSION", expression) for expression in sample]
    assert _all_differences(sources, CONTENTS[::3]) == []


@pytest.mark.slow
@pytest.mark.parametrize("form", [EACH, SET])
def test_all_expressions_are_the_same_or_unproven(form: str) -> None:
    sources = [form.replace("EXPRESSION", expression) for expression in EXPRESSIONS]
    assert len(sources) > 5000
    assert _all_differences(sources, CONTENTS if form == EACH else CONTENTS[:3]) == []


@pytest.mark.parametrize(
    "expression",
    [
        "'<' + (m.content | forceescape)",  # what is escaped escapes what is added to it
        "m.content + ('<q>' | forceescape)",
        "messages | pprint",  # breaks lines by the types of what it prints
        "('<q>' | safe) | pprint",
        "['<q>' | safe]",  # a constant, which could be computed while compiling
        "{'k': '<q>' | safe}",
        "1.5 | indent",
        "none | indent(2, true)",
        "m.content is sameas('items')",
        "m.content[1:3] is sameas(m.content)",
        "m.content | random",
        "lipsum(1)",
        "m.content.upper()",
        "m.content | tojson",
        "m.content ~ 1",
        "'%s' % m.content",
        "m",
        "m.content | attr('upper')",
    ],
)
def test_what_another_code_computes_is_unproven(expression: str) -> None:
    environment = TracingEnvironment()
    compiled = environment.from_string(EACH.replace("EXPRESSION", expression))
    environment.begin(1)
    message = TracedMessage({"role": "user", "content": leaf_text("items <b>", 0)}, 0)
    _rendered(compiled, WatchedMessages([message], environment.watch))
    assert environment.is_unproven


@pytest.mark.parametrize(
    "expression",
    [
        "m.content",
        "m['content']",
        "m.role ~ '\n' ~ m.content",
        "'<' + m.role + '>' + m.content + '</>'",
        "m.content | trim",
        "m.content.strip()",
        "m.content.startswith('i')",
        "m.content[1:]",
        "m.content[0]",
        "m.unknown",
        "'yes' if m.content is string else 'no'",
        "m.role is sameas none",
    ],
)
def test_what_templates_mostly_do_is_proven(expression: str) -> None:
    source = EACH.replace("EXPRESSION", expression)
    environment = TracingEnvironment()
    compiled = environment.from_string(source)
    environment.begin(1)
    message = TracedMessage({"role": "user", "content": leaf_text(" items <b>", 0)}, 0)
    assert _rendered(compiled, WatchedMessages([message], environment.watch)) is not None
    assert not environment.is_unproven
    assert _differs(source, CONTENTS) == ""


GENERATION = "{% for m in messages %}{% generation %}BODY{% endgeneration %}{{ x }}{% endfor %}"


@pytest.mark.parametrize(
    "body",
    [
        "{{ m.content }}{{ loop.index }}",
        "{% set x = m.content %}{{ x }}",
        "{% set x = x ~ m.content %}{{ x }}",
        "{% for c in m.content %}{{ c }}{% endfor %}",
        "{% if m.content %}{% set x = 1 %}{% endif %}{{ x }}",
    ],
)
def test_generation_blocks_render_alike(body: str) -> None:
    source = "{% set x = 'x' %}" + GENERATION.replace("BODY", body)
    assert _differs(source, CONTENTS) == ""


@pytest.mark.parametrize("key", ["items", "keys", "get", "values", "pop", "copy", "x", "content"])
@pytest.mark.parametrize("form", ["m.{}", "m['{}']", "m.{} is defined", "m.{} == 1", "m.a.{}"])
def test_a_key_named_like_a_method_is_found_where_jinja_finds_it(key: str, form: str) -> None:
    source = "{% set m = {'" + key + "': 1, 'a': {'" + key + "': 2}} %}{{ " + form + " }}"
    source = source.replace("{}", key)
    assert _differs(source, [""]) == ""
    assert (
        _differs("{% for m in messages %}{{ " + form.replace("{}", key) + " }}{% endfor %}", [""])
        == ""
    )
