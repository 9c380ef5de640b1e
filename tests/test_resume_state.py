"""A state resumes exactly, or is refused with what differs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lossmask.errors import PolicyError
from lossmask.resume_state import place_of, saved_state

SETTINGS = {"seed": 7, "last": None}


def place(state: dict[str, Any], **changes: Any) -> tuple[int, int]:
    settings = {**SETTINGS, **changes}
    return place_of(state, settings, order=lambda epoch: 100 + epoch, batches=lambda epoch: 6)


def test_a_state_is_plain_data_and_leads_back_to_its_place() -> None:
    state = saved_state(2, 3, 102, SETTINGS)
    assert state == {"epoch": 2, "position": 3, "order": 102, "seed": 7, "last": None}
    assert place(json.loads(json.dumps(state))) == (2, 3)
    assert place(state | {"position": 6}) == (2, 6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 8}, "has seed 8, and here it is 7"),
        ({"last": "drop"}, "has last 'drop', and here it is None"),
        ({"position": 7}, "at batch 7 of 6"),
        ({"position": -1}, "at batch -1 of 6"),
        ({"order": 101}, "the order of epoch 2 is not that which the state was saved with"),
    ],
)
def test_a_state_of_something_else_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        place(saved_state(2, 3, 102, SETTINGS) | changes)


def test_what_is_no_state_is_refused() -> None:
    with pytest.raises(PolicyError, match=r"has no 'last'; it has \['epoch', 'order', 'position'"):
        place({"epoch": 1, "position": 0, "order": 101, "seed": 7})
