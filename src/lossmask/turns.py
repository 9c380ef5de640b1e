"""A conversation -> its turns: prompt and completion of every assistant message that is trained.

In: a checked conversation. Out: :class:`Turn` s, ascending by message, and a finding for each turn
that stays out of the loss.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from lossmask.borders import PromptRenderings
from lossmask.completions import (
    NOTHING_TO_TRAIN,
    Turn,
    derive_turn,
    no_prompt,
    turn_as_rendered,
)
from lossmask.control_tokens import refuse_control_tokens
from lossmask.conversation import Conversation
from lossmask.data_loss import Shown, find_losses, other_parts, part_dropped, tools_dropped
from lossmask.errors import ConversationError, ParityError, TemplateError
from lossmask.example import Finding
from lossmask.rendering import Message, shared_length
from lossmask.setting import Setting
from lossmask.stops import any_of
from lossmask.traced_rendering import Rendering

_PROBE = "\ue000"  # a private-use character: no stop token, so none is taken from our own text


def derive_turns(
    conversation: Conversation, setting: Setting, trained: Sequence[int]
) -> tuple[list[Turn], tuple[Finding, ...]]:
    """Derive prompt and completion of every trained turn, ascending by message.

    Args:
        conversation: The conversation.
        setting: Template, tokenizer, policy.
        trained: Its assistant messages that are trained, at least one, ascending.

    Returns:
        The turns, and a finding for each turn that has no completion to train: the template dropped
        its content or wrote nothing for it, or there is no prompt before it.

    Raises:
        ConversationError: A message holds a control token.
        ParityError: A completion cannot be told, or no turn has one.
        TemplateError: The template raised.
    """
    beginnings = Beginnings.of(conversation, setting)
    whole = beginnings.whole
    turns: list[Turn] = []
    left_out: dict[int, ParityError] = {}
    for index in trained:
        try:
            turns.append(_derive_turn(beginnings, index))
        except ParityError as error:
            if error.reason not in NOTHING_TO_TRAIN:
                raise
            left_out[index] = error
    if not turns:
        raise next(iter(left_out.values()))
    turns[-1] = turns[-1].extended_to(whole)
    _refuse_surrogates(turns)
    refuse_control_tokens(turns, conversation, setting)
    not_trained = [
        Finding(error.reason, f"not trained: {error.detail}", index)
        for index, error in left_out.items()
    ]
    return turns, (*not_trained, *_losses(beginnings, turns, left_out.keys()))


def _losses(
    beginnings: Beginnings, turns: Sequence[Turn], left_out: Collection[int]
) -> Iterator[Finding]:
    """Yield a finding for everything in the conversation that the template does not show."""
    whole, last = beginnings.whole, turns[-1]
    shown_by = {turn.message_index: Shown(turn.rendering) for turn in turns}
    in_whole = Shown(whole)
    for index, message in enumerate(beginnings.conversation.messages):
        context = shown_by[last.message_index] if index < last.message_index else in_whole
        is_trained = index in shown_by or index in left_out
        shown = shown_by.get(index, context)
        yield from find_losses(message, index, shown, is_trained=is_trained)
        for number in other_parts(message):
            if beginnings.ignores_part(index, number):
                yield part_dropped(index, number)
    if beginnings.conversation.tools and beginnings.ignores_tools():
        yield tools_dropped()


@dataclass(frozen=True, slots=True)
class Beginnings:
    """Renders the first messages of one conversation.

    Attributes:
        conversation: The conversation.
        setting: Template and its variables.
        whole: All of it, with origins; what it proves about its beginnings is not rendered again.
    """

    conversation: Conversation
    setting: Setting
    whole: Rendering

    @classmethod
    def of(cls, conversation: Conversation, setting: Setting) -> Beginnings:
        """Render the whole conversation.

        Raises:
            TemplateError: The template raised.
        """
        whole = setting.template.render(
            conversation.messages,
            tools=conversation.tools,
            template_variables=setting.template_variables,
        )
        return cls(conversation, setting, whole)

    @property
    def _options(self) -> dict[str, Any]:
        return {
            "tools": self.conversation.tools,
            "template_variables": self.setting.template_variables,
        }

    def full(self, count: int) -> Rendering:
        """Render the first ``count`` messages with origins."""
        if count == len(self.conversation.messages):
            return self.whole
        if count in self.whole.ends:
            return self.whole.beginning(count)
        return self.setting.template.render(self.conversation.messages[:count], **self._options)

    def prompt(self, index: int) -> PromptRenderings:
        """Render what inference sees before message ``index``.

        Raises:
            ParityError: There is no such prompt.
        """
        before = self.conversation.messages[:index]
        template, prefill = self.setting.template, self.conversation.prefills.get(index)
        if not before and prefill is None:
            raise no_prompt(index, "nothing comes before it")
        try:
            if prefill is None:
                text = template.render_prompt(before, self.whole, **self._options)
            else:
                text = self._prefilled(index, prefill)
        except TemplateError as error:
            raise no_prompt(index, error.detail) from error
        if not text:
            raise no_prompt(index, "the template renders what comes before it as empty text")
        return PromptRenderings(
            text,
            partial(template.render, before, add_generation_prompt=True, **self._options),
            partial(template.render_text, before, **self._options),
        )

    def _prefilled(self, index: int, prefill: str) -> str:
        """Render the prompt whose answer inference has to continue behind ``prefill``."""
        messages = self.conversation.messages
        begun = {"role": messages[index]["role"], "content": prefill}
        variables = {**self.setting.template_variables, "continue_final_message": True}
        return self.setting.template.render_text(
            [*messages[:index], begun],
            tools=self.conversation.tools,
            template_variables=variables,
        )

    def ignores_tools(self) -> bool:
        """Return whether the conversation renders the same without its tools."""
        return self._renders_alike(self.conversation.messages, None)

    def ignores_part(self, index: int, number: int) -> bool:
        """Return whether the conversation renders the same without one part of a content."""
        messages = list(self.conversation.messages)
        parts = messages[index]["content"]
        messages[index] = messages[index] | {"content": [*parts[:number], *parts[number + 1 :]]}
        return self._renders_alike(messages, self.conversation.tools)

    def _renders_alike(self, messages: Sequence[Message], tools: Sequence[Any] | None) -> bool:
        try:
            text = self.setting.template.render_text(
                messages, tools=tools, template_variables=self.setting.template_variables
            )
        except TemplateError:  # it needs what is left out
            return False
        return text == self.whole.text

    def gone_on(self, index: int) -> str | None:
        """Render message ``index`` with one more behind it, None if the template cannot."""
        message = self.conversation.messages[index]
        calls = message.get("tool_calls")
        following = [{"role": "user", "content": _PROBE}]
        if calls:
            call_id = calls[0].get("id")
            answer = {"role": "tool", "content": _PROBE}
            following.insert(0, answer | ({"tool_call_id": call_id} if call_id else {}))
        for probe in following:
            messages = [*self.conversation.messages[: index + 1], probe]
            try:
                return self.setting.template.render_text(messages, **self._options)
            except TemplateError:  # a template that wants another role there shows no history
                continue
        return None


def _derive_turn(beginnings: Beginnings, index: int) -> Turn:
    conversation, setting, whole = beginnings.conversation, beginnings.setting, beginnings.whole
    prompt = beginnings.prompt(index)
    message = conversation.messages[index]
    full = beginnings.full(index + 1)
    if index in conversation.prefills:
        _require_prefill(index, conversation.prefills[index], prompt.text, full)
    added_tokens = any_of(setting.tokenizer.added_tokens())
    stops = setting.stops
    turn = derive_turn(
        message, index, prompt=prompt, full=full, stops=stops, added_tokens=added_tokens
    )
    if setting.policy.history == "as_rendered" and not turn.is_shown_by(whole):
        return turn_as_rendered(
            message, index, prompt=prompt, whole=whole, stops=stops, added_tokens=added_tokens
        )
    turn = turn.stopped_by_next_header(whole, stops)
    return turn if turn.stop else _append_stop(turn, full, beginnings)


def _require_prefill(index: int, prefill: str, prompt: str, full: Rendering) -> None:
    """Refuse a finished turn that does not begin with the prompt, or does so by chance.

    A template that cuts the prefill away may go on with the same characters: what ends the prompt
    ``<|Assistant|><`` is the message's, the ``<`` in ``<|Assistant|><|end|>`` the template's.
    """
    last = len(prompt.rstrip()) - 1
    if not full.text.startswith(prompt):
        fault = "does not begin with the prefilled prompt"
    elif prefill.strip() and full.message_index(last, last + 1) != index:
        fault = "leaves out the prefill of the prompt"
    else:
        return
    raise ParityError(
        f"the finished turn {fault}, which ends in {prompt[-40:]!r}",
        reason="prompt_differs",
        message_index=index,
    )


def _append_stop(turn: Turn, full: Rendering, beginnings: Beginnings) -> Turn:
    """Give a turn that the template ends without a stop token one, as the policy says."""
    policy, stops = beginnings.setting.policy, beginnings.setting.stops
    if policy.append_stop == "never":
        return turn
    gone_on = beginnings.gone_on(turn.message_index)
    if gone_on is not None:
        shared = shared_length(full.text, gone_on)
        found = stops.pattern.match(gone_on, shared)
        unshared = len(full.text) - shared
        if found and not full.text[shared:].strip() and not (full.origins[shared:] >= 0).any():
            end = turn.completion_end - unshared
            return turn.with_stop(
                found.group(), end, "which the template writes there when the conversation goes on"
            )
    if policy.append_stop == "eos" and stops.eos:
        return turn.with_stop(stops.eos, turn.completion_end, "the tokenizer's eos")
    return turn


def _refuse_surrogates(turns: Sequence[Turn]) -> None:
    known = turns[-1].text if _is_valid(turns[-1].text) else ""
    for turn in turns:
        if not (known and turn.places is turns[-1].places) and not known.startswith(turn.text):
            refuse_surrogates(turn.rendering)


def _is_valid(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def refuse_surrogates(rendering: Rendering) -> None:
    """Refuse text that no tokenizer can encode."""
    try:
        rendering.text.encode()
    except UnicodeEncodeError as error:
        leaf, offset = rendering.origin(error.start)
        raise ConversationError(
            f"{'the template' if leaf is None else repr(leaf.path)} holds half a character "
            f"(a lone surrogate, {rendering.text[error.start]!r}) at {offset}: it is not valid "
            "Unicode",
            reason="lone_surrogate",
            message_index=None if leaf is None else leaf.message_index,
        ) from error
