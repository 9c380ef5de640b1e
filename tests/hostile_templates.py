"""Chat templates that attack: the machine's files, the sandbox, the data, time and memory.

``ATTACKS`` try to get at Python or at the user's data; each says what comes of it. The known
escapes of Jinja are among them (CVE-2016-10745, 2019-10906, 2024-22195, 2024-34064, 2024-56326,
2024-56201, 2025-27516), and attempts through everything that tracing adds. ``BOMBS`` use up time or
memory.
"""

from __future__ import annotations

from typing import NamedTuple

from transformers.utils.chat_template_utils import _compile_jinja_template

from tests.scenarios import Message, assistant, call, user

CANARY = "CANARY"
"""Stands for the path of a file that an attack tries to make."""

MESSAGES: list[Message] = [
    user("Hi"),
    assistant("Hello", tool_calls=[call("f", {"a": "b"})]),
]


_IS_HARDENED = _compile_jinja_template("").environment.globals["dict"] is not dict
"""Whether this transformers gives templates a ``dict`` and a ``namespace`` of its own."""

_NAMESPACE_REFUSAL = (
    "SecurityError: Chat templates cannot store underscore-prefixed attributes on a namespace, but "
    "got '__class__'. Please rename the attribute."
)


class Attack(NamedTuple):
    """A template and what comes of rendering it with ``MESSAGES``.

    Attributes:
        name: Short.
        template: Its source.
        result: The text, or ``Kind: message`` of the error, as transformers has it.
        ours: As we have it, if it differs.
    """

    name: str
    template: str
    result: str = ""
    ours: str | None = None

    @property
    def our_result(self) -> str:
        """What comes of it in the traced environment."""
        return self.result if self.ours is None else self.ours


def _unsafe(attribute: str, kind: str) -> str:
    return f"SecurityError: access to attribute {attribute!r} of {kind!r} object is unsafe."


def _of_string(name: str, template: str, attribute: str = "__class__") -> Attack:
    return Attack(name, template, _unsafe(attribute, "str"), _unsafe(attribute, "TracedText"))


def _of_message(name: str, template: str, attribute: str) -> Attack:
    return Attack(name, template, _unsafe(attribute, "dict"), _unsafe(attribute, "TracedMessage"))


_FORMAT = [
    Attack("format", "{{ '{0.__class__}'.format(1) }}"),
    _of_string("format of content", "{{ '{0.__class__.__mro__}'.format(messages[0].content) }}"),
    Attack("format of an item", "{{ '{0[0].__class__}'.format(messages) }}"),
    Attack("format_map", "{{ '{x.__class__}'.format_map({'x': 1}) }}"),
    Attack("attr format", "{{ ('{0.__class__}'|attr('format'))(1) }}"),
    Attack("attr format_map", "{{ ('{x.__class__}'|attr('format_map'))({'x': 1}) }}"),
    Attack("stored format", "{% set f = '{0.__class__}'.format %}{{ f(1) }}"),
    Attack("format in a dict", "{{ {'f': '{0.__class__}'.format}.f(1) }}"),
    Attack(
        "format in a namespace", "{% set n = namespace(f='{0.__class__}'.format) %}{{ n.f(1) }}"
    ),
    Attack(
        "format given to a macro",
        "{% macro run(f) %}{{ f(1) }}{% endmacro %}{{ run('{0.__class__}'.format) }}",
    ),
    Attack(
        "format by map",
        "{{ ['{0.__class__}']|map('format', 1)|list }}",
        "TypeError: not all arguments converted during string formatting",
    ),
    Attack("traced format", "{{ (messages[0].content ~ '{0.__class__}').format(1) }}", "Hi"),
    Attack(
        "stored traced format",
        "{% set f = (messages[0].content ~ '{0.__class__}').format %}{{ f(1) }}",
        "Hi",
    ),
    Attack(
        "traced attr format",
        "{{ ((messages[0].content ~ '{0.__class__}')|attr('format'))(1) }}",
        "Hi",
    ),
    Attack("safe format", "{{ (('{0.__class__}' ~ messages[0].content)|safe).format(1) }}", "Hi"),
    Attack("nested field", "{{ '{0:{1.__class__}}'.format('a', 1) }}", "a"),
    Attack("traced nested field", "{{ '{0:{1.__class__}}'.format(messages[0].content, 1) }}", "Hi"),
    Attack(
        "traced percent",
        "{{ (messages[0].content ~ '%(a.__class__)s') % {'a': 1} }}",
        "KeyError: 'a.__class__'",
    ),
    Attack("origins by format", "{{ '{0._origins}'.format(messages[0].content) }}"),
    Attack("index by format", "{{ '{0._lossmask_message_index}'.format(messages[0]) }}"),
]

