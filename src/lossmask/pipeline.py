"""A conversation's way to its examples: read this file first.

::

    messages ── read_conversation ──> Conversation          checked, with what the data weighs
             ── trained_messages ──> {message: weight}      what the policy makes of it
             ── lay_out ───────────> [Group]                which turns share an example, where:
                  derive_turns           [Turn]               prompt | completion, in characters
                  tokenize_turns         [TokenizedTurn]      the same in ids
                  share_examples         [[TokenizedTurn]]    which fit one sequence at parity
             ── build_example ─────> [Example]              labels, mask
                  Weigher.weigh          float32 (n,)         how much each token counts
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from lossmask.completions import Turn
from lossmask.conversation import Conversation, read_conversation
from lossmask.errors import ConversationError
from lossmask.example import Example, Finding, Span
from lossmask.laying_out import Group, lay_out
from lossmask.parts import with_outside
from lossmask.policy import Policy
from lossmask.proof import prove, prove_once
from lossmask.rendering import ChatTemplate
from lossmask.setting import Setting
from lossmask.tokenizing import Ids, Tokens
from lossmask.trained_messages import trained_messages
from lossmask.turn_tokens import TokenizedTurn
from lossmask.weighting import Weigher, ignorable


def encode_conversation(
    messages: object, tools: object, setting: Setting, sample_weight: object = None
) -> list[Example]:
    """Turn one conversation into its examples.

    Args:
        messages: As read from the data.
        tools: As read from the data, or None.
        setting: Template, tokenizer, policy.
        sample_weight: As read from the data, or None.

    Returns:
        One example or, where the template rewrites history, more. The first holds the last turn.

    Raises:
        LossmaskError: The conversation cannot be encoded exactly; names the message and why.
    """
    conversation = read_conversation(messages, tools, sample_weight)
    trained = trained_messages(conversation, setting.policy)
    _prove_template(setting)
    return encode_trained(conversation, trained, setting)


def encode_trained(
    conversation: Conversation,
    trained: dict[int, float],
    setting: Setting,
    seen: Sequence[Ids] = (),
) -> list[Example]:
    """Turn a checked conversation into the examples that train some of its messages.

    Args:
        conversation: The conversation.
        trained: The messages to train, ascending, each with its weight; at least one.
        setting: Template, tokenizer, policy.
        seen: Ids of other examples of the same conversation, which come before these.

    Raises:
        LossmaskError: The conversation cannot be encoded exactly; names the message and why.
    """
    groups, findings = lay_out(conversation, trained, setting)
    if setting.proof == "rows":
        _prove_groups(groups, conversation, setting)
    findings += tuple(_trained_by_data(conversation, trained, setting.policy))
    weigher = Weigher(conversation, setting.policy, trained, setting.stops.texts)
    examples = _build_examples(groups, weigher, seen, setting)
    return [replace(examples[0], findings=examples[0].findings + findings), *examples[1:]]


def _trained_by_data(
    conversation: Conversation, trained: Mapping[int, float], policy: Policy
) -> Iterator[Finding]:
    """Yield a finding for each message of another role that only the data puts into the loss."""
    chosen = policy.train_on if isinstance(policy.train_on, tuple) else ("assistant",)
    for index in trained if policy.train_on != "all" else ():
        if (role := conversation.messages[index]["role"]) not in ("assistant", *chosen):
            detail = f"a weight in the data puts this message of the role {role!r} into the loss"
            yield Finding("role_trained", detail, index)


def _build_examples(
    groups: Sequence[Group], weigher: Weigher, before: Sequence[Ids], setting: Setting
) -> list[Example]:
    """Build the examples in which something is in the loss."""
    examples = []
    for number, group in enumerate(groups):
        seen = [*before, *(earlier.base.tokens.ids for earlier in groups[:number])]
        example = build_example(group, weigher, seen)
        if example.loss_weights[1:].any():  # nothing predicts the first token
            examples.append(example)
            if setting.record is not None:
                setting.record(example, group, weigher)
    if not examples:
        raise ConversationError(
            "every token has weight 0: nothing is left to train", reason="nothing_to_train"
        )
    return examples


def _prove_template(setting: Setting) -> None:
    """Hold tracing against perturbation, once for each template; others know perturbation only."""
    if setting.proof != "off" and isinstance(setting.template, ChatTemplate):
        prove_once(setting.template, setting.template_variables)


def _prove_groups(groups: Sequence[Group], conversation: Conversation, setting: Setting) -> None:
    """Hold tracing against perturbation for the rendering that each example is made of."""
    if not isinstance(setting.template, ChatTemplate):
        return
    ends = {group.base.turn.message_index + 1 for group in groups} | {len(conversation.messages)}
    for count in sorted(ends - {0}):
        prove(
            setting.template,
            conversation.messages[:count],
            tools=conversation.tools,
            template_variables=setting.template_variables,
        )


def build_example(
    group: Group, weigher: Weigher, seen: Sequence[npt.NDArray[np.int32]] = ()
) -> Example:
    """Lay the turns of one group over the tokens of its base.

    Args:
        group: The turns.
        weigher: Weighs them.
        seen: Ids of the examples of the same conversation before it.
    """
    base = group.base
    weights, parts = weigher.weigh(base, group.turns, seen)
    spans = tuple(_spans(group.turns, weights))
    text, ids, offsets = base.turn.text, base.tokens.ids, base.tokens.offsets
    message_index = _message_of_tokens(base.turn, base.tokens)
    return Example(
        text=text,
        input_ids=ids,
        offsets=offsets,
        loss_weights=weights,
        message_index=message_index,
        spans=spans,
        findings=tuple(finding for turn in group.turns for finding in turn.findings),
        ignorable=ignorable(text, ids, offsets, spans, weigher.policy),
        parts=with_outside(parts, message_index),
    )


def _spans(turns: Sequence[TokenizedTurn], weights: npt.NDArray[np.float32]) -> Iterator[Span]:
    """Yield the turns of which something is in the loss."""
    for turn in turns:
        if weights[turn.prompt_length : turn.completion_end].any():
            yield Span(
                turn.turn.message_index,
                turn.start,
                turn.turn.completion_end,
                turn.prompt_length,
                turn.completion_end,
                turn.turn.stop,
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
