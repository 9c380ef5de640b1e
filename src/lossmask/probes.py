"""Conversations that a chat template is proven on, one per thing that templates treat differently.

They only have to be rendered, so they are short: every string costs two renderings.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lossmask.rendering import Message


@dataclass(frozen=True, slots=True)
class Probe:
    """A named conversation that ends with an answer."""

    name: str
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] | None = None

    def renderings(self) -> Iterator[tuple[list[Message], bool]]:
        """Yield messages and ``add_generation_prompt``: the whole, and the prompt of the answer."""
        yield list(self.messages), False
        yield list(self.messages[:-1]), True


def _user(content: Any) -> Message:
    return {"role": "user", "content": content}


def _assistant(content: Any, **keys: Any) -> Message:
    return {"role": "assistant", "content": content, **keys}


def _tool_round(arguments: Any) -> tuple[Message, ...]:
    function = {"name": "look_up", "arguments": arguments}
    called = {"id": "call00001", "type": "function", "function": function}
    return (
        _user("What is a lossmask?"),
        _assistant("Looking.", tool_calls=[called]),
        {"role": "tool", "tool_call_id": "call00001", "name": "look_up", "content": "Found: 42."},
        _assistant("It is 42."),
    )


_LOOK_UP = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Look up a word.",
        "parameters": {
            "type": "object",
            "properties": {"word": {"type": "string"}, "top": {"type": "integer"}},
            "required": ["word"],
        },
    },
}

PROBES = (
    Probe(
        "system and turns",
        (
            {"role": "system", "content": "Speak briefly."},
            _user("Hello, who?"),
            _assistant("A bot."),
            _user("And why (really)?"),
            _assistant("To be useful: 1, 2, 3."),
        ),
    ),
    Probe(
        "reasoning field",
        (
            _user("Is 7 prime?"),
            _assistant("Yes.", reasoning_content="Divisors of 7: itself."),
            _user("And 8?"),
            _assistant("No.", reasoning_content="It is even."),
        ),
    ),
    Probe(
        "reasoning inline",
        (
            _user("Is 9 prime?"),
            _assistant("<think>\nThree by three.\n</think>\n\nNot prime."),
            _user("And 11?"),
            _assistant("<think>\nOnly itself.\n</think>\n\nPrime."),
        ),
    ),
    Probe("tool call", _tool_round({"word": "löss\n", "top": 2}), (_LOOK_UP,)),
    Probe("tool call as text", _tool_round('{"word": "löss", "top": 2}'), (_LOOK_UP,)),
    Probe(
        "white space around",
        (
            _user("  A gap?\n"),
            _assistant("\n\n  Indented.  "),
            _user("\tMore"),
            _assistant(" once\ntwice\n\n"),
        ),
    ),
    Probe(
        "echo", (_user("the same"), _assistant("the same"), _user("the same"), _assistant("the"))
    ),
    Probe("neighbours", (_user("One."), _user("Two?"), _assistant("Three."), _assistant("Four."))),
    Probe(
        "parts",
        (
            _user([{"type": "text", "text": "In parts?"}]),
            _assistant([{"type": "text", "text": "In parts."}]),
        ),
    ),
)
