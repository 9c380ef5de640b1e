"""Conversations that Hypothesis draws: every role and key, and text that templates trip over.

In: literals of the template that the conversations are meant for. Out: strategies of rows, as a
data file holds them. Simple choices come first everywhere, so that a failing row shrinks to a short
one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

Row = dict[str, Any]
Message = dict[str, Any]
Texts = st.SearchStrategy[str]

WORDS = ("a", "b ", "So,", "one two ", "Why?", "7", "x_1", "YES", "No.")
WHITE_SPACE = (" ", "\n", "\n\n", "  ", "\t", "\r\n", "\u00a0", "\u2028", "\u3000", "\x0b", "\x85")
UNICODE = (
    "é",
    "e\u0301",
    "\u0301",  # a combining mark with nothing before it
    "\u00df",
    "\u0130",  # becomes two characters in lower case
    "ﬁ",
    "世界",
    "龘",
    "𠮷",
    "한\u1112\u1161",
    "👍🏽",
    "👨‍👩‍👧",
    "🇩🇪",
    "🏴\U000e0067\U000e0062\U000e007f",
    "שלום",
    "\u202eمرحبا",
    "नमस्ते",
    "\x00",
    "\x1b[0m",
    "\x7f",
    "\ufeff",
    "\ufffd",
    "\u200b",
    "\u200d",
    "\ue000",
    "\U0010fffd",
    "\uffff",
    "𒀀",
    "▁",
    "Ġ",
    "ø",
)
MARKUP = (
    "<b>x</b>",
    "&amp;",
    "'",
    '"',
    "\\",
    "\\n",
    "```py\nif a:\n\tb()\n```",
    '{"a": [1, "b"]}',
    "{",
    "}",
    "[",
    "]",
    "<",
    ">",
    "1 < 2 > 1",
    "%s %(a)s %%",
    "{0} {a}",
    "{{ x }}",
    "{% if x %}",
    "{# x #}",
    "$1",
)
TEMPLATE_TEXT = (
    "<think>",
    "</think>",
    "<think>\nhm\n</think>\n\n",
    "<think></think>",
    "[THINK]hm[/THINK]",
    "assistant",
    "user\n",
    "Assistant:",
    "### Response:\n",
    "### Instruction:",
    "[INST]",
    " [/INST]",
    "<<SYS>>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "None",
    "null",
    "false",
    "[TOOL_CALLS]",
    "/no_think",
    "Observation:",
)
KEYS = (
    "city",
    "a b",
    "items",
    "name",
    "arguments",
    "role",
    "content",
    "messages",
    "loop",
    "type",
    "ключ",
    "",
    "a/b",
    "0",
    "{{ x }}",
    "keys",
)

ANY_CHARACTER = st.characters(exclude_categories=["Cs"])
JSON_STRINGS = ("{}", "", '{"city": "Rome"}', '{"a":  {"b": [1, null]}}', "not JSON", "[1]", '"x"')
ODD_PARTS: tuple[Any, ...] = ({"type": "image"}, "plain", {"text": "no type"}, {}, None)
WEIGHTS: tuple[Message, ...] = (
    {"train": False},
    {"weight": 0},
    {"train": True},
    {"weight": 0.5},
    {"weight": 2},
)
CALLS = ("tools", "tools and null", "tools and nothing")
CALLED = ("weather", "get time", "ƒ.look_up-2")
ASSISTANTS = (*["plain"] * 9, *CALLS, "tools", "reasoning", "reasoning and tools", "think", "parts")
ASSISTANTS += ("weight", "weight", "prefill", "prefill", "extra")
OTHERS = (*["plain"] * 10, "parts", "extra")
ROLES = ("user", "assistant", "system", "tool", "developer")
_ASKED = ("user", "assistant")
_TOOLS = ("user", "assistant", "tool", "assistant")
DIALOGUES = (
    _ASKED,
    ("system", *_ASKED),
    _ASKED * 2,
    ("system", *_ASKED, *_ASKED),
    _TOOLS,
    _ASKED * 3,
    ("system", *_TOOLS),
    (*_TOOLS, *_ASKED),
    (*_ASKED, *_TOOLS, "tool", "assistant"),
    (*_ASKED, "user"),
    (*_ASKED, "assistant"),
    ("user", *_ASKED),
    (*_ASKED, "system", *_ASKED),
    ("user", "system"),
)


def texts(literals: Sequence[str] = (), control_tokens: Sequence[str] = ()) -> Texts:
    """Return a strategy of texts made of the pieces above, the literals, and any characters."""
    plain = WORDS * 4 + WHITE_SPACE * 2 + UNICODE + MARKUP + TEMPLATE_TEXT + tuple(literals)
    piece = st.sampled_from(plain + tuple(control_tokens) * 2)
    return st.one_of(
        st.lists(piece, max_size=3).map("".join),
        st.lists(piece, min_size=1, max_size=5).map("".join),
        st.text(ANY_CHARACTER, max_size=5),
    )


def literals(template: str) -> list[str]:
    """Return words and tags of a template's source, what it writes among them."""
    found = re.findall(r"</?[^<>\s'\"{}]{1,40}>|\[/?[A-Z_]{2,30}\]|[A-Za-z][\w.:]{2,20}", template)
    return sorted(set(found))[:60]


