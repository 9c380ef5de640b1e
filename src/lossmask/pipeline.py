"""A conversation's way to its examples: read this file first.

::

    messages ── read_conversation ──> Conversation          checked, a weight per message
             ── derive_turns ──────> [Turn]                 prompt | completion, in characters
             ── tokenize_turns ────> [TokenizedTurn]        the same in ids
             ── share_examples ────> [[TokenizedTurn]]      which turns fit one sequence at parity
             ── build_example ─────> [Example]              labels, mask, weights
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from lossmask.completions import Turn
from lossmask.control_tokens import check_control_ids
from lossmask.conversation import Conversation, read_conversation
from lossmask.escaping import escaping
from lossmask.example import Example, Span
from lossmask.proof import prove, prove_once
from lossmask.rendering import ChatTemplate
from lossmask.setting import Setting
from lossmask.tokenizing import Tokens
from lossmask.turn_tokens import TokenizedTurn, share_examples, tokenize_turns
from lossmask.turns import derive_turns


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
    _prove_template(setting)
    turns, left_out = derive_turns(conversation, setting)
    tokenizer = setting.tokenizer
    if setting.policy.control_tokens == "escape":
        tokenizer = escaping(tokenizer, setting.stops)
    tokenized = tokenize_turns(
        turns, tokenizer, setting.stops.ids, boundary=setting.policy.boundary
    )
    check_control_ids(tokenized, setting)
    groups, not_shared = share_examples(tokenized, setting.policy)
    if setting.proof == "rows":
        _prove_groups(groups, conversation, setting)
    first, *others = (build_example(group, conversation) for group in groups)
    return [replace(first, findings=first.findings + left_out + not_shared), *others]


def _prove_template(setting: Setting) -> None:
    """Hold tracing against perturbation, once for each template; others know perturbation only."""
    if setting.proof != "off" and isinstance(setting.template, ChatTemplate):
        prove_once(setting.template, setting.template_variables)


def _prove_groups(
    groups: Sequence[Sequence[TokenizedTurn]], conversation: Conversation, setting: Setting
) -> None:
    """Hold tracing against perturbation for the rendering that each example is made of."""
    if not isinstance(setting.template, ChatTemplate):
        return
    ends = {group[-1].turn.message_index + 1 for group in groups} | {len(conversation.messages)}
    for count in sorted(ends):
        prove(
            setting.template,
            conversation.messages[:count],
            tools=conversation.tools,
            template_variables=setting.template_variables,
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
                turn.start,
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
