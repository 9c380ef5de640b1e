"""Conversations that the whole suite is tried on: one per thing that templates treat differently.

Every message holds a word of its own, ``Q0``, ``A1``, …, so that a test can tell whose text it
sees.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import jinja2
from jinja2 import nodes
from jinja2.ext import loopcontrols

Message = dict[str, Any]


class Scenario(NamedTuple):
    """A named conversation."""

    name: str
    messages: list[Message]
    tools: list[dict[str, Any]] | None = None


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Look up the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}


def system(text: str) -> Message:
    return {"role": "system", "content": text}


def user(text: Any) -> Message:
    return {"role": "user", "content": text}


def assistant(text: Any, **keys: Any) -> Message:
    return {"role": "assistant", "content": text, **keys}


def call(name: str, arguments: Any, number: int = 1) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": f"call{number:05d}", "type": "function", "function": function}


def tool(text: str, number: int = 1) -> Message:
    return {
        "role": "tool",
        "tool_call_id": f"call{number:05d}",
        "name": "weather",
        "content": text,
    }


def _two_turns(first: str, second: str) -> list[Message]:
    return [user("Q0 first?"), assistant(first), user("Q2 second?"), assistant(second)]


def _tool_round(arguments: Any) -> list[Message]:
    return [
        user("Q0 weather?"),
        assistant("", tool_calls=[call("weather", arguments)]),
        tool("T2 sunny"),
        assistant("A3 it is sunny."),
    ]


SCENARIOS = [
    Scenario("plain", [user("Q0 hello?"), assistant("A1 hello.")]),
    Scenario("system", [system("S0 be brief."), user("Q1 hello?"), assistant("A2 hello.")]),
    Scenario(
        "many-turns",
        [m for k in range(4) for m in (user(f"Q{2 * k} go?"), assistant(f"A{2 * k + 1} went."))],
    ),
    Scenario(
        "reasoning-field",
        [
            user("Q0 why?"),
            assistant("A1 because.", reasoning_content="R1 let me think"),
            user("Q2 really?"),
            assistant("A3 yes.", reasoning_content="R3 thinking again"),
        ],
    ),
    Scenario(
        "reasoning-inline",
        _two_turns("<think>\nR1 hm\n</think>\n\nA1 so.", "<think>\nR3 hm\n</think>\n\nA3 so."),
    ),
    Scenario("tools-dict", _tool_round({"city": "Zürich", "days": 2}), [WEATHER]),
    Scenario("tools-string", _tool_round('{"city": "Zürich",  "days": 2}'), [WEATHER]),
    Scenario(
        "tools-parallel",
        [
            user("Q0 weather?"),
            assistant(
                "A1 looking.",
                tool_calls=[
                    call("weather", {"city": "Rome"}, 1),
                    call("weather", {"city": "Oslo"}, 2),
                ],
            ),
            tool("T2 hot", 1),
            tool("T3 cold", 2),
            assistant("A4 hot and cold."),
        ],
        [WEATHER],
    ),
    Scenario("tools-declared-only", [user("Q0 hi?"), assistant("A1 hi.")], [WEATHER]),
    Scenario(
        "tools-then-more",
        [*_tool_round({"city": "Rome"}), user("Q4 thanks?"), assistant("A5 welcome.")],
        [WEATHER],
    ),
    Scenario(
        "consecutive-assistants", [user("Q0 go?"), assistant("A1 one."), assistant("A2 two.")]
    ),
    Scenario("consecutive-users", [user("Q0 a"), user("Q1 b?"), assistant("A2 c.")]),
    Scenario("ends-with-user", [user("Q0 a?"), assistant("A1 b."), user("Q2 unanswered")]),
    Scenario(
        "system-in-the-middle",
        [
            user("Q0 a?"),
            assistant("A1 b."),
            system("S2 new rule"),
            user("Q3 c?"),
            assistant("A4 d."),
        ],
    ),
    Scenario("empty-answer", _two_turns("", "A3 ok.")),
    Scenario(
        "null-content",
        [user("Q0 a?"), assistant(None, tool_calls=[call("weather", {"city": "A1"})])],
        [WEATHER],
    ),
    Scenario(
        "content-parts",
        [user([{"type": "text", "text": "Q0 a?"}]), assistant([{"type": "text", "text": "A1 b."}])],
    ),
    Scenario("leading-space", _two_turns("  A1 indented", "\n\nA3 below")),
    Scenario("trailing-space", _two_turns("A1 done   ", "A3 done\n\n")),
    Scenario(
        "echo",
        [user("same words"), assistant("same words"), user("same words"), assistant("same words")],
    ),
    Scenario("emoji-ends", _two_turns("👍🏽 A1 👨‍👩‍👧", "🏴󠁧󠁢󠁥󠁮󠁧󠁿 A3 𒀀")),
    Scenario("rare-cjk", _two_turns("你好 A1 龘", "𠮷 A3 世界。")),
    Scenario("decomposed-accents", _two_turns("A1 café", "e\u0301 A3 na\u0308ive")),
    Scenario("right-to-left", _two_turns("שלום A1 123", "مرحبا A3 بالعالم")),
    Scenario("code", _two_turns('```python\nif A1:\n\treturn {"a": [1]}\n```', '{"A3": "x\\n"}')),
    Scenario("markup", _two_turns("<b>A1</b> &amp; 'q' \"d\"", "1 < A3 && 3 > 2 {{ x }} {% y %}")),
    Scenario("long", _two_turns("A1 " + "word " * 400, "A3 " + "x" * 600)),
]


def scenarios_of(template: str) -> list[Scenario]:
    """Return all scenarios and those in which the messages hold the template's own literals."""
    return [*SCENARIOS, *_own_literals(template)]


def _own_literals(template: str) -> list[Scenario]:
    pieces = _literals(template)
    if not pieces:
        return []
    first, last, middle = pieces[0], pieces[-1], " ".join(pieces)
    return [
        Scenario("own-literals-user", _asked_and_answered(f"Q0 {middle} go", "A1 went.")),
        Scenario("own-literals-answer", _asked_and_answered("Q0 go?", f"A1 {middle} went.")),
        Scenario("own-literal-ends-first", _asked_and_answered(f"Q0 {first}", f"A1 {first}")),
        Scenario("own-literal-ends-last", _asked_and_answered(f"Q0 {last}", f"A1 {last}")),
    ]


def _asked_and_answered(question: str, answer: str) -> list[Message]:
    return [user(question), assistant(answer), user("Q2 second?"), assistant("A3 done.")]


def _literals(template: str) -> list[str]:
    """Return the texts that a template writes or compares with, tags apart, in order."""
    environment = jinja2.Environment(extensions=[loopcontrols])
    source = re.sub(r"\{%-?\s*(?:end)?generation\s*-?%\}", "", template)
    parsed = environment.parse(source)
    texts = [node.data for node in parsed.find_all(nodes.TemplateData)]
    constants = [node.value for node in parsed.find_all(nodes.Const)]
    texts += [value for value in constants if isinstance(value, str)]
    pieces = [
        piece.strip()
        for text in texts
        for piece in re.findall(r"<[^<>\s]{1,40}>|\[/?\w{1,40}\]|[^\s<>\[\]]{3,40}", text)
    ]
    return sorted({piece for piece in pieces if len(piece) > 2})[:40]
