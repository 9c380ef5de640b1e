"""A conversation's way to its examples: read this file first.

::

    messages ── read_conversation ──> Conversation          checked, a weight per message
             ── derive_turns ──────> [Turn]                 prompt | completion, in characters
             ── tokenize_turns ────> [TokenizedTurn]        the same in ids
             ── share_examples ────> [[TokenizedTurn]]      which turns fit one sequence at parity
             ── build_example ─────> [Example]              labels, mask, weights
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from lossmask.borders import PromptRenderings
from lossmask.completions import NOTHING_TO_TRAIN, Turn, derive_turn, no_prompt
from lossmask.conversation import Conversation, read_conversation
from lossmask.errors import ConversationError, ParityError, TemplateError
from lossmask.example import Example, Finding, Span
from lossmask.policy import Policy
from lossmask.rendering import ChatTemplate, Rendering
from lossmask.stops import Stops, any_of
from lossmask.tokenizing import TextTokenizer, Tokens
from lossmask.turn_tokens import TokenizedTurn, share_examples, tokenize_turns


@dataclass(frozen=True, slots=True)
class Setting:
    """All that stays the same from row to row.

    Attributes:
        template: The chat template.
        tokenizer: The tokenizer that the model is trained with.
        policy: What to train on.
        stops: Where inference ends a turn.
        template_variables: Further variables the template reads (``enable_thinking`` …).
    """

    template: ChatTemplate
    tokenizer: TextTokenizer
    policy: Policy
    stops: Stops
    template_variables: Mapping[str, Any]


def encode_conversation(messages: object, tools: object, setting: Setting) -> list[Example]:
    """Turn one conversation into its examples.

    Args:
        messages: As read from the data.
        tools: As read from the data, or None.
        setting: Template, tokenizer, policy.

    Returns:
        One example or, where the template rewrites history, more. The first holds the last turn.

    Raises:
        LossmaskError: The conversation cannot be encoded exactly; names the message and why.
    """
    conversation = read_conversation(messages, tools)
    turns, left_out = derive_turns(conversation, setting)
    tokenized = tokenize_turns(turns, setting.tokenizer, setting.stops.ids)
    groups, not_shared = share_examples(tokenized, setting.policy)
    first, *others = (build_example(group, conversation) for group in groups)
    return [replace(first, findings=first.findings + left_out + not_shared), *others]


def derive_turns(
    conversation: Conversation, setting: Setting
) -> tuple[list[Turn], tuple[Finding, ...]]:
    """Derive prompt and completion of every trained turn, ascending by message.

    Returns:
        The turns, and a finding for each turn that has no completion to train: the template dropped
        its content or wrote nothing for it, or there is no prompt before it.

    Raises:
        ConversationError: No turn is trained, or a message holds a control token.
        ParityError: A completion cannot be told, or no turn has one.
        TemplateError: The template raised.
    """
    whole = setting.template.render(
        conversation.messages,
        tools=conversation.tools,
        template_variables=setting.template_variables,
    )
    turns: list[Turn] = []
    left_out: dict[int, ParityError] = {}
    for index in _trained(conversation, setting.policy):
        try:
            turns.append(_derive_turn(conversation, index, whole, setting))
        except ParityError as error:
            if error.reason not in NOTHING_TO_TRAIN:
                raise
            left_out[index] = error
    if not turns:
        raise next(iter(left_out.values()))
    turns = [turn.stopped_by_next_header(whole, setting.stops) for turn in turns]
    turns[-1] = turns[-1].extended_to(whole)
    for turn in turns:
        _refuse_surrogates(turn.rendering)
    if setting.policy.control_tokens == "error":
        control_tokens = any_of(setting.tokenizer.control_tokens())
        _refuse_in_tools(conversation.tools, control_tokens)
        for turn in turns:
            _refuse_control_tokens(turn.rendering, control_tokens)
    return turns, tuple(
        Finding(error.reason, f"not trained: {error.detail}", index)
        for index, error in left_out.items()
    )


def _trained(conversation: Conversation, policy: Policy) -> tuple[int, ...]:
    trained = conversation.trained
    if policy.train_on == "last_assistant":
        last = max(i for i, m in enumerate(conversation.messages) if m["role"] == "assistant")
        trained = tuple(index for index in trained if index == last)
    if not trained:
        raise ConversationError(
            'no assistant message is to be trained: each has weight 0 or "train": false',
            reason="nothing_to_train",
        )
    return trained


def _derive_turn(
    conversation: Conversation, index: int, whole: Rendering, setting: Setting
) -> Turn:
    before = conversation.messages[:index]
    if not before:
        raise no_prompt(index, "nothing comes before it")
    template = setting.template
    options: dict[str, Any] = {
        "tools": conversation.tools,
        "template_variables": setting.template_variables,
    }
    try:
        prompt = template.render_text(before, add_generation_prompt=True, **options)
    except TemplateError as error:
        raise no_prompt(index, error.detail) from error
    if not prompt:
        raise no_prompt(index, "the template renders what comes before it as empty text")
    is_last = index == len(conversation.messages) - 1
    return derive_turn(
        conversation.messages[index],
        index,
        prompt=PromptRenderings(
            prompt,
            partial(template.render, before, add_generation_prompt=True, **options),
            partial(template.render_text, before, **options),
        ),
        full=whole if is_last else template.render(conversation.messages[: index + 1], **options),
        stops=setting.stops,
        added_tokens=any_of(setting.tokenizer.added_tokens()),
    )


def _refuse_surrogates(rendering: Rendering) -> None:
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


def _refuse_control_tokens(rendering: Rendering, control_tokens: re.Pattern[str]) -> None:
    """Refuse a conversation in which a message, not the template, wrote a control token."""
    for found in control_tokens.finditer(rendering.text):
        for position in range(found.start(), found.end()):
            leaf, offset = rendering.origin(position)
            if leaf is not None:
                raise ConversationError(
                    f"{leaf.path!r} contains the control token {found.group()!r} at character "
                    f"{offset}: the model would read it as one; remove it, or say "
                    'control_tokens="allow"',
                    reason="control_token_in_content",
                    message_index=leaf.message_index,
                )


def _refuse_in_tools(tools: Sequence[Any] | None, control_tokens: re.Pattern[str]) -> None:
    found = control_tokens.search(json.dumps(tools, ensure_ascii=False)) if tools else None
    if found is not None:
        raise ConversationError(
            f"'tools' contains the control token {found.group()!r}: the model would read it as "
            'one; remove it, or say control_tokens="allow"',
            reason="control_token_in_content",
        )


def build_example(group: Sequence[TokenizedTurn], conversation: Conversation) -> Example:
    """Lay the turns of one group over the tokens of the last one."""
    base = group[-1]
    weights = np.zeros(len(base.tokens), np.float32)
    spans = []
    for turn in group:
        weights[turn.prompt_length : turn.completion_end] = conversation.weights[
            turn.turn.message_index
        ]
        spans.append(
            Span(
                turn.turn.message_index,
                turn.turn.prompt_end,
                turn.turn.completion_end,
                turn.prompt_length,
                turn.completion_end,
                turn.turn.stop,
            )
        )
    return Example(
        text=base.turn.text,
        input_ids=base.tokens.ids,
        offsets=base.tokens.offsets,
        loss_weights=weights,
        message_index=_message_of_tokens(base.turn, base.tokens),
        spans=tuple(spans),
        findings=tuple(finding for turn in group for finding in turn.findings),
    )


def _message_of_tokens(turn: Turn, tokens: Tokens) -> npt.NDArray[np.int32]:
    """Return the message of the first message-written character in each token, -1 = none."""
    written = turn.rendering.message_index()
    position = np.where(written >= 0, np.arange(len(written)), len(written))
    following = np.minimum.accumulate(position[::-1])[::-1]
    padded_next = np.append(following, len(written))
    padded_message = np.append(written, np.int32(-1))
    first = padded_next[tokens.offsets[:, 0]]
    message: npt.NDArray[np.int32] = padded_message[first]
    message[first >= tokens.offsets[:, 1]] = -1
    return message