_TYPES = [
    _of_string("class", "{{ ''.__class__.__mro__[1].__subclasses__() }}"),
    _of_string("class of content", "{{ messages[0].content.__class__.__mro__ }}"),
    _of_string("class as item", "{{ messages[0].content['__class__']['__mro__'] }}"),
    Attack("class by attr", "{{ messages[0].content|attr('__class__')|attr('__mro__') }}"),
    Attack("class by escapes", r"{{ ''['\x5f\x5fclass\x5f\x5f'] }}"),
    Attack("class backwards", "{{ ''['__ssalc__'|reverse] }}"),
    Attack(
        "name made of content", "{{ ''[('__' ~ messages[0].content)|replace('Hi', 'class__')] }}"
    ),
    Attack("class by map", "{{ [1]|map('attr', '__class__')|list }}", "[Undefined]"),
    Attack("class by map attribute", "{{ [1]|map(attribute='__class__')|list }}", "[Undefined]"),
    _of_string(
        "class by dotted attribute",
        "{{ messages|map(attribute='content.__class__.__mro__')|list }}",
    ),
    _of_string("class by groupby", "{{ messages|groupby('content.__class__')|list }}"),
    _of_string("class by sum", "{{ messages|sum(attribute='content.__class__') }}"),
    Attack("class by selectattr", "{{ messages|selectattr('content.__class__')|list }}", "[]"),
    Attack(
        "class by join",
        "{{ messages|join(attribute='__class__') }}",
        "",
        "TemplateError: lossmask cannot trace |join with an attribute",
    ),
    _of_string("operator", "{{ messages[0].content.__eq__('Hi') }}", "__eq__"),
    Attack("class in a generation block", "{% generation %}{{ (1).__class__ }}{% endgeneration %}"),
    Attack("class of a number", "{{ (1).real.__class__ }}"),
]

_TRACING = [
    Attack("origins", "{{ messages[0].content._origins }}"),
    Attack("origins as item", "{{ messages[0].content['_origins'] }}"),
    Attack("origins by attr", "{{ messages[0].content|attr('_origins') }}"),
    Attack(
        "origins by map",
        "{{ messages|map(attribute='content')|map('attr', '_origins')|list }}",
        "[Undefined, Undefined]",
    ),
    Attack("marks", "{{ messages[0].content._marks }}"),
    Attack(
        "cut",
        "{{ messages[0].content._cut(0, 1) }}",
        "UndefinedError: 'str object' has no attribute '_cut'",
        _unsafe("_cut", "TracedText"),
    ),
    Attack("source of a number", "{{ (('3' ~ messages[0].content[:0])|int)._source }}"),
    Attack("index", "{{ messages[0]._lossmask_message_index }}"),
    Attack("index as item", "{{ messages[0]['_lossmask_message_index'] }}"),
    Attack("dict of a message", "{{ messages[0].__dict__ }}"),
    Attack("globals of a method", "{{ messages[0].content.upper.__globals__ }}"),
    Attack(
        "function of a method",
        "{{ messages[0].content.upper.__func__.__globals__ }}",
        "UndefinedError: 'builtin_function_or_method object' has no attribute '__func__'",
        _unsafe("__func__", "method"),
    ),
    Attack("self of a method", "{{ messages[0].content.upper.__self__ }}"),
    Attack("self of format", "{{ messages[0].content.format.__self__ }}"),
    Attack("closure of format", "{{ messages[0].content.format.__closure__ }}"),
    Attack(
        "html of safe text",
        "{{ (messages[0].content|safe).__html__() }}",
        _unsafe("__html__", "Markup"),
        _unsafe("__html__", "SafeText"),
    ),
    Attack(
        "environment",
        "{{ environment.join_values }}",
        "UndefinedError: 'environment' is undefined",
    ),
    Attack("mark", "{{ mark_start(0, messages[0]) }}", "UndefinedError: 'mark_start' is undefined"),
    Attack(
        "bytes",
        "{{ messages[0].content.encode() }}",
        "b'Hi'",
        "TemplateError: bytes cannot be traced",
    ),
    Attack(
        "bytes by attr",
        "{{ (messages[0].content|attr('encode'))() }}",
        "b'Hi'",
        "TemplateError: bytes cannot be traced",
    ),
    Attack(
        "default of tojson",
        "{{ messages|tojson(default=lipsum) }}",
        "TypeError: _cached_compile_jinja_template.<locals>.tojson() got an unexpected keyword "
        "argument 'default'",
        "TypeError: dumps() got an unexpected keyword argument 'default'",
    ),
]

