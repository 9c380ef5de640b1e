"""Conversations made to be rendered, and what a template makes of them.

In: a chat template. Out: :class:`Rendered` conversations, by transformers' own
``apply_chat_template``, each rendered once. Every string of a conversation holds the name of a star
of its own, so that it can be told from a rendering whose text it shows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lossmask.diagnosis import Rendered
from lossmask.rendering import ChatTemplate, Message

SYSTEM, ASKED, SAID, ASKED_AGAIN, SAID_AGAIN = "Sirius", "Vega", "Altair", "Rigel", "Deneb"
THOUGHT, ARGUMENT, ARGUMENT_TOO, RESULT = "Mizar", "Polaris", "Spica", "Capella"
TOOL, NAME = "look_up_star", "Procyon"

LOOK_UP: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": TOOL,
        "description": "Look up Regulus.",
        "parameters": {
            "type": "object",
            "properties": {"star": {"type": "string", "description": "Its name."}},
            "required": ["star"],
        },
    },
}
DESCRIPTION = "Regulus"
TOOLS = (LOOK_UP,)


def system() -> Message:
    """Return a system message."""
    return {"role": "system", "content": f"Be brief: {SYSTEM}."}


def user(star: str = ASKED) -> Message:
    """Return a question."""
    return {"role": "user", "content": f"Where is {star}?"}


def assistant(star: str = SAID) -> Message:
    """Return an answer."""
    return {"role": "assistant", "content": f"Near {star}."}


def thinking(star: str = SAID) -> Message:
    """Return an answer with reasoning in a field of its own."""
    return {**assistant(star), "reasoning_content": f"Perhaps {THOUGHT}."}


def thinking_inline(star: str = SAID) -> Message:
    """Return an answer with reasoning in its content."""
    inline = f"<think>\nPerhaps {THOUGHT}.\n</think>\n\nNear {star}."
    return {"role": "assistant", "content": inline}


def call(argument: str = ARGUMENT, *, as_text: bool = False, number: int = 1) -> dict[str, Any]:
    """Return a tool call, its arguments an object, or JSON as text."""
    arguments: Any = {"star": argument}
    function = {"name": TOOL, "arguments": json.dumps(arguments) if as_text else arguments}
    return {"id": f"call{number:05d}", "type": "function", "function": function}


def calling(*calls: dict[str, Any], content: str = "", thought: bool = False) -> Message:
    """Return a turn that calls a tool, once if no calls are given."""
    message = {"role": "assistant", "content": content, "tool_calls": list(calls) or [call()]}
    return {**message, "reasoning_content": f"Perhaps {THOUGHT}."} if thought else message


def result(*, text: str = f"Seen from {RESULT}.", name: str = TOOL, number: int = 1) -> Message:
    """Return what a tool said."""
    return {
        "role": "tool",
        "tool_call_id": f"call{number:05d}",
        "name": name,
        "content": text,
    }


class Trials:
    """Renders conversations with one template, each once.

    Args:
        template: The chat template.
        variables: Further variables that every rendering gets.
        in_parts: Give every content as a list of parts, for templates that take nothing else.
    """

    def __init__(
        self, template: ChatTemplate, variables: Mapping[str, Any], *, in_parts: bool = False
    ) -> None:
        self.template = template
        self.variables = dict(variables)
        self.in_parts = in_parts
        self.made: dict[str, Rendered] = {}

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        asked: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> Rendered:
        """Render, by transformers' rules; a template that raises gives an ``error``.

        Args:
            messages: A conversation.
            tools: As for ``apply_chat_template``.
            asked: ``add_generation_prompt``.
            variables: Further variables, for this rendering.
        """
        given = tuple(_in_parts(each) if self.in_parts else each for each in messages)
        shown = None if tools is None else tuple(tools)
        more = dict(variables or {})
        key = repr((given, shown, asked, more))
        if key not in self.made:
            self.made[key] = self._rendered(given, shown, asked, more)
        return self.made[key]

    def _rendered(
        self,
        messages: tuple[Message, ...],
        tools: tuple[dict[str, Any], ...] | None,
        asked: bool,
        variables: dict[str, Any],
    ) -> Rendered:
        text = error = None
        try:
            text = self.template.tokenizer.apply_chat_template(
                list(messages),
                tools=None if tools is None else list(tools),
                chat_template=self.template.given,
                add_generation_prompt=asked,
                tokenize=False,
                **{**self.variables, **variables},
            )
        except MemoryError:  # not the template's word: the limit of the process
            raise
        except Exception as caught:  # a template is a program: it may raise anything
            error = f"{type(caught).__name__}: {caught}"
        return Rendered(messages, text, error, tools, asked, tuple(variables.items()))


def _in_parts(message: Message) -> Message:
    content = message.get("content")
    if not isinstance(content, str):
        return message
    return {**message, "content": [{"type": "text", "text": content}]}


def shows(text: str, star: str) -> bool:
    """Return whether a rendering shows a star, in whatever case."""
    return star.casefold() in text.casefold()


def behind(text: str, star: str) -> int:
    """Return where the sentence ends that a star is the last word of; -1 without it."""
    at = text.rfind(star)
    if at < 0:
        return -1
    end = at + len(star)
    return end + 1 if text[end : end + 1] in (".", "?") else end
