from typing import Any

import pytest

from lossmask.errors import ConversationError
from lossmask.weight_keys import (
    check_no_stray_loss,
    one_weight,
    row_weight,
    string_at,
    with_weights,
)


def said(**keys: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": "abcdef", **keys}


@pytest.mark.parametrize(
    ("keys", "weight"),
    [
        ({}, None),
        ({"weight": 0}, 0.0),
        ({"weight": -0.5}, -0.5),
        ({"loss_weight": 2.5}, 2.5),
        ({"loss_scale": 0.25}, 0.25),
        ({"train": False}, 0.0),
        ({"trainable": True}, 1.0),
        ({"training": 0}, 0.0),
        ({"loss": False}, 0.0),
        ({"loss": True}, 1.0),
        ({"loss": 0.3}, 0.3),
        ({"loss_mask": 1}, 1.0),
        ({"loss_mask": 0}, 0.0),
        ({"masked": True}, 0.0),
        ({"masked": False}, 1.0),
        ({"weight": None, "train": None}, None),
        ({"train": True, "weight": 0.5}, 0.5),
        ({"weight": 0.5, "masked": False, "loss": True}, 0.5),
        ({"weight": 0.5, "loss_scale": 0.5}, 0.5),
    ],
)
def test_every_name_becomes_one_weight(keys: dict[str, Any], weight: float | None) -> None:
    expected = said() if weight is None else said(weight=weight)
    result = with_weights(said(**keys), 0)
    assert result == expected
    if weight is not None:
        assert type(result["weight"]) is float


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"train": True, "weight": 0}, "'weight' is 0 but 'train' is True: they contradict"),
        ({"weight": 0.5, "loss_weight": 1}, "'weight' is 0.5 but 'loss_weight' is 1"),
        ({"loss": 0.0, "masked": False}, "'masked' is False but 'loss' is 0.0"),
        ({"train": True, "loss_mask": 0}, "'train' is True but 'loss_mask' is 0"),
    ],
)
def test_keys_that_disagree_are_both_named(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConversationError, match=message) as caught:
        with_weights(said(**keys), 4)
    assert (caught.value.reason, caught.value.message_index) == ("contradicting_weights", 4)


def test_a_list_is_no_loss_mask_of_a_message() -> None:
    with pytest.raises(ConversationError, match="'loss_mask' must be true or false, got a list"):
        with_weights(said(loss_mask=[0, 1]), 0)


def test_parts_with_a_weight_become_ranges() -> None:
    message = said(
        content=[
            {"type": "text", "text": "abc", "train": False},
            {"type": "text", "text": "de"},
            {"type": "text", "text": "f", "weight": 0.5},
            {"type": "text", "text": "", "weight": 2},
        ]
    )
    result = with_weights(message, 0)
    assert result["content"] == [
        {"type": "text", "text": "abc"},
        {"type": "text", "text": "de"},
        {"type": "text", "text": "f"},
        {"type": "text", "text": ""},
    ]
    assert result["weights"] == [
        {"path": "content/0/text", "start": 0, "end": 3, "weight": 0.0},
        {"path": "content/2/text", "start": 0, "end": 1, "weight": 0.5},
    ]
    assert message["content"][0]["train"] is False, "the row given is not changed"


def test_a_picture_cannot_have_a_weight() -> None:
    with pytest.raises(ConversationError, match="part 0 of 'content' has a weight but no 'text'"):
        with_weights(said(content=[{"type": "image", "train": True}]), 0)


def test_axolotls_end_offsets_are_inclusive_and_gaps_are_not_trained() -> None:
    details = [
        {"begin_offset": 0, "end_offset": 1, "train": True},
        {"begin_offset": 3, "end_offset": 3, "train": False},
        {"begin_offset": 4, "end_offset": 4, "train": True},
    ]
    assert with_weights(said(train_detail=details), 0) == said(
        weight=1.0,
        weights=[
            {"path": "content", "start": 2, "end": 4, "weight": 0.0},
            {"path": "content", "start": 5, "end": 6, "weight": 0.0},
        ],
    )


def test_details_under_a_weight() -> None:
    details = [{"begin_offset": 0, "end_offset": 2, "train": True}]
    out = [{"path": "content", "start": 3, "end": 6, "weight": 0.0}]
    assert with_weights(said(train_detail=details, weight=0.5), 0) == said(weight=0.5, weights=out)
    assert with_weights(said(train_detail=[]), 0) == said(weight=0.0)
    assert with_weights(said(train_detail=[], train=True), 0) == said(weight=1.0)
    with pytest.raises(ConversationError, match="out of the loss, but 'train_detail' has a range"):
        with_weights(said(train_detail=details, train=False), 0)