_GLOBALS = [
    Attack("self", "{{ self.__init__.__globals__ }}", _unsafe("__init__", "TemplateReference")),
    Attack(
        "context of self",
        "{{ self._TemplateReference__context.environment }}",
        _unsafe("_TemplateReference__context", "TemplateReference"),
    ),
    *[
        Attack(
            name,
            f"{{{{ {name}.__init__.__globals__.os.popen('touch {CANARY}').read() }}}}",
            _unsafe("__init__", kind),
        )
        for name, kind in {
            "cycler": "type",
            "joiner": "type",
            "namespace": "type",
            "dict": "TemplateDict" if _IS_HARDENED else "type",
        }.items()
    ],
    *[
        Attack(
            name,
            f"{{{{ {name}.__globals__['os'].popen('touch {CANARY}').read() }}}}",
            _unsafe("__globals__", "function"),
        )
        for name in ("lipsum", "raise_exception", "strftime_now")
    ],
    Attack("closure", "{{ strftime_now.__closure__ }}"),
    Attack("range", "{{ range.__globals__ }}"),
    Attack("tojson", "{{ tojson.__globals__ }}", "UndefinedError: 'tojson' is undefined"),
    Attack(
        "loop",
        "{% for m in messages %}{{ loop.__init__.__globals__ }}{% endfor %}",
        _unsafe("__init__", "LoopContext"),
    ),
    Attack("cycle", "{% for m in messages %}{{ loop.cycle.__globals__ }}{% endfor %}"),
    Attack(
        "macro",
        "{% macro f() %}{% endmacro %}{{ f.__init__.__globals__ }}",
        _unsafe("__init__", "Macro"),
    ),
    Attack("environment of a macro", "{% macro f() %}{% endmacro %}{{ f._environment }}"),
    Attack(
        "caller",
        "{% macro f() %}{{ caller.__globals__ }}{% endmacro %}{% call f() %}{% endcall %}",
    ),
    Attack("block", "{% block a %}{{ self.a.__globals__ }}{% endblock %}"),
    Attack(
        "undefined",
        "{{ nothing.__class__.__init__.__globals__ }}",
        _unsafe("__init__", "Undefined"),
    ),
    *[
        Attack(
            f"{part} of a generator",
            f"{{{{ (messages|map('upper')).{part}.f_globals }}}}",
            _unsafe(part, "generator"),
        )
        for part in ("gi_frame", "gi_code")
    ],
    Attack(
        "namespace attribute",
        "{% set n = namespace() %}{% set n.__class__ = 1 %}",
        _NAMESPACE_REFUSAL if _IS_HARDENED else "",
    ),
    Attack(
        "namespace keyword",
        "{{ namespace(__class__=1) }}",
        _NAMESPACE_REFUSAL if _IS_HARDENED else "<Namespace {'__class__': 1}>",
    ),
]

_FILES = [
    *[
        Attack(
            f"{tag.split()[0]} a file",
            f"{{% {tag} %}}",
            "TypeError: no loader for this environment specified",
        )
        for tag in (
            "include '/etc/passwd'",
            "import '/etc/passwd' as p",
            "from '/etc/passwd' import p",
            "extends '/etc/passwd'",
        )
    ],
    Attack(
        "include one of several",
        "{% include ['/etc/passwd', '/etc/hosts'] ignore missing %}",
        "TypeError: no loader for this environment specified",
    ),
    *[
        Attack(
            f"xmlattr {name}",
            f"{{{{ {{{key}: 1}}|xmlattr }}}}",
            f"ValueError: Invalid character in attribute name: {shown!r}",
        )
        for name, key, shown in (
            ("space", "'a onclick=x'", "a onclick=x"),
            ("slash", "'a/onclick'", "a/onclick"),
            ("greater", "'a>b'", "a>b"),
            ("equals", "'a=b'", "a=b"),
            ("content", "messages[0].content ~ ' on='", "Hi on="),
        )
    ],
]

