"""Options -> a policy and a fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from lossmask import Fit, Policy, PolicyError
from lossmask.command_options import encoder_source, read_fit, read_policy


def test_keys_and_values() -> None:
    given = [
        "weights.prompt=0.1",
        "weights.tool_calls.name=2",
        "stop=last",
        "ignore=[5, 'yes', 'no']",
        'loss_scale={"[0-9]+": 2}',
    ]
    assert read_policy(given, {}) == Policy(
        weights={"prompt": 0.1, "tool_calls.name": 2},
        stop="last",
        ignore=(5, "yes", "no"),
        loss_scale={"[0-9]+": 2},
    )
    assert read_policy(["train_on=assistant,tool"], {}) == Policy(train_on=("assistant", "tool"))
    assert read_policy([], {"train_on": "last_turn", "history": None}) == Policy(
        train_on="last_turn"
    )


def test_later_ones_win_and_flags_over_all(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("stop: never\nhistory: last\nweights: {prompt: 1, content: 2}\n")
    given = [str(path), "stop=last", "weights.prompt=0.5"]
    assert read_policy(given, {"history": "error"}) == Policy(
        stop="last", history="error", weights={"prompt": 0.5, "content": 2}
    )
    assert read_policy(["stop=last", str(path)], {}).stop == "never"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("stpo=last", "policy has no key 'stpo'; did you mean 'stop'?"),
        ("weights.promt=1", "weights has no part 'promt'; did you mean 'prompt'?"),
        ("ignore=[yes]", "ignore has True; give token ids or texts (in YAML, yes and no are"),
        ("stop.x=1", "policy stop is "),
        ("ignore=[", "--policy 'ignore=[': the value is not YAML"),
        ("nowhere.yaml", "cannot read the policy 'nowhere.yaml'"),
    ],
)
def test_what_is_no_policy_is_refused(given: str, message: str) -> None:
    with pytest.raises(PolicyError) as info:
        read_policy([given], {})
    assert message in str(info.value)


def test_a_value_is_not_taken_for_a_mapping() -> None:
    with pytest.raises(PolicyError, match="weights is 3 already, not a mapping"):
        read_policy(["weights=3", "weights.prompt=1"], {})


def test_a_fit_is_put_together_like_a_policy(tmp_path: Path) -> None:
    path = tmp_path / "fit.yaml"
    path.write_text("max_length: 100\ntruncation: keep_end\n")
    none = {"max_length": None, "truncation": None, "cut_reply": None}
    assert read_fit([], none) == Fit()
    assert read_fit([str(path), "max_length=200", "cut_reply=drop"], none) == Fit(
        200, "keep_end", "drop"
    )
    assert read_fit([str(path)], {**none, "max_length": 300, "truncation": "drop"}) == Fit(
        300, "drop"
    )
    with pytest.raises(PolicyError, match="fit has no key 'length'"):
        read_fit(["length=3"], none)


def test_the_source_of_an_encoder_holds_the_fit() -> None:
    source = encoder_source(
        "t",
        chat_template=None,
        stop=None,
        template_var=None,
        layout=None,
        policy=None,
        fit=["max_length=5"],
        truncation="drop",
    )
    assert source.fit == Fit(5, "drop")