def masked(value: Any, control_tokens: Sequence[str]) -> Any:
    """Return a value in which each control token inside its strings is as many letters ``z``."""
    if isinstance(value, str):
        for token in control_tokens:
            value = value.replace(token, "z" * len(token))
        return value
    if isinstance(value, dict):
        return {key: masked(item, control_tokens) for key, item in value.items()}
    return [masked(item, control_tokens) for item in value] if isinstance(value, list) else value


def nested(text: Texts, *, leaves: int = 4) -> st.SearchStrategy[Any]:
    """Return what JSON can hold."""
    scalar = st.one_of(
        text, st.sampled_from([None, True, False, 0, -3, 10**20, 0.5, 1e300, -0.0, ""])
    )
    return st.recursive(
        scalar,
        lambda inner: st.one_of(
            st.lists(inner, max_size=2), st.dictionaries(st.sampled_from(KEYS), inner, max_size=2)
        ),
        max_leaves=leaves,
    )


class Strategies:
    """Strategies over one kind of text, each made once: making them costs more than drawing.

    Args:
        text: What contents, reasoning, arguments and descriptions are made of.
    """

    def __init__(self, text: Texts) -> None:
        self.text = text
        self.any_json = nested(text)
        objects = st.dictionaries(st.sampled_from(KEYS), self.any_json, max_size=2)
        odd: st.SearchStrategy[Any] = st.sampled_from([*JSON_STRINGS, None, 3, [], ["a"], "absent"])
        self.calls = st.lists(
            st.builds(_call, st.sampled_from(range(5)), st.one_of(objects, objects, odd)),
            min_size=1,
            max_size=2,
        )
        part = st.one_of(
            text.map(lambda text: {"type": "text", "text": text}),
            text.map(lambda text: {"type": "text", "text": text}),
            text.map(lambda text: {"type": "text", "text": text}),
            st.sampled_from(ODD_PARTS),
        )
        self.parts = st.lists(part, max_size=2)
        self.extra = st.one_of(
            st.tuples(st.sampled_from(["name", "id", "x y", "items"]), st.none() | text),
            st.tuples(st.just("metadata"), self.any_json),
            st.tuples(st.sampled_from(["tool_calls", "thinking", "content_type"]), st.none()),
        )
        schema = st.builds(_schema, st.booleans(), text, objects)
        self.tools = st.one_of(st.none(), st.none(), st.lists(schema, min_size=1, max_size=2))
        some = st.lists(st.sampled_from(ROLES), max_size=4)
        any_order = st.builds(lambda a, b: [*a, "assistant", *b[:3]], some, some)
        self.roles = st.one_of(st.sampled_from(DIALOGUES), st.sampled_from(DIALOGUES), any_order)
        self.rows = _rows(self)


def _call(form: int, arguments: Any) -> Any:
    """Return a call in one of the common forms, with and without id."""
    function: dict[str, Any] = {"name": CALLED[form % len(CALLED)]}
    if arguments != "absent":
        function["arguments"] = arguments
    if form == 4:
        return function
    call = {"type": "function", "function": function}
    return call | {"id": f"call{form:05d}"} if form < 3 else call


def _schema(is_bare: bool, description: str, properties: Any) -> Any:
    function = {
        "name": "weather",
        "description": description,
        "parameters": {"type": "object", "properties": properties},
    }
    return function if is_bare else {"type": "function", "function": function}