_DATA = [
    *[
        Attack(name, f"{{{{ messages.{name}({argument}) }}}}", _unsafe(name, "list"))
        for name, argument in (
            ("append", "1"),
            ("clear", ""),
            ("pop", ""),
            ("reverse", ""),
            ("insert", "0, 1"),
            ("sort", ""),
            ("extend", "[1]"),
            ("remove", "messages[0]"),
        )
    ],
    *[
        _of_message(f"message {name}", f"{{{{ messages[0].{name}({argument}) }}}}", name)
        for name, argument in (
            ("update", "{'content': 'x'}"),
            ("setdefault", "'x', 1"),
            ("pop", "'content'"),
            ("popitem", ""),
            ("clear", ""),
        )
    ],
    _of_message("stored update", "{% set f = messages[0].update %}{{ f({'a': 1}) }}", "update"),
    _of_message("update by attr", "{{ (messages[0]|attr('update'))({'a': 1}) }}", "update"),
    Attack("tool calls", "{{ messages[1].tool_calls.append(1) }}", _unsafe("append", "list")),
    Attack(
        "arguments",
        "{{ messages[1].tool_calls[0].function.arguments.update(a=1) }}",
        _unsafe("update", "dict"),
    ),
]

ATTACKS = [*_FORMAT, *_TYPES, *_TRACING, *_GLOBALS, *_FILES, *_DATA]


class Bomb(NamedTuple):
    """A piece of a template that uses up time or memory.

    Attributes:
        name: Short.
        source: Template text; ``messages`` is in reach.
        ends: What the rejection of the row says; empty where it depends on the machine which limit
            comes first, or whether the tokenizer aborts.
    """

    name: str
    source: str
    ends: str


TIME = "s of processor time (and 1 s per message)"
MEMORY = "GiB of memory: "
_RANGE = "Range too big. The sandbox blocks ranges larger than MAX_RANGE (100000)."
_RECURSION = "the chat template raised RecursionError: maximum recursion depth exceeded"


def _doubled(times: int, step: str, *names: str) -> str:
    starts = ", ".join(f"{name}=[1]" for name in names)
    steps = "".join(f"{{% set n.{name} = {step.replace('X', 'n.' + name)} %}}" for name in names)
    return (
        f"{{% set n = namespace({starts}) %}}{{% for _ in range({times}) %}}{steps}{{% endfor %}}"
    )


_GROW = (
    "{% set n = namespace(s='a' * 16) %}{% for _ in range(60) %}{% set n.s = STEP %}{% endfor %}"
)
_ONE = "(messages|length // messages|length)"  # 1, but not a constant that compiling computes

