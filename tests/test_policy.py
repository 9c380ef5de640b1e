"""A policy is checked when it is made, and unknown words name the nearest known one."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from lossmask import Policy, PolicyError
from lossmask.policy import nearest


def test_the_defaults_train_every_turn_as_it_was_generated() -> None:
    assert Policy().to_mapping() == {
        "train_on": "all_assistant",
        "weights": {},
        "loss_scale": (),
        "ignore": (),
        "ignore_probability": 0.8,
        "stop": "train",
        "empty_think": "train",
        "spans": "contract",
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
        {"train_on": ("assistant", "tool"), "weights": {"prompt": 0.1, "tool_calls.name": 2.0}},
        {"loss_scale": {"Action:": (1.0, 2.0)}, "ignore": (5, "</s>")},
        {"loss_scale": "hermes+ignore_empty_think"},
        {"stop": "last", "empty_think": "ignore", "spans": "tags", "ignore_probability": 0.5},
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
            "allowed: all_assistant, last_assistant, last_turn, all, system, developer, user, "
            "assistant, tool, function",
        ),
        ({"train_on": []}, "policy train_on is []; give one of all_assistant, last_assistant, "),
        ({"train_on": ["asistant"]}, "policy train_on has 'asistant'; did you mean 'assistant'?"),
        ({"weights": {"promt": 1}}, "policy weights has no part 'promt'; did you mean 'prompt'?"),
        ({"weights": {"prompt": "1"}}, "policy weights['prompt'] is '1'; give a number"),
        ({"weights": {"stop": float("nan")}}, "policy weights['stop'] is nan; give a number"),
        ({"weights": [1]}, "policy weights is [1]; expected a weight for each part"),
        ({"loss_scale": {"a": [1, 2, 3]}}, "loss_scale: 'a' is [1, 2, 3]; expected 1 or 2 numbers"),
        ({"loss_scale": "herms"}, "unknown loss_scale 'herms'; did you mean 'hermes'?"),
        ({"ignore": [1.5]}, "policy ignore has 1.5; give token ids or texts"),
        ({"ignore": None}, "policy ignore is None; give token ids or texts"),
        ({"ignore_probability": 1.5}, "policy ignore_probability is 1.5; give a number from 0 to"),
        ({"history": "zzz"}, "policy history is 'zzz'; allowed: expand, last, as_rendered, error"),
        ({"history": None}, "policy history is None; allowed: expand, last, as_rendered, error"),
        ({"control_tokens": ["error"]}, "policy control_tokens is ['error']; "),
        ({"train_on": True}, "policy train_on is True; give one of all_assistant, last_"),
        (
            {"histroy": "last"},
            "policy has no key 'histroy'; did you mean 'history'? "
            "allowed: train_on, weights, loss_scale, ignore, ignore_probability, stop, "
            "empty_think, spans, history, boundary, control_tokens, append_stop",
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


def test_a_finer_part_wins_over_the_group() -> None:
    policy = Policy(weights={"tool_calls": 0.5, "tool_calls.name": 2})
    assert [policy.weight_of(f"tool_calls.{part}") for part in ("name", "arguments", "syntax")] == [
        2.0,
        0.5,
        0.5,
    ]
    assert (policy.weight_of("content"), policy.weight_of("prompt")) == (1.0, 0.0)


def test_equal_policies_are_equal_however_they_are_written() -> None:
    read = Policy.from_mapping
    assert read({"train_on": "tool"}) == Policy(train_on=("tool",))
    roles = ["user", "assistant", "user"]
    assert read({"train_on": roles}) == Policy(train_on=("assistant", "user"))
    assert read({"ignore": "x"}) == Policy(ignore=("x",))


def test_a_policy_is_read_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("train_on: [assistant, tool]\nweights: {prompt: 0.1}\nignore: [5, yes!]\n")
    assert Policy.from_yaml(path) == Policy(
        train_on=("assistant", "tool"), weights={"prompt": 0.1}, ignore=(5, "yes!")
    )
    path.write_text("")
    assert Policy.from_yaml(path) == Policy()
    path.write_text("weigths: {}")
    with pytest.raises(PolicyError, match="no key 'weigths'; did you mean 'weights'"):
        Policy.from_yaml(path)
    path.write_text("- a")
    with pytest.raises(PolicyError, match="expected a policy as keys and values, got list"):
        Policy.from_yaml(path)
    path.write_text("a: [")
    with pytest.raises(PolicyError, match="cannot read the policy"):
        Policy.from_yaml(path)


def test_a_policy_is_read_from_an_axolotl_configuration() -> None:
    config = {"datasets": [{"path": "x", "roles_to_train": ["assistant"], "train_on_eos": "last"}]}
    assert Policy.from_axolotl(config) == Policy(stop="last")
    with pytest.raises(PolicyError, match="train_on_eos"):
        Policy.from_axolotl({"train_on_eos": "sometimes"})
