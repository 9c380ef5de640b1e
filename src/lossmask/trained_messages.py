"""Which messages are in the loss, by the policy and by what the data says itself."""

from __future__ import annotations

from lossmask.conversation import Conversation
from lossmask.errors import ConversationError
from lossmask.policy import Policy


def trained_messages(conversation: Conversation, policy: Policy) -> dict[int, float]:
    """Return the messages that are trained, ascending, each with its weight.

    A weight in the data wins over the policy, whatever the role. A message that is out of the loss
    but for a range of its characters has weight 0.

    Raises:
        ConversationError: There is none.
    """
    chosen = _chosen_by(conversation, policy)
    weights: dict[int, float] = {}
    for index, given in enumerate(conversation.weights):
        weight = float(index in chosen) if given is None else given
        ranges = conversation.ranges.get(index, ())
        if weight or any(each.weight for each in ranges):
            weights[index] = weight
    if not weights:
        raise _nothing(conversation, policy)
    return weights


def _chosen_by(conversation: Conversation, policy: Policy) -> frozenset[int]:
    """Return the messages that the policy trains where the data says nothing."""
    roles = [message["role"] for message in conversation.messages]
    train_on = policy.train_on
    if train_on == "all":
        return frozenset(range(len(roles)))
    if isinstance(train_on, tuple):
        return frozenset(index for index, role in enumerate(roles) if role in train_on)
    assistants = [index for index, role in enumerate(roles) if role == "assistant"]
    if train_on == "last_assistant":
        return frozenset(assistants[-1:])
    if train_on == "last_turn":
        last_user = max((i for i, role in enumerate(roles) if role == "user"), default=-1)
        return frozenset(index for index in assistants if index > last_user)
    return frozenset(assistants)


def _nothing(conversation: Conversation, policy: Policy) -> ConversationError:
    has_assistant = any(message["role"] == "assistant" for message in conversation.messages)
    if has_assistant or isinstance(policy.train_on, tuple):
        return ConversationError(
            f"no message is to be trained: what train_on={policy.train_on!r} chooses has weight 0 "
            'or "train": false',
            reason="nothing_to_train",
        )
    return ConversationError(
        "no message has the role 'assistant': there is nothing to train on", reason="no_assistant"
    )
