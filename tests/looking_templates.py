"""Chat templates that look at more of a conversation than has been rendered, each in its own way.

``LOOKING`` look ahead, behind the loop or at how often something was done: a prompt is another text
than the beginning of the whole conversation, for some number of messages at least. ``PLAIN`` look
at nothing but what is rendered already, though it may seem otherwise.
"""

from __future__ import annotations

_ASKED = "{% if add_generation_prompt %}[assistant]{% endif %}"


def _loop(body: str, over: str = "messages") -> str:
    return "{% for m in " + over + " %}" + body + "{% endfor %}"


def _looking(expression: str) -> str:
    """Return a template that writes something about the conversation with each message."""
    return _loop("{{ m.content }}({{ " + expression + " }})") + _ASKED


def _before(expression: str) -> str:
    """Return a template that writes it before the first message."""
    return "{{ " + expression + " }}" + _loop("{{ m.content }}|") + _ASKED


_SEEN = {
    "the number of messages": "messages | length",
    "the number of messages, counted": "messages | count",
    "the last message": "messages[-1].content",
    "the last message, by filter": "(messages | last).content",
    "the messages reversed": "(messages | reverse | list)[0].content",
    "a part from the end": "messages[-2:] | map(attribute='content') | join",
    "every second message": "messages[::2] | map(attribute='content') | join",
    "all but the last": "messages[:-1] | map(attribute='content') | join",
    "the rest": "messages[1:] | map(attribute='content') | join",
    "the rest, by a name for it": "messages[1:][1:] | map(attribute='content') | join",
    "all contents": "messages | map(attribute='content') | join(',')",
    "the roles of all": "messages | map(attribute='role') | list",
    "users alone": "messages | selectattr('role', 'equalto', 'user') | list | length",
    "not the users": "(messages | rejectattr('role', 'equalto', 'user') | list)[-1].content",
    "grouped": "messages | groupby('role') | length",
    "sorted": "(messages | sort(attribute='content'))[-1].content",
    "in batches": "messages | batch(2) | list | length",
    "in slices": "messages | slice(2) | list | length",
    "unique roles": "messages | unique(attribute='role') | list | length",
    "as JSON": "messages | tojson",
    "as JSON, inside something": "{'all': messages} | tojson",
    "as text": "messages | string",
    "printed": "messages",
    "inside a list": "[messages]",
    "by ~": "'' ~ messages",
    "by %": "'%s' % messages",
    "by format": "'{}'.format(messages)",
    "by format, one of them": "'{0[1]}'.format(messages)",
    "as a list": "(messages | list)[-1].content",
    "a copy": "messages.copy()[-1].content",
    "how often one is there": "messages.count(messages[0])",
    "compared": "messages == messages[:2]",
    "compared the other way": "([] + messages[0:1]) == messages",
    "not equal": "messages != [messages[0]]",
    "added to": "(messages + [1]) | length",
    "added": "([1] + messages) | length",
    "many added": "([1] + messages + [2] + [3]) | length",
    "repeated": "(messages * 2) | length",
    "one that is not there": "messages[3] is defined",
    "one behind this": "messages[(loop.index if loop is defined else 1)].content",
    "contained": "{'role': 'user', 'content': 'u3'} in messages",
    "as a sequence": "'yes' if messages[2:] else 'no'",
    "pretty printed": "messages | pprint",
    "the largest": "messages | map(attribute='content') | max",
    "summed up": "messages | map(attribute='content') | map('length') | sum",
    "by dict": "dict(a=messages).a[-1].content",
    "by namespace": "namespace(a=messages).a[-1].content",
    "written out with attr": "messages | map('attr', 'role') | list | length",
}

_IN_LOOP = {
    "loop.last": "loop.last",
    "loop.length": "loop.length",
    "loop.revindex": "loop.revindex",
    "loop.revindex0": "loop.revindex0",
    "loop.nextitem": "loop.nextitem.content if loop.nextitem is defined",
    "loop itself": "loop",
    "the length of loop": "loop | length",
}

