"""Which messages are trained."""

from __future__ import annotations

from typing import Any

import pytest

from lossmask import ConversationError, Policy
from lossmask.conversation import read_conversation
from lossmask.trained_messages import trained_messages
from tests.scenarios import assistant, system, tool, user

MESSAGES = [
    system("s"),
    user("q"),
    assistant("a"),
    user("q"),
    assistant("a"),
    tool("t"),
    assistant("a"),
]


@pytest.mark.parametrize(
    ("train_on", "expected"),
    [
        ("all_assistant", [2, 4, 6]),
        ("last_assistant", [6]),
        ("last_turn", [4, 6]),
        ("all", [0, 1, 2, 3, 4, 5, 6]),
        (("assistant", "tool"), [2, 4, 5, 6]),
        (("user",), [1, 3]),
    ],
)
def test_the_policy_chooses(train_on: Any, expected: list[int]) -> None:
    found = trained_messages(read_conversation(MESSAGES), Policy(train_on=train_on))
    assert found == dict.fromkeys(expected, 1.0)


def test_the_data_wins_over_the_policy() -> None:
    messages = [
        user("q") | {"weight": 0.5},
        assistant("a", train=True),
        user("q") | {"train": False},
        assistant("a", weight=0),
        assistant("a"),
    ]
    found = trained_messages(read_conversation(messages), Policy(train_on="last_assistant"))
    assert found == {0: 0.5, 1: 1.0, 4: 1.0}


def test_a_range_trains_a_message_of_weight_zero() -> None:
    ranged = assistant("a b", weight=0, weights=[{"start": 0, "end": 1, "weight": 2}])
    masked = assistant("a b", weight=0, weights=[{"start": 0, "end": 1, "weight": 0}])
    found = trained_messages(read_conversation([user("q"), ranged, masked]), Policy())
    assert found == {1: 0.0}


@pytest.mark.parametrize(
    ("messages", "policy", "reason"),
    [
        ([user("q"), system("s")], Policy(), "no_assistant"),
        ([user("q"), assistant("a", train=False)], Policy(), "nothing_to_train"),
        ([user("q"), assistant("a")], Policy(train_on=("tool",)), "nothing_to_train"),
        ([assistant("a"), user("q")], Policy(train_on="last_turn"), "nothing_to_train"),
    ],
)
def test_nothing_to_train_is_refused(messages: Any, policy: Policy, reason: str) -> None:
    with pytest.raises(ConversationError) as info:
        trained_messages(read_conversation(messages), policy)
    assert info.value.reason == reason