BOMBS = [
    Bomb(
        "nested lists compared in native code",
        _doubled(60, "[X, X]", "a", "b") + "{{ n.a == n.b }}",
        TIME,
    ),
    Bomb("repetition", f"{{{{ ('a' * (10**10 * {_ONE}))|length }}}}", MEMORY),
    Bomb(
        "loops",
        "".join(f"{{% for {a} in range(99999) %}}" for a in "abc") + "{% endfor %}" * 3,
        TIME,
    ),
    Bomb(
        "loops that write",
        "{% for a in range(99999) %}{% for b in range(99999) %}" + "x" * 99 + "{% endfor %}" * 2,
        TIME,
    ),
    Bomb("loop", "{% for _ in range(10**9) %}{% endfor %}", _RANGE),
    Bomb("list of a range", "{{ range(10**9)|list|length }}", _RANGE),
    Bomb("centred", f"{{{{ 'a'|center(10**10 * {_ONE}) }}}}", MEMORY),
    Bomb("percent", f"{{{{ '%10000000000d' % {_ONE} }}}}", MEMORY),
    Bomb("format", f"{{{{ '{{:>10000000000}}'.format({_ONE}) }}}}", MEMORY),
    Bomb("list", f"{{{{ ([0] * (10**10 * {_ONE}))|length }}}}", MEMORY),
    Bomb("doubling by ~", _GROW.replace("STEP", "n.s ~ n.s"), MEMORY),
    Bomb("doubling by +", _GROW.replace("STEP", "n.s + n.s"), MEMORY),
    Bomb("replace tower", _GROW.replace("STEP", "n.s|replace('a', n.s)"), MEMORY),
    Bomb("power", f"{{{{ 10**(10**(10 * {_ONE})) > 1 }}}}", TIME),
    Bomb(
        "macro that calls itself", "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", _RECURSION
    ),
    Bomb(
        "macros that call each other",
        "{% macro f(x) %}{{ g(x) }}{% endmacro %}{% macro g(x) %}{{ f(x) }}{% endmacro %}"
        "{{ f(1) }}",
        _RECURSION,
    ),
    Bomb(
        "tree of macro calls",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
        "{{ f(60) }}",
        TIME,
    ),
    Bomb("indent", f"{{{{ 'a\nb'|indent(10**10 * {_ONE}) }}}}", MEMORY),
    Bomb("indented JSON", f"{{{{ {{'a': 1}}|tojson(indent=10**10 * {_ONE}) }}}}", MEMORY),
    Bomb("batch", f"{{{{ range(10)|batch(10**10 * {_ONE}, 'x')|list|length }}}}", MEMORY),
    Bomb("slice", f"{{{{ range(10)|slice(10**9 * {_ONE})|list|length }}}}", ""),
    Bomb("wordwrap", f"{{{{ ('a ' * (10**8 * {_ONE}))|wordwrap(1)|length }}}}", ""),
    Bomb("urlize", f"{{{{ ('http://a.b ' * (10**7 * {_ONE}))|urlize|length }}}}", ""),
    Bomb("lorem ipsum", f"{{{{ lipsum(n=10**6 * {_ONE})|length }}}}", TIME),
    Bomb("nested lists printed", _doubled(60, "[X, X]", "a") + "{{ n.a }}", TIME),
    Bomb("nested lists as JSON", _doubled(60, "[X, X]", "a") + "{{ n.a|tojson }}", TIME),
    Bomb(
        "nested tuples hashed",
        _doubled(60, "(X, X)", "a").replace("[1]", "(1,)") + "{{ {n.a: 1} }}",
        TIME,
    ),
    Bomb("deep list printed", _doubled(20000, "[X]", "a") + "{{ n.a }}", "RecursionError"),
    Bomb("deep list as JSON", _doubled(20000, "[X]", "a") + "{{ n.a|tojson }}", "RecursionError"),
    Bomb("groups", f"{{{{ (messages * (10**7 * {_ONE}))|groupby('role')|length }}}}", TIME),
    Bomb("many tokens", f"{{{{ 'a b ' * (10**7 * {_ONE}) }}}}", ""),
    Bomb("one token", f"{{{{ 'a' * (2 * 10**7 * {_ONE}) }}}}", ""),
]
CONSTANT_BOMBS = {
    "constant repetition": "{{ 'a' * 10**9 }}",
    "constant wordwrap": "{{ ('a ' * 10**7)|wordwrap(1) }}",
    "constant power": "{{ 10**(10**10) > 1 }}",
    "wide concatenation": "{{ " + "~".join(["messages"] * 100_000) + " }}",
    "nested loops that print": "{% for a in range(99999) %}" * 15 + "x" + "{% endfor %}" * 15,
}
"""Templates that no row survives; some blow up when they are compiled."""

NESTED = {
    "parentheses": "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}",
    "lists": "{{ " + "[" * 20_000 + "1" + "]" * 20_000 + " }}",
    "ifs": "{% if a %}" * 20_000 + "{% endif %}" * 20_000,
    "loops": "{% for a in b %}" * 20_000 + "{% endfor %}" * 20_000,
    "sums": "{{ " + "+".join(["1"] * 20_000) + " }}",
    "attributes": "{{ a" + ".b" * 20_000 + " }}",
    "filters": "{{ a" + "|trim" * 20_000 + " }}",
    "nots": "{{ " + "not " * 20_000 + "1 }}",
    "conditions": "{{ " + "1 if a else " * 20_000 + "1 }}",
    "powers": "{{ " + "**".join(["1"] * 20_000) + " }}",
}
"""Nested too deeply to be parsed."""
