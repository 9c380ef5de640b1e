"""A policy is checked when it is made, and unknown words name the nearest known one."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from lossmask import Policy, PolicyError
from lossmask.policy import nearest


def test_the_defaults_train_every_turn_as_it_was_generated() -> None:
    assert Policy().to_mapping() == {
        "train_on": "all_assistant",
        "history": "expand",
        "boundary": "inference",
        "control_tokens": "error",
        "append_stop": "history",
    }


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"train_on": "last_assistant"},
        {"history": "last"},
        {"history": "as_rendered", "boundary": "include", "append_stop": "eos"},
        {"history": "error", "control_tokens": "escape"},
    ],
)
def test_a_mapping_there_and_back_is_the_same_policy(values: dict[str, Any]) -> None:
    policy = Policy.from_mapping(values)
    assert policy == Policy(**values)
    assert Policy.from_mapping(policy.to_mapping()) == policy
    assert pickle.loads(pickle.dumps(policy)) == policy


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"train_on": "all_asistant"},
            "policy train_on is 'all_asistant'; did you mean 'all_assistant'? "
            "allowed: all_assistant, last_assistant",
        ),
        ({"history": "zzz"}, "policy history is 'zzz'; allowed: expand, last, as_rendered, error"),
        ({"history": None}, "policy history is None; allowed: expand, last, as_rendered, error"),
        ({"control_tokens": ["error"]}, "policy control_tokens is ['error']; "),
        ({"train_on": True}, "policy train_on is True; allowed: all_assistant, last_assistant"),
        (
            {"histroy": "last"},
            "policy has no key 'histroy'; did you mean 'history'? "
            "allowed: train_on, history, boundary, control_tokens, append_stop",
        ),
    ],
)
def test_unknown_keys_and_values_name_the_nearest(values: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError) as info:
        Policy.from_mapping(values)
    assert message in str(info.value)
    assert info.value.reason == "bad_policy"


def test_the_constructor_checks_too() -> None:
    with pytest.raises(PolicyError, match="did you mean 'expand'"):
        Policy(history="expant")  # type: ignore[arg-type]


def test_a_policy_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'history'"):
        Policy().history = "last"  # type: ignore[misc]


def test_nearest_is_silent_where_nothing_is_near() -> None:
    assert nearest("x", ["alpha", "beta"]) == "allowed: alpha, beta"
    many = [f"name{number}" for number in range(99)] + ["alpha"]
    assert nearest("alpa", many) == "did you mean 'alpha'?"
    assert nearest("alpa", ("alpha", "beta")) == "did you mean 'alpha'? allowed: alpha, beta"