@st.composite
def _rows(draw: st.DrawFn, strategies: Strategies) -> Row:
    """Draw a row whose messages are in the OpenAI / Hugging Face format, in any order of roles."""
    messages: list[Message] = []
    for role in draw(strategies.roles):
        message: Message = {"role": role, "content": draw(strategies.text)}
        shape = draw(_ASSISTANT_SHAPE if role == "assistant" else _OTHER_SHAPE)
        if shape != "plain":
            _extend(draw, message, shape, strategies)
        if role == "tool" and len(messages) % 2:
            message |= {"tool_call_id": "call00000", "name": "weather"}
        messages.append(message)
    echo = draw(_ECHO)
    if echo and "prefill" not in messages[-1] and "content" in messages[echo % len(messages)]:
        messages[-1]["content"] = messages[echo % len(messages)]["content"]
    return {"messages": messages, "tools": draw(strategies.tools)}


_ASSISTANT_SHAPE = st.sampled_from(ASSISTANTS)
_OTHER_SHAPE = st.sampled_from(OTHERS)
_ECHO = st.sampled_from([0] * 10 + [1, 2])
_WEIGHT = st.sampled_from(WEIGHTS)
_REASONING = st.sampled_from(["reasoning_content", "thinking", "reasoning"])
_PREFILL = st.integers(0, 9)


def _extend(draw: st.DrawFn, message: Message, shape: str, strategies: Strategies) -> None:
    if "tools" in shape:
        message["tool_calls"] = draw(strategies.calls)
        if shape.endswith("null"):
            message["content"] = None
        elif shape.endswith("nothing"):
            del message["content"]
    if "reasoning" in shape:
        message[draw(_REASONING)] = draw(strategies.text)
    elif shape == "think":
        message["content"] = f"<think>{draw(strategies.text)}</think>{message['content']}"
    elif shape == "weight":
        message |= draw(_WEIGHT)
    elif shape == "prefill":
        message["prefill"] = message["content"][: draw(_PREFILL)]
    elif shape == "parts":
        message["content"] = draw(strategies.parts)
    elif shape == "extra":
        key, value = draw(strategies.extra)
        message[key] = value


class Odd:
    """Something that no data file can hold, and that cannot even be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("not to be shown")


def nested_lists(depth: int) -> Any:
    """Return a list in a list in a list."""
    value: Any = "bottom"
    for _ in range(depth):
        value = [value]
    return value


def lists_in_a_circle() -> Any:
    """Return a list that holds itself."""
    circle: list[Any] = ["text"]
    circle.append(circle)
    return circle


JUNK: tuple[Callable[[], Any], ...] = (
    lambda: None,
    lambda: 3,
    lambda: "text",
    lambda: True,
    lambda: 0.5,
    lambda: "",
    lambda: [],
    lambda: {},
    lambda: [None],
    lambda: [[1]],
    lambda: {"a": 1},
    lambda: {1: "a", None: []},
    lambda: ("user", "x"),
    lambda: float("nan"),
    lambda: float("inf"),
    lambda: -1,
    lambda: 10**400,
    lambda: 10**5000,  # more digits than Python writes
    lambda: b"bytes",
    lambda: {"role", "content"},
    lambda: Odd(),
    lambda: range(3),
    lambda: "\ud800",
    lambda: {"role": "assistant", "content": "x"},
    lambda: nested_lists(60),
    lambda: nested_lists(900),
    lambda: nested_lists(4000),
    lists_in_a_circle,
)


def _places(value: Any, depth: int = 8) -> list[tuple[Any, Any]]:
    """Return (container, key) of everything inside a value, down to some depth."""
    found: list[tuple[Any, Any]] = []
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items if depth else ():
        found += [(value, key), *_places(inner, depth - 1)]
    return found


@st.composite
def malformed_rows(draw: st.DrawFn, strategies: Strategies) -> Any:
    """Draw a row in which one to three values are replaced by junk, or a key removed or added."""
    row = draw(strategies.rows)
    for _ in range(draw(st.integers(1, 3))):
        junk = draw(_JUNK)()
        places = _places(row)
        at = draw(st.integers(0, len(places)))
        if at == len(places):
            return junk
        container, key = places[at]
        change = draw(_CHANGE)
        if change == "replace":
            container[key] = junk
        elif change == "remove":
            del container[key]
        elif isinstance(container, list):
            container.insert(key, junk)
        else:
            container[draw(_ADDED)] = junk
    return row


_JUNK = st.sampled_from(JUNK)
_CHANGE = st.sampled_from(["replace", "replace", "remove", "add"])
_ADDED = st.sampled_from(
    ["weight", "train", "prefill", "tool_calls", "content", "role", "function_call", 7, None]
)
