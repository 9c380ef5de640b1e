"""A fit holds what would decide something, and says what is wrong with anything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lossmask import Fit, PolicyError


def test_by_default_an_example_may_have_any_length() -> None:
    assert Fit().to_mapping() == {"max_length": None, "truncation": "error", "cut_reply": "mask"}
    assert Fit().admits(10**9)


def test_an_example_of_max_length_tokens_still_fits() -> None:
    assert [Fit(max_length=3).admits(length) for length in (2, 3, 4)] == [True, True, False]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"max_length": 9, "truncation": "keep_strat"},
            "truncation is 'keep_strat'; did you mean 'keep_start'? allowed: error, drop, "
            "keep_start, keep_end, drop_turns",
        ),
        (
            {"max_length": 9, "truncation": "keep_end", "cut_reply": "masc"},
            "cut_reply is 'masc'; did you mean 'mask'? allowed: mask, drop, train",
        ),
        ({"max_lenght": 9}, "fit has no key 'max_lenght'; did you mean 'max_length'?"),
        ({"max_length": 1}, "max_length is 1; give a whole number of tokens, at least 2"),
        ({"max_length": True}, "max_length is True; give a whole number of tokens"),
        ({"max_length": "9"}, "max_length is '9'; give a whole number of tokens"),
        (
            {"truncation": "drop"},
            "truncation is 'drop', but no max_length says which examples are too long",
        ),
        (
            {"max_length": 9, "truncation": "drop_turns", "cut_reply": "train"},
            "cut_reply is 'train', but truncation='drop_turns' cuts no reply; keep_start and "
            "keep_end do",
        ),
    ],
)
def test_what_would_decide_nothing_or_is_unknown_is_refused(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(PolicyError) as raised:
        Fit.from_mapping(values)
    assert message in str(raised.value)


def test_a_fit_is_read_from_yaml_and_back_from_a_manifest(tmp_path: Path) -> None:
    path = tmp_path / "fit.yaml"
    path.write_text("max_length: 2048\ntruncation: keep_start\ncut_reply: train\n")
    fit = Fit.from_yaml(path)
    assert fit == Fit(max_length=2048, truncation="keep_start", cut_reply="train")
    assert Fit.from_mapping(fit.to_mapping()) == fit
