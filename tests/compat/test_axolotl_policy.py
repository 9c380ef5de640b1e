"""What Axolotl says of the loss, as keywords of a policy; or an error."""

from __future__ import annotations

import re
from typing import Any

import pytest

from lossmask import PolicyError
from lossmask.compat import policy_keywords_from_axolotl

EVERY_ROLE = ["system", "user", "assistant", "tool"]


@pytest.mark.parametrize(
    ("config", "train_on", "stop"),
    [
        ({}, "all_assistant", "train"),
        ({"roles_to_train": None, "train_on_eos": None}, "all_assistant", "train"),
        ({"roles_to_train": ["assistant"]}, "all_assistant", "train"),
        ({"roles_to_train": ["gpt"], "train_on_eos": "turn"}, "all_assistant", "train"),
        ({"roles_to_train": ["gpt", "human"]}, ("assistant", "user"), "train"),
        ({"roles_to_train": ["tool", "assistant"]}, ("assistant", "tool"), "train"),
        ({"roles_to_train": ["bot"], "roles": {"assistant": ["bot"]}}, "all_assistant", "train"),
        ({"roles_to_train": ["bot"], "roles": {"tool": "bot"}}, ("tool",), "train"),
        ({"train_on_eos": "last"}, "all_assistant", "last"),
        ({"train_on_eos": "none"}, "all_assistant", "never"),
        ({"train_on_eos": False, "train_on_eot": False}, "all_assistant", "never"),
        ({"train_on_eos": "last", "train_on_eot": "last"}, "all_assistant", "last"),
        ({"train_on_inputs": True}, "all", "train"),
        ({"train_on_inputs": True, "train_on_eos": "all"}, "all", "train"),
        ({"roles_to_train": EVERY_ROLE, "train_on_eos": "all"}, tuple(sorted(EVERY_ROLE)), "train"),
        ({"train_on_inputs": False, "learning_rate": 1e-5}, "all_assistant", "train"),
        ({"message_field_training": "train", "eot_tokens": []}, "all_assistant", "train"),
        ({"message_field_training_detail": "train_detail"}, "all_assistant", "train"),
    ],
)
def test_the_keywords(config: dict[str, Any], train_on: Any, stop: str) -> None:
    expected = {"train_on": train_on, "stop": stop}
    assert policy_keywords_from_axolotl(config) == expected
    assert policy_keywords_from_axolotl({"datasets": [config]}) == expected


def test_a_dataset_has_its_own_say_and_what_is_said_for_all() -> None:
    config = {"train_on_inputs": True, "datasets": [{"train_on_eos": "last", "path": "x"}]}
    assert policy_keywords_from_axolotl(config) == {"train_on": "all", "stop": "last"}


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"train_on_eos": "all"}, "train_on_eos is 'all', but not all roles are trained"),
        ({"train_on_eos": "first"}, "train_on_eos is 'first'; expected all, turn, last or none"),
        ({"train_on_eos": True}, "train_on_eos is True; expected"),
        ({"train_on_eot": "last"}, "train_on_eos is 'turn' and train_on_eot 'last'"),
        ({"train_on_inputs": "no"}, "train_on_inputs is 'no'; expected true or false"),
        ({"roles_to_train": "assistant"}, "roles_to_train is 'assistant'; expected a list"),
        ({"roles_to_train": []}, "roles_to_train is empty"),
        ({"roles_to_train": [1]}, "roles_to_train is [1]"),
        ({"train_on_split": "x"}, "train_on_split concerns the loss"),
        ({"message_field_training": "learn"}, "rename that key of the messages to 'train'"),
        ({"message_field_training_detail": "x"}, "to 'train_detail'"),
        ({"eot_tokens": ["</s>"]}, "give them to the encoder as stop_tokens"),
        ({"datasets": {"path": "x"}}, "datasets has to be a list of mappings"),
        ({"datasets": [{}, {"train_on_eos": "last"}]}, "datasets 0 and 1 ask for different losses"),
        ([], "expected a mapping, as YAML holds it, got list"),
    ],
)
def test_what_a_policy_cannot_say_is_an_error(config: Any, named: str) -> None:
    with pytest.raises(PolicyError, match=re.escape(named)):
        policy_keywords_from_axolotl(config)
