"""Which tokens count as learned, which carry the loss, and what the loss is without them."""

from __future__ import annotations

import numpy as np
import pytest

from lossmask.command_options import read_policy
from lossmask.errors import PolicyError, PreparedDataError
from lossmask.learned_tokens import Learned, by_difficulty, find_learned, ignore_setting
from lossmask.probed_tokens import ProbedTokens


def probed(
    *tokens: tuple[int, float, int, float], examples: list[int] | None = None
) -> ProbedTokens:
    """Make tokens of (id, loss, rank, weight)."""
    ids, losses, ranks, weights = (np.array(values) for values in zip(*tokens, strict=True))
    n = len(tokens)
    return ProbedTokens(
        example=np.array(examples or [0] * n, np.int32),
        position=np.arange(1, n + 1, dtype=np.int32),
        token=ids.astype(np.int32),
        weight=weights.astype(np.float32),
        loss=losses.astype(np.float32),
        rank=ranks.astype(np.int32),
        top_ids=np.zeros((n, 1), np.int32),
        top_logprobs=np.zeros((n, 1), np.float32),
    )


EASY, RARE, LUCKY, HARD, OUT = 7, 8, 9, 10, 11
TOKENS = probed(
    *[(EASY, 0.01, 0, 1.0)] * 20,
    *[(RARE, 0.01, 0, 1.0)] * 4,  # too few
    *[(LUCKY, 0.01, 0, 1.0)] * 18,  # not first in 95 % of its places
    *[(LUCKY, 0.2, 1, 1.0)] * 2,
    *[(HARD, 3.0, 5, 1.0)] * 2,
    *[(OUT, 9.0, 9, 0.0)] * 9,  # not in the loss
)


def test_a_kind_is_learned_by_its_count_its_mean_loss_and_its_rank() -> None:
    found = find_learned(TOKENS, stop_ids=[EASY])
    [learned] = found.learned
    assert (learned.token, learned.count, learned.first, learned.is_stop) == (EASY, 20, 1.0, True)
    assert learned.mean_loss == pytest.approx(0.01)
    assert {each.token for each in find_learned(TOKENS, criterion=Learned(count=4)).learned} == {
        EASY,
        RARE,
    }
    tokens = {each.token for each in find_learned(TOKENS, criterion=Learned(first=0.9)).learned}
    assert tokens == {EASY, LUCKY}
    assert not find_learned(TOKENS, criterion=Learned(mean_loss=0.009)).learned


def test_the_loss_is_told_with_and_without_learned_tokens() -> None:
    found = find_learned(TOKENS)
    whole = 20 * 0.01 + 4 * 0.01 + 18 * 0.01 + 2 * 0.2 + 2 * 3.0
    assert found.tokens == 46
    assert found.loss == pytest.approx(whole / 46)
    assert found.loss_without == pytest.approx((whole - 0.2) / 26)
    assert found.learned_tokens == 20
    assert found.learned_loss_share == pytest.approx(0.2 / whole)
    assert found.first == pytest.approx(42 / 46)
    assert find_learned(probed(*[(EASY, 0.01, 0, 1.0)] * 9)).loss_without is None


def test_the_fewest_kinds_carry_the_loss() -> None:
    found = find_learned(TOKENS)
    [carrying] = found.carrying
    assert (carrying.token, carrying.count) == (HARD, 2)
    assert carrying.loss_share == pytest.approx(6 / 6.82)
    assert found.carrying_kinds_of == 4
    assert found.carried_by == pytest.approx(2 / 46)  # 6.0 of 6.82 is 88 %, 3.0 were 44 %


def test_weights_count_in_the_loss_as_they_do_in_training() -> None:
    found = find_learned(probed((1, 2.0, 1, 0.5), (2, 1.0, 1, -1.0), (3, 4.0, 1, 2.0)))
    assert found.loss == pytest.approx((1.0 - 1.0 + 8.0) / 3.5)
    shares = {each.token: each.loss_share for each in found.carrying}
    assert shares == {3: pytest.approx(0.8)}


def test_the_loss_is_told_by_part() -> None:
    parts = np.array(["a", "b", "b", "out"])
    tokens = probed((1, 2.0, 0, 1.0), (2, 1.0, 1, 1.0), (3, 4.0, 0, 3.0), (4, 1.0, 0, 0.0))
    found = find_learned(tokens, parts=parts).parts
    assert {name: (part.tokens, part.loss, part.first) for name, part in found.items()} == {
        "a": (1, 2.0, 1.0),
        "b": (2, 13 / 4, 0.5),
    }


def test_the_setting_is_a_policy_that_ignores_these_and_what_was_ignored() -> None:
    found = find_learned(TOKENS, criterion=Learned(count=4))
    setting = ignore_setting(found.learned, {"ignore": ["Yes\n", RARE, "é"]})
    assert setting == 'ignore=["Yes\\n", 8, "é", 7]'
    assert read_policy([setting], {}).ignore == ("Yes\n", 8, "é", 7)
    assert ignore_setting(found.learned, {"ignore": [EASY, RARE]}) is None
    assert ignore_setting([]) is None


def test_examples_are_ordered_by_their_mean_loss() -> None:
    tokens = probed((1, 1.0, 0, 1.0), (1, 9.0, 0, 0.0), (1, 2.0, 0, 1.0), (1, 3.0, 0, 1.0),
                    examples=[0, 0, 2, 5])  # fmt: skip
    assert by_difficulty(tokens) == [5, 2, 0]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(PolicyError, match=r"first in 1\.5 of 5 places"):
        Learned(first=1.5)
    with pytest.raises(PreparedDataError, match="none of the tokens probed is in the loss"):
        find_learned(probed((1, 1.0, 0, 0.0)))
