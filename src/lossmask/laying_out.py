"""Which turns share an example, and where in its text each of them lies.

In: a conversation and the messages that are trained. Out: groups, one per example. What inference
generates is laid out by the contract; the whole text, other roles alone, and the template's tags in
the whole rendering.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lossmask.control_tokens import check_control_ids, refuse_control_tokens
from lossmask.conversation import Conversation
from lossmask.errors import LossmaskError
from lossmask.escaping import escaping
from lossmask.example import Finding
from lossmask.protocols import AnyTokenizer
from lossmask.setting import Setting
from lossmask.turn_tokens import TokenizedTurn, share_examples, tokenize_turns
from lossmask.turns import Beginnings, derive_turns, refuse_surrogates
from lossmask.whole_text import differing_tags, message_in, tagged_in, whole_text


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Turns that share one example.

    Attributes:
        base: Gives the example its text and tokens.
        turns: Those in the loss, ascending.
    """

    base: TokenizedTurn
    turns: tuple[TokenizedTurn, ...]


def lay_out(
    conversation: Conversation, trained: Mapping[int, float], setting: Setting
) -> tuple[list[Group], tuple[Finding, ...]]:
    """Lay out the messages that are trained, each in one example.

    Args:
        conversation: The conversation.
        trained: Its messages that are trained, ascending.
        setting: Template, tokenizer, policy.

    Returns:
        The examples to be, the first holding the last turn, and a finding for each message that is
        left out.

    Raises:
        LossmaskError: It cannot be told where a message lies.
    """
    if setting.policy.spans == "contract" and setting.policy.train_on != "all":
        return _by_contract(conversation, trained, setting)
    return _by_whole_text(conversation, trained, setting)


def _by_contract(
    conversation: Conversation, trained: Mapping[int, float], setting: Setting
) -> tuple[list[Group], tuple[Finding, ...]]:
    """Lay out what inference generates, and messages of other roles where they are shown first."""
    roles = [message["role"] for message in conversation.messages]
    answers = [index for index in trained if roles[index] == "assistant"]
    others = [index for index in trained if roles[index] != "assistant"]
    if not answers:
        return _by_whole_text(conversation, trained, setting)
    turns, left_out = derive_turns(conversation, setting, answers)
    tokenized = tokenize_turns(
        turns, _tokenizer(setting), setting.stops.ids, boundary=setting.policy.boundary
    )
    check_control_ids(tokenized, setting)
    shared, not_shared = share_examples(tokenized, setting.policy)
    groups = [Group(group[-1], tuple(group)) for group in shared]
    groups, not_there = _with_others(groups, others, setting)
    return groups, (*left_out, *not_shared, *not_there)


def _not_there(indices: Iterable[int], why: str) -> tuple[Finding, ...]:
    return tuple(Finding("message_not_shown", f"not trained: {why}", index) for index in indices)


def _with_others(
    groups: Sequence[Group], others: Sequence[int], setting: Setting
) -> tuple[list[Group], tuple[Finding, ...]]:
    """Add each message of another role to the first example that shows it."""
    added: list[Group] = []
    left = list(others)
    for group in groups:
        found = {index: message_in(group.base, index, setting.stops) for index in left}
        turns = [turn for turn in found.values() if turn is not None]
        left = [index for index, turn in found.items() if turn is None]
        ordered = sorted([*group.turns, *turns], key=lambda turn: turn.prompt_length)
        added.append(Group(group.base, tuple(ordered)))
    return added, _not_there(left, "no example shows this message")


def _by_whole_text(
    conversation: Conversation, trained: Mapping[int, float], setting: Setting
) -> tuple[list[Group], tuple[Finding, ...]]:
    """Lay out messages, or what the template tags, in the whole rendering."""
    whole = Beginnings.of(conversation, setting).whole
    refuse_surrogates(whole)
    base = whole_text(whole, _tokenizer(setting))
    refuse_control_tokens([base.turn], conversation, setting)
    findings: tuple[Finding, ...] = ()
    if setting.policy.spans == "tags":
        turns = [
            t for t in tagged_in(base, whole, setting.stops) if t.turn.message_index in trained
        ]
        findings = _held_against_inference(turns, conversation, trained, setting)
        found_by = {finding.message_index for finding in findings}
        lost = [index for index in _missing(trained, turns) if index not in found_by]
        findings += _not_there(lost, "no {% generation %} block holds this message")
    else:
        messages = conversation.messages
        found = (
            message_in(base, index, setting.stops, is_answer=messages[index]["role"] == "assistant")
            for index in trained
        )
        turns = [turn for turn in found if turn is not None]
        findings = _not_there(
            _missing(trained, turns), "the template shows nothing of this message"
        )
    check_control_ids([base], setting)
    return [Group(base, tuple(turns))], findings


def _missing(trained: Mapping[int, float], turns: Sequence[TokenizedTurn]) -> list[int]:
    shown = {turn.turn.message_index for turn in turns}
    return [index for index in trained if index not in shown]


def _held_against_inference(
    tagged: Sequence[TokenizedTurn],
    conversation: Conversation,
    trained: Mapping[int, float],
    setting: Setting,
) -> tuple[Finding, ...]:
    """Return where tags hold something else than inference generates, or why that is not known."""
    roles = [message["role"] for message in conversation.messages]
    answers = [index for index in trained if roles[index] == "assistant"]
    try:
        generated = derive_turns(conversation, setting, answers)[0] if answers else []
    except LossmaskError as error:  # the tags do not need it
        index = answers[0] if error.message_index is None else error.message_index
        detail = f"what inference generates cannot be told, to compare the tags: {error.detail}"
        return (Finding("tags_differ", detail, index),)
    return differing_tags(tagged, generated)


def _tokenizer(setting: Setting) -> AnyTokenizer:
    if setting.policy.control_tokens == "escape":
        return escaping(setting.tokenizer, setting.stops)
    return setting.tokenizer