@pytest.mark.parametrize(
    ("details", "message"),
    [
        ([{"begin_offset": 0, "end_offset": 6, "train": True}], "from 0 to 7 does not lie inside"),
        ([{"begin_offset": 2, "end_offset": 1, "train": True}], "from 2 to 2 does not lie inside"),
        ([{"begin_offset": 0, "end_offset": 2}], "has 'begin_offset', 'end_offset' and 'train'"),
        ([{"begin_offset": True, "end_offset": 2, "train": True}], "from True to 3"),
        (
            [
                {"begin_offset": 0, "end_offset": 2, "train": True},
                {"begin_offset": 2, "end_offset": 3, "train": False},
            ],
            "two ranges of weights overlap: 0 to 3 with weight 1, 2 to 4 with weight 0",
        ),
        ({"begin_offset": 0}, "must be a list of objects, got an object"),
    ],
)
def test_details_that_do_not_fit_are_refused(details: object, message: str) -> None:
    with pytest.raises(ConversationError, match=message):
        with_weights(said(train_detail=details), 0)


def test_details_count_the_characters_of_a_string() -> None:
    details = [{"begin_offset": 0, "end_offset": 0, "train": True}]
    with pytest.raises(ConversationError, match="'content', which must be a string, got a list"):
        with_weights(said(content=[], train_detail=details), 0)
    with pytest.raises(ConversationError, match="say the same thing twice"):
        with_weights(said(train_detail=details, training_detail=details), 0)


def test_ranges_are_sorted_and_touching_ones_of_one_weight_joined() -> None:
    ranges = [
        {"start": 2, "end": 3, "weight": 1},
        {"path": "reasoning_content", "start": 0, "end": 1, "weight": 0.5},
        {"start": 0, "end": 2, "weight": 1.0},
        {"start": 3, "end": 4, "weight": 0},
    ]
    assert with_weights(said(reasoning_content="r", weights=ranges), 0)["weights"] == [
        {"path": "content", "start": 0, "end": 3, "weight": 1.0},
        {"path": "content", "start": 3, "end": 4, "weight": 0.0},
        {"path": "reasoning_content", "start": 0, "end": 1, "weight": 0.5},
    ]


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ([{"start": 0, "end": 7, "weight": 1}], "from 0 to 7 does not lie inside the 6"),
        ([{"start": 1, "end": 1, "weight": 1}], "from 1 to 1 does not lie inside"),
        ([{"start": 0, "end": 1}], "a range of 'weights' has"),
        ([{"start": 0, "end": 1, "weight": 1, "x": 2}], "a range of 'weights' has"),
        ([{"path": "thinking", "start": 0, "end": 1, "weight": 1}], "the path 'thinking', where"),
        ([{"path": 3, "start": 0, "end": 1, "weight": 1}], "the path 3, where"),
        ("all", "'weights' must be a list of objects"),
    ],
)
def test_ranges_that_do_not_fit_are_refused(ranges: object, message: str) -> None:
    with pytest.raises(ConversationError, match=message):
        with_weights(said(weights=ranges), 0)


def test_a_path_leads_to_a_string_or_to_none() -> None:
    message = {"tool_calls": [{"function": {"arguments": {"q": "x"}, "name": "f"}}]}
    assert string_at(message, "tool_calls/0/function/arguments/q") == "x"
    assert string_at(message, "tool_calls/1/function/name") is None
    assert string_at(message, "tool_calls/0/function") is None


@pytest.mark.parametrize("key", ["loss_mask", "trainable", "loss_weights", "train", "loss"])
def test_a_loss_key_that_nothing_would_obey_is_refused(key: str) -> None:
    check_no_stray_loss({"text": "a", "weight": 2, "loss": 1.5, "train": "split", "masked": None})
    with pytest.raises(ConversationError, match=f"the row has '{key}', which is read on messages"):
        check_no_stray_loss({"text": "a", key: False})


def test_a_rows_weight_has_three_names() -> None:
    assert row_weight({"sample_weight": 2}) == 2.0
    assert row_weight({"weight": 2, "loss_weight": 2.0}) == 2.0
    assert row_weight({"text": "x"}) is None
    with pytest.raises(ConversationError, match="'weight' is 1 but 'sample_weight' is 2"):
        row_weight({"sample_weight": 2, "weight": 1})
    with pytest.raises(
        ConversationError, match="must be a finite number of float32, got bool True"
    ):
        one_weight({"weight": True}, ("weight",), None)
