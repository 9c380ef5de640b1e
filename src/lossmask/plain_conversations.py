r"""Conversations of plain messages, laid out from one rendering that proves all of its prompts.

In: rows ``{"messages": [{"role", "content"}, …]}``. Out: for each, the text with the places that
matter, or None: then the whole way through ``pipeline`` has to be gone. What is left out here is
only what provably changes nothing, so both ways give the same example::

    <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n
                      ^^                                  ^^^^^             written
                                                          ^^^^^^^^^^^^^^^   completions

A conversation is laid out here if the template shows every content once, whole and in order, if
its rendering proves what each prompt renders to (``look_ahead``, ``template_tail``), if each
completion begins with the content and ends with a stop token, and if no content holds a control
token. The policy has to be one under which a token counts 1 or 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from lossmask.control_tokens import control_tokens_of
from lossmask.errors import LossmaskError
from lossmask.formats import to_normal
from lossmask.layout import Layout
from lossmask.policy import Policy
from lossmask.rendering import ChatTemplate
from lossmask.setting import Setting
from lossmask.stops import Stops
from lossmask.template_environment import traced_message
from lossmask.traced_text import COARSE, leaf_text
from lossmask.written import THINK_PAIRS

_ROLES = frozenset({"system", "user", "assistant"})
_READ = ("role", "content")
_PROBE_MESSAGES = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
_PROBE_VALUES: tuple[Any, ...] = ("x", "[]", 1, 0.5, True, None, ["x"], [{"x": 1}], {"x": 1}, [])


@dataclass(frozen=True, slots=True, eq=False)
class PlainLayout:
    """A rendered conversation, all positions in characters.

    Attributes:
        text: The rendering.
        written: Message, first character, end: of each content that is not empty, ascending.
        completions: Message, first character, end: of each turn in the loss, ascending.
    """

    text: str
    written: list[tuple[int, int, int]]
    completions: list[tuple[int, int, int]]


class PlainConversations:
    """Lays out conversations under one setting.

    Args:
        setting: Template, tokenizer, policy.
        layout: How rows are laid out.
    """

    def __init__(self, setting: Setting, layout: Layout) -> None:
        self._setting = setting
        self._train_on = setting.policy.train_on
        self._harmless: dict[tuple[str, ...], bool] = {}
        self._ends_of_turns: dict[str, int] = {}  # what follows a content -> where its stop ends
        self._invitation: str | None = None
        self._variables: dict[str, Any] = {}
        self.is_possible = _is_possible(setting, layout)
        if self.is_possible:
            control = control_tokens_of(setting.tokenizer, setting.stops)
            texts = [*filter(None, control.texts.values())]
            self._telling = _telling_parts(texts)
            self.is_possible = not any(text in key for text in texts for key in _READ)

    @property
    def invitation(self) -> str | None:
        """The generation prompt: None until the whole way has found that it is constant."""
        template, variables = self._setting.template, self._setting.template_variables
        if self._invitation is None and isinstance(template, ChatTemplate):
            self._invitation = template.invitation(None, variables)
            if self._invitation is not None:
                self._variables = template.seen_variables(variables)
        return self._invitation

    def lay_out(self, row: Mapping[str, Any]) -> PlainLayout | None:
        """Lay out one row; None if it takes the whole way."""
        if type(row) is not dict and not isinstance(row, Mapping):
            return None  # whatever a data file holds: the whole way says what is wrong with it
        messages = row.get("messages")
        if type(messages) is not list or not self._is_plain(messages):
            return None
        if len(row) > 1 and not self._are_harmless(row):
            return None
        if self.invitation is None or _could_think(self.invitation):
            return None
        trained = self._trained([message["role"] for message in messages])
        if not trained or trained[0] == 0:
            return None
        contents = [message["content"] for message in messages]
        for content in contents:
            for part in self._telling:
                if part in content:
                    return None
        return self._rendered(messages, contents, trained)

    def _is_plain(self, messages: list[Any]) -> bool:
        for message in messages:
            if type(message) is not dict or len(message) != 2:
                return False
            role = message.get("role")
            if type(role) is not str or role not in _ROLES:
                return False
            if type(message.get("content")) is not str:
                return False
        return bool(messages)

    def _are_harmless(self, row: Mapping[str, Any]) -> bool:
        """Return whether no format reads the other keys of a row, alone or together."""
        keys = tuple(row)
        known = self._harmless.get(keys)
        if known is None:
            others = [key for key in keys if key != "messages"]
            known = all(_change_nothing([key]) for key in others) and _change_nothing(others)
            self._harmless[keys] = known
        return known

    def _trained(self, roles: Sequence[str]) -> list[int]:
        answers = [index for index, role in enumerate(roles) if role == "assistant"]
        if self._train_on == "all_assistant":
            return answers
        if self._train_on == "last_assistant":
            return answers[-1:]
        last_user = max((k for k, role in enumerate(roles) if role == "user"), default=-1)
        return [index for index in answers if index > last_user]

    def _rendered(
        self, messages: list[dict[str, str]], contents: list[str], trained: list[int]
    ) -> PlainLayout | None:
        template = self._setting.template
        assert isinstance(template, ChatTemplate)
        traced = []
        for index, message in enumerate(messages):
            copy = traced_message(message, index)
            copy["content"] = leaf_text(contents[index], index)
            traced.append(copy)
        rendering = template.trace_plain(traced, self._variables)
        if rendering is None:
            return None
        text, runs, ends = rendering
        written = _written(runs, contents)
        if written is None:
            return None
        completions = self._completions(text, written, ends, trained)
        if completions is None:
            return None
        if template.is_due(text) and not self._is_confirmed(messages, text, ends, trained):
            return None
        return PlainLayout(text, written, completions)

    def _completions(
        self,
        text: str,
        written: list[tuple[int, int, int]],
        ends: Mapping[int, int],
        trained: list[int],
    ) -> list[tuple[int, int, int]] | None:
        """Return where the turns in the loss lie, None if that takes a closer look."""
        invitation = self.invitation or ""
        of_message = {index: (start, end) for index, start, end in written}
        completions = []
        for index in trained:
            context = ends.get(index)
            turn_end = ends.get(index + 1)
            own = of_message.get(index)
            if context is None or turn_end is None or own is None:
                return None
            start, end = own
            if start != context + len(invitation) or not text.startswith(invitation, context):
                return None
            follows = text[end:turn_end]
            width = self._ends_of_turns.get(follows)
            if width is None:
                width = self._ends_of_turns[follows] = _end_of_stop(follows, self._setting.stops)
            if not width:
                return None
            completions.append((index, start, end + width))
        return completions

    def _is_confirmed(
        self, messages: list[Any], text: str, ends: Mapping[int, int], trained: list[int]
    ) -> bool:
        """Return whether transformers renders the conversation and its prompts alike."""
        template, variables = self._setting.template, self._setting.template_variables
        try:
            if template.render_text(messages, template_variables=variables) != text:
                return False
            return all(
                template.render_text(
                    messages[:index], add_generation_prompt=True, template_variables=variables
                )
                == text[: ends[index]] + (self.invitation or "")
                for index in trained
            )
        except LossmaskError:
            return False


def _is_possible(setting: Setting, layout: Layout) -> bool:
    """Return whether any conversation can be laid out here under a setting."""
    policy, default = setting.policy, Policy()
    without_effect = {  # on a turn that is proven, ends with a stop token, and holds no other one
        name: getattr(default, name)
        for name in ("train_on", "history", "boundary", "control_tokens", "append_stop")
    }
    return (
        isinstance(setting.template, ChatTemplate)
        and layout == Layout()
        and setting.proof == "template"
        and policy.train_on in ("all_assistant", "last_assistant", "last_turn")
        and replace(policy, **without_effect) == default  # what is added later counts, too
    )


def _change_nothing(keys: Sequence[str]) -> bool:
    """Return whether no format reads some keys beside ``messages``, whatever their value."""
    plain = {"messages": _PROBE_MESSAGES}
    try:
        return all(
            to_normal(plain | dict.fromkeys(keys, value)) == plain for value in _PROBE_VALUES
        )
    except LossmaskError:
        return False


def _telling_parts(texts: Sequence[str]) -> list[str]:
    """Return a few short strings of which every text holds one: text without them holds none."""
    left = list(texts)
    parts: list[str] = []
    while left:
        pairs = [text[at : at + 2] for text in left for at in range(max(1, len(text) - 1))]
        best = max(sorted(set(pairs)), key=lambda part: sum(part in text for text in left))
        parts.append(best)
        left = [text for text in left if best not in text]
    return parts


def _written(
    runs: Sequence[tuple[int, int, int]], contents: Sequence[str]
) -> list[tuple[int, int, int]] | None:
    """Return where each content stands, None unless each stands there once, whole and in order."""
    written = []
    next_message = 0
    for at, length, origin in runs:
        index = origin >> 32  # negative for what is no content
        if index < next_message or origin & COARSE or length != len(contents[index]):
            return None
        written.append((index, at, at + length))
        next_message = index + 1
    if len(written) != sum(map(bool, contents)):
        return None
    return written


def _end_of_stop(follows: str, stops: Stops) -> int:
    """Return where the stop token in what follows a content ends, 0 if there is none."""
    found = stops.first_run(follows, 0)
    return 0 if found is None else found.end()


@cache
def _could_think(invitation: str) -> bool:
    """Return whether a generation prompt could begin a think block, or end one's beginning."""
    end = invitation.rstrip()
    return any(opening in invitation or opening.endswith(end) for opening, _ in THINK_PAIRS)
