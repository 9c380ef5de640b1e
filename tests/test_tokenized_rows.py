from typing import Any

import numpy as np
import pytest

from lossmask.errors import ConversationError
from lossmask.layout import Layout
from lossmask.tokenized_rows import tokens_row

IDS = [5, 6, 7, 8]


@pytest.mark.parametrize(
    ("columns", "weights"),
    [
        ({}, [1.0, 1.0, 1.0, 1.0]),
        ({"labels": [-100, 6, -100, 8]}, [0.0, 1.0, 0.0, 1.0]),
        ({"loss_weights": [0, 0.5, 0.0, -1]}, [0.0, 0.5, 0.0, -1.0]),
        ({"loss_mask": [0, 1, 0, True]}, [0.0, 1.0, 0.0, 1.0]),
        ({"assistant_masks": [0, 1, 0, 1]}, [0.0, 1.0, 0.0, 1.0]),
        (
            {"completion_mask": [0, 1, 0, 1], "labels": [-100, 6, -100, 8]},
            [0.0, 1.0, 0.0, 1.0],
        ),
        (
            {"labels": [-100, 6, -100, 8], "loss_weights": [0.0, 0.5, 0.0, 2.0]},
            [0.0, 0.5, 0.0, 2.0],
        ),
    ],
)
def test_every_column_says_the_weights(columns: dict[str, Any], weights: list[float]) -> None:
    expected = {"input_ids": IDS, "loss_weights": weights}
    assert tokens_row({"input_ids": IDS, **columns}, Layout()) == expected
    arrays = {key: np.array(value) for key, value in {"input_ids": IDS, **columns}.items()}
    assert tokens_row(arrays, Layout()) == expected


def test_padding_at_the_end_is_taken_off() -> None:
    row = {"input_ids": IDS, "labels": [-100, 6, -100, -100], "attention_mask": [1, 1, 1, 0]}
    assert tokens_row({**row, "weight": 2}, Layout()) == {
        "input_ids": [5, 6, 7],
        "loss_weights": [0.0, 1.0, 0.0],
        "weight": 2.0,
    }


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"labels": [-100, 6, 7, 8], "loss_weights": [0, 1, 0, 1]},
            "'labels' and 'loss_weights' disagree at token 2: it is in the loss by",
        ),
        ({"labels": [-100, 6, 6, 8]}, "'labels' is 6 at token 2; expected -100 or the token 7"),
        ({"labels": [-100, 6]}, "'labels' has 2 entries, 'input_ids' 4"),
        ({"loss_weights": [0, 1, "a", 1]}, "'loss_weights/2' must be a finite number"),
        ({"loss_mask": [0, 1, 2, 1]}, "'loss_mask/2' must be true or false, got int 2"),
        ({"attention_mask": [0, 1, 1, 1]}, "'attention_mask' is 0 at token 0, before tokens"),
        ({"attention_mask": [1, 1, 1, 0]}, "token 3 is in the loss, but 'attention_mask'"),
        ({"labels": "x"}, "'labels' must be a list of numbers, got a string"),
    ],
)
def test_columns_that_do_not_fit_are_refused(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(ConversationError, match=message):
        tokens_row({"input_ids": IDS, **columns}, Layout())


@pytest.mark.parametrize("token", [True, 1.0, -1, "a"])
def test_ids_are_whole_numbers(token: object) -> None:
    with pytest.raises(
        ConversationError, match=r"'input_ids' is .* at token 1; expected a token id"
    ):
        tokens_row({"input_ids": [5, token]}, Layout())
