"""What the demo says is what came out."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("torch")

from lossmask.demo import Arm, DemoResult, epochs_until_right
from lossmask.demo_display import verdict


def arm(*accuracies: float) -> Arm:
    return Arm("an arm", accuracies, epochs_until_right(accuracies), 10, 1.0, ())


@pytest.mark.parametrize(
    ("masked", "full", "sentence"),
    [
        (arm(0.0, 0.9, 1.0), arm(0.0, 0.1, 0.2, 1.0), "right after 2 epochs; .*: it needed 3"),
        (arm(0.0, 0.9, 1.0), arm(0.0, 0.2, 0.4), "after 2 epochs it had 40% right"),
        (arm(0.0, 0.5), arm(0.0, 0.6), "completions only: 50% against 60%"),
    ],
)
def test_the_verdict_says_what_came_out(masked: Arm, full: Arm, sentence: str) -> None:
    assert re.search(sentence, verdict(DemoResult(0, 100, masked, full, ())))