LOOKING = (
    {f"each message: {name}": _looking(expression) for name, expression in _SEEN.items()}
    | {f"first: {name}": _before(expression) for name, expression in _SEEN.items()}
    | {f"each message: {name}": _looking(expression) for name, expression in _IN_LOOP.items()}
    | {
        "a loop in the loop": _loop("{{ m.content }}" + "{% for n in messages %}.{% endfor %}")
        + _ASKED,
        "a loop over the rest": _loop(
            "{{ m.content }}{% for n in messages[loop.index:] %}.{% endfor %}"
        )
        + _ASKED,
        "the next one's items": _loop(
            "{{ m.content }}{% for k, v in (messages[loop.index] or {}).items() %}{{ k }}"
            "{% endfor %}"
        )
        + _ASKED,
        "messages collected first": "{% set ns = namespace(all=[]) %}"
        + _loop("{% set ns.all = ns.all + [m] %}")
        + _loop("{{ m.content }}{{ loop.last }}", "ns.all")
        + _ASKED,
        "a message in a list": _loop("{% for n in [m] %}{{ n.content }}{% endfor %}") + _ASKED,
        "two loops": _loop("{{ m.role[0] }}") + _loop("{{ m.content }}") + _ASKED,
        "two loops, the first ended early": _loop("{% break %}")
        + _loop("{{ m.content }}{% if not loop.last %},{% endif %}")
        + _ASKED,
        "another name": "{% set all = messages %}" + _loop("{{ m.content }}{{ all[-1].role }}"),
        "another name in the loop": "{% set all = messages[1:] %}{{ messages[0].content }}"
        + _loop("{{ m.content }}{{ all | length }}", "all")
        + _ASKED,
        "a macro": "{% macro last(of) %}{{ of[-1].role }}{% endmacro %}"
        + _loop("{{ m.content }}{{ last(messages) }}")
        + _ASKED,
        "a macro without arguments": "{% macro last() %}{{ messages | length }}{% endmacro %}"
        + _loop("{{ m.content }}{{ last() }}")
        + _ASKED,
        "a call block": "{% macro twice() %}{{ caller() }}{% endmacro %}"
        + _loop("{% call twice() %}{{ m.content }}{{ loop.last }}{% endcall %}")
        + _ASKED,
        "a set block": _loop("{% set x %}{{ m.content }}{{ messages|length }}{% endset %}{{ x }}")
        + _ASKED,
        "a set block around all": "{% set x %}"
        + _loop("{{ m.content }} ")
        + "{% endset %}{{ x | trim }}"
        + _ASKED,
        "a filter block around all": "{% filter trim %}"
        + _loop("{{ m.content }} ")
        + "{% endfilter %}"
        + _ASKED,
        "an if around all": "{% if messages %}"
        + _loop("{{ m.content }}")
        + "{{ 'end' if messages|length > 2 }}{% endif %}"
        + _ASKED,
        "recursive": "{% for m in messages recursive %}{{ m.content }}"
        "{% if loop.depth == 1 %}{{ loop(messages[1:]) }}{% endif %}{% endfor %}" + _ASKED,
        "with else": "{% for m in messages[1:] %}{{ m.content }}{% else %}alone{% endfor %}"
        + _ASKED,
        "filtered by another": "{% for m in messages if m.role != messages[-1].role or "
        "m.content == messages[-1].content %}{{ m.content }}{% endfor %}" + _ASKED,
        "filtered": "{% for m in messages if m.role != 'system' %}{{ m.content }}{{ loop.last }}"
        "{% endfor %}" + _ASKED,
        "no message": "{{ messages | length }}" + _ASKED,
        "by number": "{% for i in range(messages | length) %}{{ messages[i].content }}{% endfor %}"
        + _ASKED,
        "the tail counts": "{% set ns = namespace(n=0) %}"
        + _loop("{{ m.content }}{% set ns.n = ns.n + 1 %}")
        + "{% if add_generation_prompt %}{{ ns.n }}{% endif %}",
        "the tail counts under another name": "{% set ns = namespace(n=0) %}{% set other = ns %}"
        + _loop("{{ m.content }}{% set other.n = loop.index %}")
        + "{% if add_generation_prompt %}{{ ns.n }}{% endif %}",
        "the tail has the last role": "{% set ns = namespace(m=none) %}"
        + _loop("{{ m.content }}{% set ns.m = m %}")
        + "{% if add_generation_prompt %}{{ ns.m.role }}{% endif %}",
        "the tail reads a message": _loop("{{ m.content }}")
        + "{% if add_generation_prompt and messages[-1].role == 'user' %}[assistant]{% endif %}",
        "the tail reads under another name": "{% set all = messages %}"
        + _loop("{{ m.content }}", "all")
        + "{% if add_generation_prompt and all[-1].role == 'user' %}[assistant]{% endif %}",
        "the tail calls a macro": "{% macro ask() %}{{ messages[-1].role }}{% endmacro %}"
        + _loop("{{ m.content }}")
        + "{% if add_generation_prompt %}{{ ask() }}{% endif %}",
        "the tail calls a block": "{% set ns = namespace(n=0) %}{% block b %}"
        "{{ ns.n if ns.n }}{% endblock %}"
        + _loop("{{ m.content }}{% set ns.n = ns.n + 1 %}")
        + "{% if add_generation_prompt %}{{ self.b() }}{% endif %}",
        "the tail has a block": _loop("{{ m.content }}")
        + "{% block b %}{% if add_generation_prompt %}{{ messages|length }}{% endif %}"
        "{% endblock %}",
        "a joiner": "{% set j = joiner('|') %}"
        + _loop("{{ m.content }}{% if m.role == 'assistant' %}{% set q = j() %}{% endif %}")
        + "{% if add_generation_prompt %}{{ j() }}A{% endif %}",
        "a joiner in a list": "{% set j = [joiner('|')] %}"
        + _loop("{{ m.content }}{% if m.role == 'assistant' %}{% set q = j[0]() %}{% endif %}")
        + "{% if add_generation_prompt %}{{ j[0]() }}A{% endif %}",
        "a cycler": "{% set c = cycler('1', '2', '3') %}"
        + _loop("{{ m.content }}{% set q = c.next() %}")
        + "{% if add_generation_prompt %}{{ c.current }}A{% endif %}",
        "an iterator": "{% set g = ['1', '2', '3', '4', '5'] | map('trim') %}"
        + _loop("{{ m.content }}{% set q = g | first %}")
        + "{% if add_generation_prompt %}{{ g | first }}A{% endif %}",
        "an iterator over the messages": "{% set g = messages | map(attribute='role') %}"
        + _loop("{{ m.content }}{{ g | first }}{{ g | first if loop.first }}")
        + _ASKED,
        "a text behind the last message": _loop("{{ m.content }}")
        + "{% if add_generation_prompt %}[assistant]{% else %}<end>{% endif %}",
        "the loop is told that a prompt is asked for": _loop(
            "{{ m.content }}{{ '!' if add_generation_prompt }}"
        )
        + _ASKED,
        "the head is told that a prompt is asked for": "{{ '!' if add_generation_prompt }}"
        + _loop("{{ m.content }}")
        + _ASKED,
        "a macro is told that a prompt is asked for": (
            "{% macro t(m) %}{{ m.content }}{{ '!' if add_generation_prompt }}{% endmacro %}"
        )
        + _loop("{{ t(m) }}")
        + _ASKED,
        "a name for that a prompt is asked for": "{% set asked = add_generation_prompt %}"
        + _loop("{{ m.content }}{{ '!' if asked }}")
        + "{% if asked %}[assistant]{% endif %}",
        "a block is told that a prompt is asked for": "{{ self.b() }}"
        + _loop("{{ m.content }}")
        + "{% block b %}{% if add_generation_prompt %}[assistant]{% endif %}{% endblock %}",
        "the same loop twice, once in an if": (
            "{% set ns = namespace(n=0) %}{% set them = messages %}{% if true %}"
            + _loop("{{ m.content }}{% set ns.n = ns.n + 1 %}", "them")
            + "{{ 'X' if ns.n == 1 }}{% set them = [] %}{% endif %}"
            + _loop("{{ m.content }}{% set ns.n = ns.n + 1 %}", "them")
            + _ASKED
        ),
    }
)

PLAIN = {
    "each message": _loop("{{ m.role }}:{{ m.content }}\n") + _ASKED,
    "loop.first and loop.index": _loop("{{ loop.index }}{{ loop.first }}{{ m.content }}") + _ASKED,
    "loop.previtem": _loop("{{ m.content }}{{ loop.previtem.content if loop.previtem is defined }}")
    + _ASKED,
    "loop.changed": _loop("{{ m.content if loop.changed(m.role) }}") + _ASKED,
    "the first message": "{{ messages[0].content }}" + _loop("{{ m.content }}") + _ASKED,
    "the messages before": _loop(
        "{{ m.content }}{{ messages[loop.index0 - 1].role if loop.index0 else '' }}"
    )
    + _ASKED,
    "the rest behind a system prompt": (
        "{% if messages[0].role == 'system' %}{{ messages[0].content }}"
        "{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}"
    )
    + _loop("{{ m.content }}", "rest")
    + _ASKED,
    "a counter in the loop": "{% set ns = namespace(n=0) %}"
    + _loop("{{ m.content }}{{ ns.n }}{% set ns.n = ns.n + 1 %}")
    + _ASKED,
    "continue": _loop("{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.content }}")
    + _ASKED,
    "a constant in the tail": "{% set header = '[' ~ 'assistant' | trim ~ ']' %}"
    + _loop("{{ m.content }}")
    + "{% if add_generation_prompt %}{{ header }}{% endif %}",
    "no generation prompt": _loop("[{{ m.role }}]{{ m.content }}"),
}
